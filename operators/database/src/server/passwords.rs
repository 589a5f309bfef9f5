//! Finds logins whose password was changed manually, if verifiers cannot be read: by trying the published password.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::Database;
use kube::ResourceExt;
use tracing::info;

use super::sweep;
use crate::context::Context;
use crate::memory::Instance;
use crate::postgres::server::Login;
use crate::secret;

/// Time limit of the search in one sweep; a login takes about 10 ms.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries a share of the logins.
pub async fn find_wrong(context: &Context, instance: &Instance, placed: &[Arc<Database>]) {
    let round = instance.memory.lock().round;
    let mut logins: Vec<_> = placed.iter().filter_map(|database| published(context, database)).collect();
    logins.sort_by(|(_, one), (_, other)| one.username.cmp(&other.username));
    let begun = Instant::now();
    for (database, login) in sweep::share(&logins, round) {
        // The server is slow; the rest is tried in the next round.
        if begun.elapsed() > SEARCH_TIMEOUT {
            break;
        }
        if instance.postgres.lets_in(database, login).await == Some(false) {
            info!(server = instance.name, login = login.username, "the login does not have its published password");
            instance.memory.lock().corrections.wrong_passwords.insert(login.username.clone());
        }
    }
}

/// The published login of a database.
fn published(context: &Context, database: &Database) -> Option<(String, Login)> {
    let name = database.status.as_ref()?.database_name.clone()?;
    let binding = secret::name_of(&database.name_any());
    let binding = context.caches.bindings.cache().get_in(&database.namespace()?, &binding)?;
    let login = Login { username: secret::text(&binding, "username")?, password: secret::text(&binding, "password")? };
    Some((name, login))
}
