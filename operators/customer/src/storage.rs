//! How much storage a database has: what the Customer says, never less than what is in force. Pure.
//!
//! A Customer that leaves its storage out has the Plan's default when the database is created, and keeps it: taking the
//! field out changes nothing. It grows when the default is raised, also by another Plan.

use ahoi_api::{Customer, Plan, Size};

use crate::features::chain::Chain;
use crate::features::database::DatabaseFeature;
use crate::features::feature::Feature;
use crate::held::{Held, stays};

const DEFAULT_STORAGE: &str = "10Gi";
const FIELD: &str = "database.storage";

/// The storage of a database that is on.
pub struct Storage {
    /// None: nothing that could be used, and nothing is in force.
    pub size: Option<Size>,
    /// The default in bytes, as of now.
    pub default: Option<i64>,
}

/// The storage where neither Customer nor Plan says anything.
pub fn built_in() -> Size {
    Size::from(DEFAULT_STORAGE)
}

/// The storage that the customer's data has, also while its feature is off.
pub fn in_force(customer: &Customer, chain: &Chain) -> Option<Size> {
    if let Some(database) = &chain.database {
        return Some(database.spec.storage.clone());
    }
    let status = customer.status.as_ref().filter(|status| status.database_retained)?;
    status.storage_bytes.map(Size::from_bytes)
}

/// The storage that the database shall have. What is not applied goes to `held`.
pub fn resolve(customer: &Customer, plan: Option<&Plan>, chain: &Chain, held: &mut Vec<Held>) -> Storage {
    let kept = in_force(customer, chain);
    let own = customer.spec.features.database.as_ref().and_then(|f| f.storage.as_ref());
    let planned = plan.and_then(|plan| plan.spec.features.database.as_ref()?.storage.as_ref());
    let default = planned.cloned().unwrap_or_else(built_in);
    let default_bytes = default.bytes().ok();

    let text = kept.as_ref().map(Size::to_string);
    let mut refuse = |reason, message: String| {
        let message = format!("{message}; {}", stays(DatabaseFeature::NAME, FIELD, text.clone()));
        held.push(Held::of(DatabaseFeature::NAME, reason, message));
        kept.clone()
    };
    let kept_bytes = kept.as_ref().and_then(|kept| kept.bytes().ok());
    let size = match (own, kept_bytes) {
        (Some(own), _) => match own.bytes() {
            Err(error) => refuse("InvalidSize", format!("spec.features.{FIELD}: {error}")),
            Ok(bytes) if kept_bytes.is_some_and(|kept| bytes < kept) => {
                let has = text.clone().unwrap_or_default();
                refuse(
                    "StorageCannotShrink",
                    format!(
                        "spec.features.{FIELD} is {own} and the database has {has}, which cannot shrink: set it to at least \
                         {has}, or take it out"
                    ),
                )
            }
            Ok(_) => Some(own.clone()),
        },
        (None, Some(kept_bytes)) => {
            let was = customer.status.as_ref().and_then(|status| status.default_storage_bytes);
            let is_raised = default_bytes > was && was.is_some() && default_bytes > Some(kept_bytes);
            if is_raised { Some(default) } else { kept.clone() }
        }
        (None, None) => match default.bytes() {
            Err(error) => refuse("InvalidSize", format!("spec.features.{FIELD} of the Plan: {error}")),
            Ok(_) => Some(default),
        },
    };
    Storage { size, default: default_bytes }
}
