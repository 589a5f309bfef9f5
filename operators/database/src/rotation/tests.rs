use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

const A: &str = "c_3f2504e04f89_a";
const B: &str = "c_3f2504e04f89_b";

/// The process may die between the write of the Secret and that of the status.
#[test]
fn the_status_follows_the_published_login() {
    let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let request = Request { rotation_request: Some("two".into()), ..Request::default() };
    let status = CredentialsStatus {
        rotated_at: Time("2026-02-01T00:00:00Z".parse().unwrap()),
        rotation_request: Some("one".into()),
        previous_login: None,
        lost_secrets: None,
    };
    let of = |known, status| in_use(Some(&request), known, B, status, now);
    assert_eq!(of(Some(B), Some(&status)), status);
    let died = of(Some(A), Some(&status));
    assert_eq!(
        (died.previous_login.as_deref(), died.rotation_request.as_deref()),
        (Some(A), Some("one")),
        "the trigger is still due"
    );
    let first = of(None, None);
    assert_eq!((first.previous_login, first.rotation_request.as_deref(), first.rotated_at.0), (None, Some("two"), now));
}

#[test]
fn only_clients_whose_secret_has_changed_should_restart() {
    assert!(!Kept::Unproved("main".into()).explain(A).contains("restart"), "its Secret has not changed");
    assert!(Kept::ConnectionPool("main".into()).explain(A).contains("restart"));
}
