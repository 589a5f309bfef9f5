//! The stage `status`: what the Database reports, and when it is reconciled again. Pure.

use ahoi_api::{Binding, Database, DatabaseStatus, Reason};
use ahoi_reconcile::{Progress, Verdict, conditions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::adopt;
use super::apply::Applied;
use super::desired::{Desired, LoginAction, until};
use super::logins::recheck_after;
use super::references::References;
use crate::postgres::names::Names;
use crate::quota::{self, Level};
use crate::secret;

/// The status, and the delay until the next reconcile.
pub fn status(references: &References, desired: &Desired, applied: Applied) -> Progress<DatabaseStatus> {
    let (database, now) = (&*references.database, Timestamp::now());
    let Applied { binding, login, credentials, former, size } = applied;
    let mut status = database.status.clone().unwrap_or_default();
    if quota::is_news(status.size_bytes, size, desired.storage) {
        status.size_bytes = Some(size);
    }
    status.storage_bytes = Some(desired.storage);
    status.closed_until.clone_from(&desired.closed_until);
    status.login = Some(login);
    status.credentials = Some(credentials);
    if let Some(binding) = &binding {
        status.binding = Some(Binding { name: binding.name_any(), version: secret::version(binding) });
    }
    let generation = database.metadata.generation;
    let _ = conditions::set(&mut status.conditions, desired.level.condition().observed_generation(generation));
    let names = &references.names;
    let message = [
        Some(format!("database {} on DatabaseServer {}", names.database, references.server.name_any())),
        status.adopted.as_ref().map(adopt::explain),
        former,
        binding.as_deref().and_then(blocked_deletion),
    ];
    let verdict = match (desired.level, &desired.login) {
        (Level::Closed, _) => Verdict::stalled(desired.level.explain().0, desired.level.explain().1),
        (_, LoginAction::Hold(at)) => Verdict::progressing(Reason::SecretLost, lost_again(database, names, *at)),
        _ => Verdict::ready(message.into_iter().flatten().collect::<Vec<_>>().join("; ")),
    };
    conditions::set_verdict(&mut status.conditions, generation, verdict);
    let recheck = recheck_after(status.credentials.as_ref(), desired.due, desired.at);
    let opens = status.closed_until.as_ref().map(|closed| until(closed.0, now));
    let replaces = if let LoginAction::Hold(at) = desired.login { Some(until(at, now)) } else { None };
    Progress { requeue: recheck.into_iter().chain(opens).chain(replaces).min(), status }
}

fn lost_again(database: &Database, names: &Names, at: Timestamp) -> String {
    let (namespace, name) = (database.namespace().unwrap_or_default(), secret::name_of(&database.name_any()));
    format!(
        "Secret {namespace}/{name} was deleted or its password modified again: find out by which client. Login {} keeps its \
         password; it is replaced by a new one at {at}",
        names.login
    )
}

fn blocked_deletion(binding: &Secret) -> Option<String> {
    binding.metadata.deletion_timestamp.as_ref()?;
    Some(format!(
        "Secret {} is being deleted and kept by the finalizers {}: remove them to have it created again",
        binding.name_any(),
        binding.finalizers().join(", ")
    ))
}
