//! When a login is replaced by another one with a new password.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When the password of a login is replaced. There are two logins: the former one stays open until nothing uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Maximum age of the credentials, in hours, minutes and seconds, for example 720h or 36h30m. At least 1h. A
    /// rotation starts up to a fifth of the interval earlier, so that credentials of the same age are not rotated at
    /// once. Unset: no rotation by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 20), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h')").message("rotationInterval must be at least 1h, such as 720h"))]
    pub rotation_interval: Option<String>,
    /// Rotates the credentials once each time this value changes. Any string, for example a date or a ticket number.
    /// Unset: no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rotation_request: Option<String>,
}

/// State of the credentials in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsStatus {
    /// Time of the last rotation.
    pub rotated_at: Time,
    /// Last rotationRequest that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_request: Option<String>,
    /// Former login, while it is open: until no pgbouncer process and no session on the server uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_login: Option<String>,
    /// Number of consecutive replacements of the login because its Secret was deleted or its password modified. The
    /// first replacement is immediate; the delay before the next ones grows up to an hour. It restarts at 0 after an
    /// hour without a loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_secrets: Option<i32>,
}
