use super::*;

fn object(kind: &str, uid: &str, extra: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind,
        "metadata": {"name": RECORDED, "uid": uid, "resourceVersion": "7", "managedFields": []}});
    for (key, value) in extra.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

fn recorded() -> Recorded {
    let customer = object("Customer", "uid-of-customer", json!({"status": {"summary": "1/1"}}));
    let mut namespace = object("Namespace", "uid-of-namespace", json!({"spec": {"finalizers": ["kubernetes"]}}));
    namespace["metadata"]["labels"] = json!({"owner": "uid-of-customer", "customer": RECORDED});
    namespace["metadata"]["annotations"] = json!({"mark": "of Ahoi"});
    namespace["metadata"]["ownerReferences"] = json!([{"uid": "uid-of-customer"}]);
    let group = format!("/apis/{}/customers", ahoi_api_version());
    let objects = vec![(How::Create, group, customer), (How::Create, "/api/v1/namespaces".into(), namespace)];
    steps(objects, &BTreeSet::from(["customers".into()]))
}

#[test]
fn names_and_uids_become_placeholders() {
    let steps = recorded().steps;
    assert_eq!(steps.iter().map(|step| step.how).collect::<Vec<_>>(), [How::Create, How::Create, How::Status]);
    assert!(steps[0].referenced && !steps[1].referenced);
    let namespace: Value = serde_json::from_str(&steps[1].body).unwrap();
    let labels = json!({"owner": "@UID0@", "customer": NAME});
    let metadata = json!({"name": NAME, "labels": labels, "ownerReferences": [{"uid": "@UID0@"}],
        "annotations": {"mark": "of Ahoi"}});
    assert_eq!(namespace, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    assert!(steps[2].path.ends_with("/customers/@NAME@/status?fieldManager=ahoi-bench"), "{}", steps[2].path);
    assert_eq!(steps[2].body, r#"{"status":{"summary":"1/1"}}"#);
}

#[test]
fn recorded_children_do_not_refer_to_ahoi() {
    let children = recorded().children().unwrap();
    let metadata = json!({"name": NAME, "labels": {"customer": NAME}});
    assert_eq!(children, [json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})]);
}

#[test]
fn children_of_the_suites_kinds_have_the_status_they_end_with() {
    let of = |resource: &str| format!("/apis/{}/{resource}", ahoi_api_version());
    let (customer, child) = (object("Customer", "uid-of-customer", json!({})), json!({"status": {"ready": RECORDED}}));
    let objects = vec![
        (How::Create, of("customers"), customer),
        (How::Create, of("customernamespaces"), object("CustomerNamespace", "uid-of-child", child)),
    ];
    let children = steps(objects, &BTreeSet::from(["customernamespaces".into()])).children().unwrap();
    assert_eq!(children.iter().map(|child| &child["status"]).collect::<Vec<_>>(), [&json!({"ready": NAME})]);
}

#[test]
fn places_in_the_order_of_the_first_object() {
    let request = |verb: &str, group: &str, resource: &str, namespace: &str| Request {
        verb: verb.into(),
        user: serde_json::from_value(json!({"username": "x"})).unwrap(),
        object_ref: ObjectRef {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            ..ObjectRef::default()
        },
        uri: String::new(),
    };
    let requests = [
        request("create", "", "namespaces", "n"),
        request("patch", "", "serviceaccounts", "n"),
        request("create", "events.k8s.io", "events", "n"),
        request("create", "apps", "deployments", "n"),
        request("create", "apps", "deployments", "n"),
        request("update", "apps", "statefulsets", "n"),
    ];
    let places = [
        (How::Create, "/api/v1/namespaces"),
        (How::Apply, "/api/v1/namespaces/n/serviceaccounts"),
        (How::Create, "/apis/apps/v1/namespaces/n/deployments"),
    ];
    assert_eq!(collections(&requests), places.map(|(how, place)| (how, place.to_owned())));
}
