use ahoi_api::CredentialsStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::testing::secret;

const NAME: &str = "c_3f2504e04f89";
const A: &str = "c_3f2504e04f89_a";
const B: &str = "c_3f2504e04f89_b";

#[test]
fn temporary_files_follow_the_storage() {
    assert_eq!(temporary_kilobytes(0), 64 * 1024);
    assert_eq!(temporary_kilobytes(8 << 30), 2 << 20);
    assert_eq!(temporary_kilobytes(i64::MAX), 2_147_483_647, "what PostgreSQL can store");
}

#[test]
fn the_secret_decides_which_login_is_in_use() {
    let status = |login: &str, previous: Option<&str>| DatabaseStatus {
        login: Some(login.into()),
        credentials: Some(CredentialsStatus {
            rotated_at: Time("2026-03-01T00:00:00Z".parse().unwrap()),
            rotation_request: None,
            previous_login: previous.map(Into::into),
            lost_secrets: None,
        }),
        ..DatabaseStatus::default()
    };
    let of = |status: &DatabaseStatus, username: Option<&str>| {
        let binding = username.map(|username| secret("acme-database", &[("username", username)]));
        let (names, other) = logins(status, binding.as_ref(), NAME);
        (names.login, other)
    };
    assert_eq!(of(&DatabaseStatus::default(), None), (A.into(), OtherLogin::Closed));
    assert_eq!(of(&status(A, None), Some(A)), (A.into(), OtherLogin::Closed));
    assert_eq!(of(&status(B, Some(A)), Some(B)), (B.into(), OtherLogin::Former));
    assert_eq!(of(&status(B, None), Some(B)), (B.into(), OtherLogin::Closed));
    assert_eq!(of(&status(B, Some(A)), None), (B.into(), OtherLogin::Former), "the Secret was deleted");
    assert_eq!(of(&status(B, None), Some("postgres")), (B.into(), OtherLogin::Closed), "the Secret was modified");
    assert_eq!(of(&status(A, None), Some(B)), (B.into(), OtherLogin::Former), "the status was not written");
}
