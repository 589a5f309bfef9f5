//! The stage `apply`: changes the server and the binding Secret to what is desired, and records events.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use ahoi_api::{CredentialsStatus, EventReason};
use ahoi_reconcile::{Error, EventType, is_ready};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tracing::{info, warn};

use super::desired::{Desired, LoginAction};
use super::logins::Logins;
use super::observe::measure;
use super::references::References;
use crate::context::Context;
use crate::growth::Growth;
use crate::postgres::desired::OtherLogin;
use crate::postgres::execute;
use crate::postgres::plan::TEMPORARY_FILES;
use crate::postgres::scram::Credentials;
use crate::postgres::step::{Step, Topic};
use crate::quota::Level;
use crate::rotation::{self, Kept};
use crate::secret;

/// What was done.
pub struct Applied {
    /// The published binding Secret; none while the login keeps its password without a Secret.
    pub binding: Option<Arc<Secret>>,
    /// The login in use.
    pub login: String,
    /// Status of its credentials.
    pub credentials: CredentialsStatus,
    /// Why a former login is open.
    pub former: Option<String>,
    /// Size of the database in bytes.
    pub size: i64,
}

/// Applies what is desired.
pub async fn apply(context: &Context, references: &References, desired: &Desired) -> Result<Applied, Error> {
    let (names, instance) = (&references.names, &references.instance);
    let logins = Logins { context, references, access: desired.level.into() };
    if desired.former_level == Level::Closed && desired.level == Level::Exceeded {
        execute::freeze_again(&instance.postgres, names).await?;
    }
    if references.other == OtherLogin::Former && desired.other == OtherLogin::Closed {
        rotation::record_closed(&logins, &names.other);
    }
    // A lost Secret is not written again for the same login: clients keep the password while they change over.
    let (mut binding, steps) = match &desired.login {
        LoginAction::Publish(credentials) | LoginAction::Rotate(credentials) => {
            let credentials = credentials.clone().map_or_else(Credentials::generate, Ok)?;
            let (binding, steps) = logins.converge(desired.other, &credentials).await?;
            (Some(binding), steps)
        }
        LoginAction::Hold(_) => (None, logins.converge_without_secret(desired.other).await?),
        LoginAction::Replace { .. } => (None, Vec::new()),
    };
    let (mut login, mut credentials) = (names.login.clone(), desired.credentials.clone());
    let mut former = desired.kept.as_ref().map(|kept| kept.explain(&names.other));
    if matches!(desired.login, LoginAction::Rotate(_) | LoginAction::Replace { .. }) {
        binding = Some(logins.rotate().await?);
        let database = &references.database;
        let known = database.status.as_ref().and_then(|status| status.credentials.as_ref());
        let now = jiff::Timestamp::now();
        credentials = rotation::begun(database.spec.credentials.as_ref(), known, Some(login.clone()), now);
        former = Some(Kept::Recent.explain(&login));
        login.clone_from(&names.other);
    }
    if let LoginAction::Replace { losses } = desired.login {
        credentials.lost_secrets = i32::try_from(losses.saturating_add(1)).ok();
    }
    let size = measure_changes(references, desired).await?;
    record_events(context, references, desired, binding.as_deref(), steps);
    Ok(Applied { binding, login, credentials, former, size })
}

/// The size of the database. After a change of the level, its growth counts from the present size on.
async fn measure_changes(references: &References, desired: &Desired) -> Result<i64, Error> {
    let (instance, name) = (&references.instance, &references.names.database);
    let measured = instance.memory.lock().sizes.get(name).copied();
    let reported = references.database.status.as_ref().and_then(|status| status.size_bytes);
    let size = match measured.or(reported) {
        Some(size) => size,
        None => measure(instance, name).await?,
    };
    if desired.former_level != desired.level {
        instance.memory.lock().growth.remove(name);
        if desired.level == Level::Exceeded {
            let size = measure(instance, name).await?;
            instance.memory.lock().growth.insert(name.clone(), Growth::from(size, Instant::now()));
        }
    }
    Ok(size)
}

fn record_events(
    context: &Context,
    references: &References,
    desired: &Desired,
    binding: Option<&Secret>,
    steps: Vec<Step>,
) {
    let database = &*references.database;
    match (&desired.login, binding) {
        (LoginAction::Replace { .. }, Some(binding)) => {
            let note = format!(
                "Secret {} was deleted or modified; created a new login with a new password",
                binding.name_any()
            );
            context.platform.event(database, EventType::Warning, EventReason::PasswordReplaced, note);
            context.metrics.password_changes.inc();
        }
        (_, binding) => {
            binding.into_iter().for_each(|binding| record_reverted_secret(context, references, binding));
            record_steps(context, references, desired, steps);
        }
    }
}

/// Records that changes of a Secret with the right password were reverted.
fn record_reverted_secret(context: &Context, references: &References, now: &Secret) {
    let (Some(before), Some(known)) = (&references.binding, references.known_version()) else { return };
    if known == secret::version(now) && known != secret::version(before) {
        let note = format!("reverted changes of Secret {}", now.name_any());
        context.platform.event(&*references.database, EventType::Warning, EventReason::Repaired, note);
    }
}

/// Records another level of the quota, or that changes by others were reverted.
fn record_steps(context: &Context, references: &References, desired: &Desired, mut steps: Vec<Step>) {
    let (database, name) = (&*references.database, &references.instance.name);
    if steps.iter().any(|step| matches!(step, Step::CreateDatabase { .. })) {
        context.metrics.provisioned.inc();
    }
    if desired.former_level != desired.level {
        let (reason, note) = desired.level.explain();
        let type_ = if desired.level == Level::Within { EventType::Normal } else { EventType::Warning };
        info!(server = name, database = references.names.database, %reason, "the level of the quota changed");
        context.platform.event(database, type_, reason, note);
        return;
    }
    // To close a former login or to set a default reverts nothing.
    steps.retain(|step| match step {
        Step::NoLogin { role } => *role != references.names.other,
        Step::Set { parameter, .. } => parameter != TEMPORARY_FILES,
        _ => true,
    });
    let topics: BTreeSet<Topic> = steps.iter().map(Step::topic).collect();
    if !is_ready(database) || topics.is_empty() {
        return;
    }
    topics.iter().for_each(|topic| context.metrics.repaired(topic.as_str()));
    let what = topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(", ");
    warn!(server = name, database = references.names.database, what, "reverted changes by others");
    let note = format!("reverted changes on DatabaseServer {name}: {what}");
    context.platform.event(database, EventType::Warning, EventReason::Repaired, note);
}
