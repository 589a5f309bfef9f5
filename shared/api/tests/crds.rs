//! The definitions in `crds/` are what the code says, and what an API server can serve.

use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

fn crds() -> Vec<(String, CustomResourceDefinition)> {
    ahoi_api::crds().into_iter().map(|crd| (crd.spec.names.plural.clone(), crd)).collect()
}

/// Calls `look` with the path and the value of every node.
fn walk(path: &str, value: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, value);
    match value {
        Value::Object(map) => map.iter().for_each(|(key, child)| walk(&format!("{path}.{key}"), child, look)),
        Value::Array(items) => items.iter().for_each(|child| walk(path, child, look)),
        _ => {}
    }
}

#[test]
fn files_are_current() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    for (plural, crd) in crds() {
        let file = dir.join(format!("{plural}.yaml"));
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        let current = serde_saphyr::to_string(&crd).unwrap();
        assert!(written == current, "{} is stale: run `make crds`", file.display());
    }
}

/// The API server knows no unsigned formats (kubernetes/kubernetes#133880) and warns about them at every start.
#[test]
fn no_unsigned_formats() {
    for (plural, crd) in crds() {
        walk(&plural, &serde_json::to_value(&crd).unwrap(), &mut |path, value| {
            let format = value.get("format").and_then(Value::as_str).unwrap_or_default();
            assert!(!format.starts_with("uint"), "{path} has the format {format}");
        });
    }
}

/// What nothing can be made from is refused by the name of its field.
#[test]
fn every_quantity_has_a_pattern() {
    let mut found = 0;
    for (plural, crd) in crds() {
        walk(&plural, &serde_json::to_value(&crd).unwrap(), &mut |path, value| {
            if value.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                assert!(value.get("pattern").is_some(), "{path} has no pattern");
                found += 1;
            }
        });
    }
    assert!(found > 10, "{found} quantities");
}

/// `kubectl explain` describes every field of the spec and the status, and every value of an enum.
#[test]
fn every_field_and_every_value_is_explained() {
    let mut values = 0;
    for (plural, crd) in crds() {
        let json = serde_json::to_value(&crd).unwrap();
        let properties = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            assert!(properties[part].is_object(), "{plural} has no {part}");
            walk(&format!("{plural}.{part}"), &properties[part], &mut |path, value| {
                for (name, field) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    assert!(field.get("description").is_some(), "{path}.{name} has no description");
                }
                for member in value.get("enum").and_then(Value::as_array).into_iter().flatten() {
                    let member = member.as_str().unwrap_or_default();
                    // Condition is a type of Kubernetes.
                    let text = value["description"].as_str().unwrap_or_default();
                    assert!(
                        text.contains(&format!(" - `\"{member}\"`: ")),
                        "{path}: {member} is not described: {text}"
                    );
                    values += 1;
                }
            });
        }
    }
    assert!(values > 40, "{values} values");
}

#[test]
fn every_kind_has_its_columns_and_those_in_namespaces_are_in_the_category() {
    for (plural, crd) in crds() {
        // `kubectl get ahoi -n NAMESPACE` would list every customer of the cluster.
        let category = (crd.spec.scope == "Namespaced").then(|| vec!["ahoi".to_owned()]);
        assert_eq!(crd.spec.names.categories, category, "{plural}");
        for version in &crd.spec.versions {
            let columns: Vec<_> =
                version.additional_printer_columns.iter().flatten().map(|c| c.name.as_str()).collect();
            for column in ["Ready", "Since", "Status", "Age"] {
                assert!(columns.contains(&column), "{plural} has no column {column}: {columns:?}");
            }
        }
    }
}
