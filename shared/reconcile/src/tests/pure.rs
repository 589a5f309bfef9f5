//! The parts that know no server.

use std::time::Duration;

use axum::body::Body;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::response::{StatusCause, StatusDetails};
use kube::core::{ObjectMeta, Status};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Ship, ShipSpec};
use crate::cache::Cache;
use crate::conditions::{Condition, Verdict, find, keep_history, set_verdict};
use crate::desired::{Desired, difference, hash, same_quantity};
use crate::error::{Class, Error};
use crate::http::{Stage, Stages, router};
use crate::requeue::{Failures, after_error};
use crate::testing::{self, ApiServer, settled};
use crate::{is_ready, not_ready_message};

fn differs(desired: Value, live: Value) -> Option<String> {
    difference(&desired, &live, &mut Vec::new())
}

#[test]
fn defaults_of_the_api_server_are_no_difference() {
    let live =
        json!({"spec": {"replicas": 1, "template": {"containers": [{"name": "a", "imagePullPolicy": "Always"}]}}});
    assert_eq!(differs(json!({"spec": {"template": {"containers": [{"name": "a"}]}}}), live.clone()), None);
    assert_eq!(differs(json!({"spec": {"selector": null, "volumes": [], "affinity": {"a": {}}}}), live.clone()), None);
    let path = differs(json!({"spec": {"template": {"containers": [{"name": "b"}]}}}), live.clone());
    assert_eq!(path.as_deref(), Some(".spec.template.containers.[].name"));
    let two = json!({"spec": {"template": {"containers": [{"name": "a"}, {"name": "b"}]}}});
    assert_eq!(differs(two, live).as_deref(), Some(".spec.template.containers"));
}

#[test]
fn a_removed_field_is_a_difference_even_if_it_is_false() {
    assert!(differs(json!({"allowPrivilegeEscalation": false}), json!({})).is_some());
    assert!(differs(json!({"replicas": 0}), json!({"replicas": 1})).is_some());
}

#[test]
fn quantities_are_compared_by_value_where_kubernetes_has_quantities() {
    for (one, other) in [
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1024Mi", "1Gi"),
        ("1e3", "1k"),
        ("256Gi", "274877906944"),
        ("1.5Gi", "1536Mi"),
    ] {
        assert!(same_quantity(one, other), "{one} = {other}");
        let limits = |value: &str| json!({"resources": {"limits": {"cpu": value}}});
        assert_eq!(differs(limits(one), limits(other)), None);
    }
    for (one, other) in [("1", "2"), ("1G", "1Gi"), ("x", "y"), ("", "0"), ("1Q", "1"), ("1e999", "1e999x")] {
        assert!(!same_quantity(one, other), "{one} ≠ {other}");
    }
    assert!(differs(json!({"data": {"a": "1000m"}}), json!({"data": {"a": "1"}})).is_some(), "elsewhere text is text");
}

