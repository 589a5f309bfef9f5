//! Whether the clients of each route are served, wait or are refused. A restarted pgbouncer has no such state, so the desired
//! state is compared with what pgbouncer shows, not with the last commands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ahoi_api::{PoolState, Route};
use ahoi_pgbouncer::config::auth_alias;
use ahoi_pgbouncer::console::{Console, Database};
use ahoi_pgbouncer::hold::waits;
use ahoi_pgbouncer::pool::Pool;
use anyhow::Result;
use tokio::time::Instant;

/// Maximum time for the transactions of a route that is being removed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time within which pgbouncer closes the idle server connections of a paused database.
const SETTLE: Duration = Duration::from_millis(400);

/// A command for pgbouncer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Disabled(String, bool),
    Paused(String, bool),
}

/// Routes that are being removed, and since when.
pub type Draining = BTreeMap<String, Instant>;

/// Applies the states. Clients of databases in `held` wait in any case, and databases in `full` get no new clients. Returns the
/// routes that are being removed and still have transactions.
pub async fn apply(
    console: &Console,
    routes: &BTreeMap<String, Route>,
    pools: &[Pool],
    held: &BTreeSet<String>,
    full: &BTreeSet<String>,
    mut databases: BTreeMap<String, Database>,
    draining: &mut Draining,
) -> Result<Vec<String>> {
    let leaving: BTreeSet<&str> = pools.iter().filter(|pool| pool.leaving).map(|pool| pool.key.as_str()).collect();
    let (mut pause, mut resume) = (Vec::new(), Vec::new());
    for command in commands(routes, &leaving, held, full, &databases) {
        match command {
            Command::Disabled(database, disabled) => console.set_disabled(&database, disabled).await?,
            Command::Paused(database, true) => pause.push(database),
            Command::Paused(database, false) => resume.push(database),
        }
    }
    console.pause(&pause).await?;
    console.resume(&resume).await?;

    let out: Vec<(&String, &Route)> = routes
        .iter()
        .filter(|(key, route)| route.state == PoolState::Disabled && leaving.contains(key.as_str()))
        .collect();
    draining.retain(|key, _| out.iter().any(|(out, _)| *out == key));
    for (key, _) in &out {
        draining.entry((*key).clone()).or_insert_with(Instant::now);
    }
    let settled = Instant::now() + SETTLE;
    loop {
        let busy: Vec<String> = out
            .iter()
            .filter(|(_, route)| databases.get(&route.database).is_some_and(|database| database.connections > 0))
            .filter(|(key, _)| draining.get(*key).is_some_and(|since| since.elapsed() < DRAIN_TIMEOUT))
            .map(|(key, _)| (*key).clone())
            .collect();
        if busy.is_empty() || Instant::now() > settled {
            return Ok(busy);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        databases = console.databases().await?;
    }
}

fn commands(
    routes: &BTreeMap<String, Route>,
    leaving: &BTreeSet<&str>,
    held: &BTreeSet<String>,
    full: &BTreeSet<String>,
    databases: &BTreeMap<String, Database>,
) -> Vec<Command> {
    let mut commands = Vec::new();
    let aliases: BTreeSet<String> = routes.values().map(auth_alias).collect();
    for alias in aliases {
        let paused = held.contains(&alias);
        if databases.get(&alias).is_some_and(|is| is.paused != paused) {
            commands.push(Command::Paused(alias, paused));
        }
    }
    for (key, route) in routes {
        let Some(is) = databases.get(&route.database) else { continue };
        let disabled = route.state == PoolState::Disabled || full.contains(&route.database);
        let paused = held.contains(&route.database) || waits(route, leaving.contains(key.as_str()));
        if is.disabled != disabled {
            commands.push(Command::Disabled(route.database.clone(), disabled));
        }
        if is.paused != paused {
            commands.push(Command::Paused(route.database.clone(), paused));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands_for(state: PoolState, leaving: bool, disabled: bool, paused: bool) -> Vec<Command> {
        let routes = [("ns/a".to_owned(), Route { database: "a".into(), state, ..Route::default() })].into();
        let databases = [("a".to_owned(), Database { disabled, paused, connections: 0 })].into();
        let leaving = if leaving { ["ns/a"].into() } else { [].into() };
        commands(&routes, &leaving, &BTreeSet::new(), &BTreeSet::new(), &databases)
    }

    #[test]
    fn a_held_server_is_held_whole() {
        let route = Route { database: "a".into(), ..Route::default() };
        let alias = auth_alias(&route);
        let routes = [("ns/a".to_owned(), route)].into();
        let both = |paused| {
            let is = Database { paused, ..Database::default() };
            [("a".to_owned(), is.clone()), (alias.clone(), is)].into()
        };
        let held = [alias.clone(), "a".to_owned()].into();
        let none = BTreeSet::new();
        let all = |yes| vec![Command::Paused(alias.clone(), yes), Command::Paused("a".into(), yes)];
        assert_eq!(
            commands(&routes, &BTreeSet::new(), &held, &none, &both(false)),
            all(true),
            "also after pgbouncer forgot"
        );
        assert_eq!(commands(&routes, &BTreeSet::new(), &held, &none, &both(true)), []);
        assert_eq!(commands(&routes, &BTreeSet::new(), &none, &none, &both(true)), all(false));
    }

    #[test]
    fn a_full_database_gets_no_new_clients() {
        let routes = [("ns/a".to_owned(), Route { database: "a".into(), ..Route::default() })].into();
        let commands = |full: &[&str], disabled| {
            let full = full.iter().map(|name| (*name).to_owned()).collect();
            let databases = [("a".to_owned(), Database { disabled, ..Database::default() })].into();
            commands(&routes, &BTreeSet::new(), &BTreeSet::new(), &full, &databases)
        };
        assert_eq!(commands(&["a"], false), [Command::Disabled("a".into(), true)]);
        assert_eq!(commands(&["a"], true), []);
        assert_eq!(commands(&["b"], true), [Command::Disabled("a".into(), false)]);
    }

    #[test]
    fn only_differences_become_commands() {
        let disable = |yes| Command::Disabled("a".into(), yes);
        let pause = |yes| Command::Paused("a".into(), yes);
        assert_eq!(commands_for(PoolState::Active, false, false, false), []);
        assert_eq!(commands_for(PoolState::Active, false, true, true), [disable(false), pause(false)]);
        assert_eq!(commands_for(PoolState::Paused, false, false, false), [pause(true)]);
        assert_eq!(commands_for(PoolState::Paused, false, false, true), []);
        assert_eq!(commands_for(PoolState::Disabled, false, false, false), [disable(true)]);
        assert_eq!(commands_for(PoolState::Disabled, true, true, false), [pause(true)]);
        assert_eq!(
            commands_for(PoolState::Disabled, true, false, false),
            [disable(true), pause(true)],
            "it moves elsewhere"
        );
    }
}
