//! How conditions are read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Deserializer};

/// The transition time of a condition that has none, such as the one that a definition gives to a new object.
pub const NO_TRANSITION: Time = Time(Timestamp::UNIX_EPOCH);

/// Reads conditions, also those without a transition time, which the type of k8s-openapi refuses.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    let conditions = Vec::<Read>::deserialize(deserializer)?;
    Ok(conditions.into_iter().map(Condition::from).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    observed_generation: Option<i64>,
    last_transition_time: Option<Time>,
}

impl From<Read> for Condition {
    fn from(read: Read) -> Self {
        Self {
            type_: read.type_,
            status: read.status,
            reason: read.reason,
            message: read.message,
            observed_generation: read.observed_generation,
            last_transition_time: read.last_transition_time.unwrap_or(NO_TRANSITION),
        }
    }
}
