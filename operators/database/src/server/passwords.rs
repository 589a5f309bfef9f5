//! Passwords that somebody has changed by hand, where that cannot be read: found by trying the right one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::Database;
use kube::ResourceExt;
use tracing::info;

use super::sweep;
use crate::context::Context;
use crate::postgres::server::{Login, ServerPool};
use crate::secret;

/// How long a sweep tries logins; one takes some 10 ms.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries the logins whose turn it is.
pub async fn find_wrong(context: &Context, pool: &ServerPool, placed: &[Arc<Database>]) {
    let round = pool.memory.lock().round;
    let mut logins: Vec<_> = placed.iter().filter_map(|database| known(context, database)).collect();
    logins.sort_by(|(_, one), (_, other)| one.username.cmp(&other.username));
    let begun = Instant::now();
    for (database, login) in sweep::turn(&logins, round) {
        // A server that is this slow has other worries; they have their turn again.
        if begun.elapsed() > PATIENCE {
            break;
        }
        if pool.lets_in(database, login).await == Some(false) {
            info!(server = pool.name, login = login.username, "the login does not have the password it should have");
            pool.memory.lock().wrong_passwords.insert(login.username.clone());
        }
    }
}

/// What has been given to the customer: without that nothing is known to be right.
fn known(context: &Context, database: &Database) -> Option<(String, Login)> {
    let name = database.status.as_ref()?.database_name.clone()?;
    let binding = secret::name_of(&database.name_any());
    let binding = context.caches.bindings.cache().get_in(&database.namespace()?, &binding)?;
    let login = Login { username: secret::text(&binding, "username")?, password: secret::text(&binding, "password")? };
    Some((name, login))
}
