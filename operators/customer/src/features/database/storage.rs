//! The storage of a database: as the Customer says, and never less than what is in force.
//!
//! A Customer without a storage gets the Plan's default when the database is created, and keeps it: removing the field changes
//! nothing. The storage grows when the default is raised, also by a change to another Plan.

use ahoi_api::{Customer, Reason, Size};
use kube::ResourceExt;

use crate::features::chain::Chain;
use crate::features::inputs::Inputs;
use crate::features::limits::Limit;
use crate::held::{Held, stays};

/// Name of the feature.
pub const FEATURE: &str = "database";
const DEFAULT_STORAGE: &str = "10Gi";
const FIELD: &str = "database.storage";

/// The storage of a database that is on.
pub struct Storage {
    /// `None`: no valid size is given, and none is in force.
    pub size: Option<Size>,
    /// The current default in bytes.
    pub default: Option<i64>,
}

/// The storage if neither Customer nor Plan sets it.
pub fn built_in() -> Size {
    Size::from(DEFAULT_STORAGE)
}

/// The storage of the customer's data, also while the feature is off.
pub fn in_force(customer: &Customer, chain: &Chain) -> Option<Size> {
    if let Some(database) = &chain.database {
        return Some(database.spec.storage.clone());
    }
    let status = customer.status.as_ref().filter(|status| status.database_retained)?;
    status.storage_bytes.map(Size::from_bytes)
}

/// The desired storage of the database. What cannot be applied is added to `held`.
pub fn resolve(inputs: &Inputs<'_>, held: &mut Vec<Held>) -> Storage {
    let customer = inputs.customer;
    let kept = in_force(customer, inputs.in_force);
    let settings = inputs.settings(|features| features.database.as_ref());
    let own = settings.own.and_then(|f| f.storage.as_ref());
    let default = settings.planned.and_then(|f| f.storage.clone()).unwrap_or_else(built_in);
    let default_bytes = default.bytes().ok();

    let text = kept.as_ref().map(Size::to_string);
    let mut refuse = |reason: Reason, message: String| {
        let message = format!("{message}; {}", stays(FEATURE, "storage", text.clone()));
        held.push(Held::of(FEATURE, reason, message));
        kept.clone()
    };
    let kept_bytes = kept.as_ref().and_then(|kept| kept.bytes().ok());
    let size = match (own, kept_bytes) {
        (Some(own), _) => match own.bytes() {
            Err(error) => refuse(Reason::InvalidSize, format!("spec.features.{FIELD}: {error}")),
            Ok(bytes) if kept_bytes.is_some_and(|kept| bytes < kept) => {
                let has = text.clone().unwrap_or_default();
                refuse(
                    Reason::StorageCannotShrink,
                    format!(
                        "spec.features.{FIELD} is {own} and the database has {has}, which cannot shrink: set it to at least \
                         {has}, or remove the field"
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
            Err(error) => refuse(Reason::InvalidSize, format!("spec.features.{FIELD} of the Plan: {error}")),
            Ok(_) => Some(default),
        },
    };
    Storage { size, default: default_bytes }
}

/// What is held back if `size` exceeds the Plan's limit.
pub fn limit(inputs: &Inputs<'_>, size: &Size) -> Option<Held> {
    let plan = inputs.plan?;
    let most = plan.spec.limits.max_storage.as_ref()?;
    let kept = in_force(inputs.customer, inputs.in_force);
    let text = kept.as_ref().map(Size::to_string);
    let allowed = match (size.bytes(), most.bytes()) {
        (Ok(bytes), Ok(allowed)) if bytes <= allowed => return None,
        (_, Ok(allowed)) => allowed,
        (_, Err(error)) => {
            let (name, stays) = (plan.name_any(), stays(FEATURE, "storage", text));
            let message = format!("spec.limits.maxStorage of the Plan {name}: {error}; {stays}");
            return Some(Held::of(FEATURE, Reason::InvalidSize, message));
        }
    };
    let settings = inputs.settings(|features| features.database.as_ref());
    let limit = Limit {
        plan,
        feature: FEATURE,
        field: "storage",
        limit: "maxStorage",
        most: most.to_string(),
        is_own: settings.own.is_some_and(|f| f.storage.is_some()),
    };
    // No value of the field would help.
    Some(match kept.filter(|kept| kept.bytes().is_ok_and(|kept| kept > allowed)) {
        Some(kept) => limit.exceeded_in_force(&kept.to_string()),
        None => limit.exceeded(&size.to_string(), text),
    })
}
