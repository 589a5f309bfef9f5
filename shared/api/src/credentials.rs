//! How often, and at whose word, a login is replaced by another with a new password.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a login and its password are replaced. Two logins take turns: the former one stays open until nothing uses
/// it, so that no application notices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The age at which credentials are replaced, in hours, minutes and seconds: 720h, 36h30m. At least 1h. They are
    /// replaced up to a fifth of it earlier, so that those made together are not all replaced together. Unset: they
    /// are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 20), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h')").message("rotationInterval must be at least 1h, such as 720h"))]
    pub rotation_interval: Option<String>,
    /// Any text, a date or a ticket's number say. The credentials are replaced once whenever it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rotation_trigger: Option<String>,
}

/// The credentials that are in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsStatus {
    /// Since when the login that the status names is the one in use.
    pub rotated_at: Time,
    /// The rotationTrigger that was honoured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The login that was in use before, while it is open: until no process of a fleet and no session on the server uses
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_login: Option<String>,
    /// How often in a row the login was replaced because its Secret had been deleted or its password modified. The first time
    /// it is replaced at once, later after delays that grow up to an hour; an hour without such a loss ends the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_secrets: Option<i32>,
}