#[test]
fn the_hash_depends_on_the_content_only() {
    let one: Value = serde_json::from_str(r#"{"a": 1, "b": {"c": [1, "x"], "d": null, "e": {}}}"#).unwrap();
    let same: Value = serde_json::from_str(r#"{"b": {"c": [1, "x"]}, "a": 1}"#).unwrap();
    assert_eq!(hash(&one), hash(&same));
    for other in [
        r#"{"a": 1, "b": {"c": ["x", 1]}}"#,
        r#"{"a": "1", "b": {"c": [1, "x"]}}"#,
        r#"{"a": 1, "b": {"c": [[1], "x"]}}"#,
    ] {
        assert_ne!(hash(&one), hash(&serde_json::from_str(other).unwrap()), "{other}");
    }
}

#[test]
fn typed_objects_survive_the_comparison() {
    let cron_job = |schedule: &str, extra: Value| -> CronJob {
        let container = json!({"name": "a", "image": "b", "resources": {"limits": {"cpu": "1000m"}}});
        let mut spec =
            json!({"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": {"containers": [container]}}}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    };
    let desired = |schedule| Desired::new(cron_job(schedule, json!({}))).unwrap();
    let mut live = cron_job("* * * * *", json!({"suspend": false, "concurrencyPolicy": "Allow"}));
    live.metadata.annotations = desired("* * * * *").object.metadata.annotations;
    assert_eq!(desired("* * * * *").difference(&live).unwrap(), None);
    let mut with_status = desired("* * * * *");
    with_status.object.status = Some(Default::default());
    with_status.object.status.as_mut().unwrap().active = Some(vec![Default::default()]);
    assert_eq!(with_status.difference(&live).unwrap(), None, "a status is not ours to apply");
    assert_eq!(desired("0 * * * *").difference(&live).unwrap().as_deref(), Some(".spec.schedule"));
}

fn refusal(code: u16, details: Option<StatusDetails>) -> Error {
    let mut status = Status::failure("no", "").with_code(code);
    status.details = details;
    Error::Kube(kube::Error::Api(status.boxed()))
}

fn details(kind: &str, reason: &str) -> Option<StatusDetails> {
    let cause = StatusCause { reason: reason.to_owned(), message: String::new(), field: String::new() };
    let (name, group, uid) = Default::default();
    Some(StatusDetails { name, group, kind: kind.to_owned(), uid, causes: vec![cause], retry_after_seconds: 0 })
}

#[test]
fn errors_of_the_api_server_have_the_class_of_who_can_resolve_them() {
    let waiting = refusal(403, details("configmaps", "NamespaceTerminating"));
    assert_eq!((waiting.class(), waiting.reason()), (Class::Waiting, "NamespaceTerminating"));
    assert_eq!(refusal(403, details("configmaps", "")).class(), Class::Structural);
    assert_eq!(refusal(422, details("CronJob", "FieldValueInvalid")).class(), Class::Structural);
    assert_eq!(refusal(422, None).class(), Class::Conflict, "the test of a JSON patch");
    assert_eq!(refusal(409, None).class(), Class::Conflict);
    for code in [401, 404, 410, 429, 500, 503, 504] {
        assert_eq!(refusal(code, None).class(), Class::Transient, "{code}");
    }
    let lost = Error::Kube(kube::Error::Service("connection refused".into()));
    assert_eq!((lost.class(), lost.to_string()), (Class::Transient, "the API server cannot be reached".to_owned()));
    assert_eq!(Error::Timeout.class(), Class::Transient);
    assert_eq!(Error::from(anyhow::anyhow!("inner").context("outer")).to_string(), "outer: inner");
}

#[test]
fn delays_grow_with_failures_are_capped_and_spread() {
    let within = |class, attempt, from: u64, to: u64| {
        for _ in 0..50 {
            let delay = after_error(class, attempt).as_millis();
            assert!((u128::from(from)..=u128::from(to)).contains(&delay), "{class:?} {attempt}: {delay} ms");
        }
    };
    within(Class::Transient, 0, 800, 1_200);
    within(Class::Transient, 3, 6_400, 9_600);
    within(Class::Transient, 4_000_000, 240_000, 360_000);
    within(Class::Waiting, 100, 24_000, 36_000);
    within(Class::Conflict, 0, 50, 250);
    within(Class::Conflict, 100, 10_000, 10_000);
    within(Class::Structural, 7, 240_000, 360_000);
    within(Class::Terminal, 7, 1_440_000, 2_160_000);
}

#[test]
fn failures_are_counted_by_uid_and_class_and_forgotten_on_success() {
    let failures = Failures::default();
    assert_eq!([failures.count("a", Class::Transient), failures.count("a", Class::Transient)], [0, 1]);
    assert_eq!(failures.count("b", Class::Transient), 0);
    assert_eq!(failures.count("a", Class::Waiting), 0, "another kind of trouble starts afresh");
    failures.forget("b");
    assert_eq!(failures.count("b", Class::Transient), 0);
}

#[test]
fn a_verdict_sets_the_three_conditions_and_setting_it_again_changes_nothing() {
    let mut conditions = Vec::new();
    let types = |conditions: &[Condition]| {
        let all = conditions.iter().map(|condition| format!("{}={}", condition.type_, condition.status));
        all.collect::<Vec<_>>().join(" ")
    };
    for (verdict, expected) in [
        (Verdict::progressing("Creating", "creating"), "Ready=False Reconciling=True"),
        (Verdict::stalled("NoPlan", "no plan"), "Ready=False Stalled=True"),
        (Verdict::ready("3/3"), "Ready=True"),
        (Verdict::stalled("NoPlan", "no plan"), "Ready=False Stalled=True"),
    ] {
        set_verdict(&mut conditions, 7, verdict.clone());
        assert_eq!(types(&conditions), expected);
        let before = conditions.clone();
        set_verdict(&mut conditions, Some(7), verdict);
        assert_eq!(conditions, before);
    }
    assert_eq!(find(&conditions, "Ready").unwrap().observed_generation, Some(7));
}

#[test]
fn new_conditions_keep_their_transition_times() {
    let mut old = Vec::new();
    set_verdict(&mut old, 1, Verdict::progressing("A", "a"));
    for condition in &mut old {
        condition.last_transition_time.0 = "2020-01-01T00:00:00Z".parse().unwrap();
    }
    let mut new = Vec::new();
    set_verdict(&mut new, 1, Verdict::progressing("A", "a"));
    new.reverse();
    keep_history(&old, &mut new);
    assert_eq!(new, old);
    let mut changed = Vec::new();
    set_verdict(&mut changed, 1, Verdict::ready("b"));
    keep_history(&old, &mut changed);
    assert_ne!(changed[0].last_transition_time, old[0].last_transition_time);
    old[0].last_transition_time = ahoi_api::NO_TRANSITION;
    keep_history(&old, &mut new);
    assert_ne!(new[0].last_transition_time, old[0].last_transition_time);
}

#[test]
fn a_child_is_ready_only_for_its_current_generation() {
    let mut ship = Ship::new("a", ShipSpec::default());
    ship.metadata.generation = Some(2);
    assert_eq!(not_ready_message(&ship), "Ship a: its controller has not seen the latest change yet");
    assert!(!is_ready(&ship));
    ship = testing::ready(ship);
    assert!(is_ready(&ship));
    ship.metadata.generation = Some(3);
    assert!(!is_ready(&ship), "that was about the spec before");
    ship = testing::ready(ship);
    ship.status.as_mut().unwrap().observed_generation = Some(2);
    assert!(!is_ready(&ship), "the status is of another generation");
    ship = settled(ship, Verdict::progressing("Building", ""));
    assert_eq!(not_ready_message(&ship), "Ship a: Building");
    ship = testing::ready(ship);
    ship.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!((is_ready(&ship), not_ready_message(&ship)), (false, "Ship a: is being deleted".to_owned()));
}

#[test]
fn a_cache_trims_objects_of_writes_and_of_watches() {
    let cache: Cache<Secret> = Cache::new(Box::new(|secret: &mut Secret| secret.data = None), false);
    let mut secret = Secret { data: Some([("password".to_owned(), Default::default())].into()), ..Secret::default() };
    secret.metadata.name = Some("a".into());
    secret.metadata.resource_version = Some("5".into());
    secret.metadata.managed_fields = Some(Vec::new());
    for seen in [cache.written(secret.clone()), {
        cache.observe(Event::Apply(secret));
        cache.get("a").unwrap()
    }] {
        assert_eq!((&seen.data, &seen.metadata.managed_fields), (&None, &None));
    }
}

#[tokio::test]
async fn a_standby_is_ready_and_a_leader_when_its_caches_are_complete() {
    let platform = ApiServer::new().platform();
    let cache: Cache<ConfigMap> = Cache::new(Box::new(|_| ()), false);
    platform.await_sync(&cache);
    let stages = Stages::default();
    let ask = |path: &'static str| {
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        let router = router(platform.clone(), stages.clone());
        async move {
            let answer = router.oneshot(request).await.unwrap();
            let code = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 100_000).await.unwrap();
            (code, String::from_utf8(body.to_vec()).unwrap())
        }
    };
    assert_eq!(ask("/livez").await.0, 200);
    assert_eq!(ask("/readyz").await, (503, "starting".to_owned()));
    stages.enter(Stage::Standby);
    assert_eq!(ask("/readyz").await.0, 200);
    stages.enter(Stage::Leading);
    assert_eq!(ask("/readyz").await, (503, "waiting for the list of ConfigMap".to_owned()));
    cache.observe(Event::Init);
    cache.observe(Event::InitDone);
    assert_eq!(ask("/readyz").await.0, 200);
    platform.metrics().ended("ship", "done", Duration::from_millis(3));
    let (code, metrics) = ask("/metrics").await;
    assert_eq!(code, 200);
    assert!(metrics.contains(r#"ahoi_reconciles_total{controller="ship",outcome="done"} 1"#), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
}

/// After a restart of the API server, all objects are listed again, page by page.
#[test]
fn a_cache_reports_whether_it_is_being_listed() {
    let cache: Cache<ConfigMap> = testing::cache([]);
    let look = || {
        let (maps, listing) = cache.all_and_listing();
        (maps.len(), listing)
    };
    assert_eq!(look(), (0, false));
    cache.observe(Event::Init);
    cache.observe(Event::InitApply(ConfigMap {
        metadata: ObjectMeta { name: Some("a".into()), namespace: Some("n".into()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }));
    assert_eq!(look(), (1, true));
    cache.observe(Event::InitDone);
    assert_eq!(look(), (1, false));
}

#[test]
fn an_object_that_is_too_large_is_stalled() {
    let refused =
        |code: u16, message: &str| Error::Kube(kube::Error::Api(Status::failure(message, "").with_code(code).boxed()));
    for (code, message) in [
        (500, "etcdserver: request is too large"),
        (
            500,
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2100000 vs. 2097152)",
        ),
        (413, "Request entity too large: limit is 3145728"),
    ] {
        let error = refused(code, message);
        assert_eq!((error.class(), error.reason()), (Class::Structural, "TooLarge"), "{message}");
        assert!(error.to_string().contains("1.5 MiB") && error.to_string().contains(message), "{error}");
    }
    assert_eq!(refused(500, "etcdserver: leader changed").class(), Class::Transient);
}
