//! Whether the clients of each route are served, wait or are refused. pgbouncer forgets that when it starts, so it is
//! compared with what pgbouncer says, not with what was last told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ahoi_api::{PoolState, Route};
use ahoi_pgbouncer::config::auth_alias;
use ahoi_pgbouncer::console::{Console, Database};
use ahoi_pgbouncer::hold::waits;
use ahoi_pgbouncer::pool::Pool;
use anyhow::Result;
use tokio::time::Instant;

/// How long the transactions of a route on its way out may go on.
const DRAIN: Duration = Duration::from_secs(10);
/// pgbouncer closes idle server connections of a paused database within this.
const SETTLE: Duration = Duration::from_millis(400);

/// One thing to tell pgbouncer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    Disabled(String, bool),
    Paused(String, bool),
}

/// Routes on their way out, and since when.
pub type Draining = BTreeMap<String, Instant>;

/// Makes the states so; clients of the databases in `held` wait in any case, and those in `full` take no new ones. The answer is
/// which routes on their way out still have transactions.
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
    for order in orders(routes, &leaving, held, full, &databases) {
        match order {
            Order::Disabled(database, disabled) => console.set_disabled(&database, disabled).await?,
            Order::Paused(database, true) => pause.push(database),
            Order::Paused(database, false) => resume.push(database),
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
            .filter(|(key, _)| draining.get(*key).is_some_and(|since| since.elapsed() < DRAIN))
            .map(|(key, _)| (*key).clone())
            .collect();
        if busy.is_empty() || Instant::now() > settled {
            return Ok(busy);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        databases = console.databases().await?;
    }
}

fn orders(
    routes: &BTreeMap<String, Route>,
    leaving: &BTreeSet<&str>,
    held: &BTreeSet<String>,
    full: &BTreeSet<String>,
    databases: &BTreeMap<String, Database>,
) -> Vec<Order> {
    let mut orders = Vec::new();
    let aliases: BTreeSet<String> = routes.values().map(auth_alias).collect();
    for alias in aliases {
        let paused = held.contains(&alias);
        if databases.get(&alias).is_some_and(|is| is.paused != paused) {
            orders.push(Order::Paused(alias, paused));
        }
    }
    for (key, route) in routes {
        let Some(is) = databases.get(&route.database) else { continue };
        let disabled = route.state == PoolState::Disabled || full.contains(&route.database);
        let paused = held.contains(&route.database) || waits(route, leaving.contains(key.as_str()));
        if is.disabled != disabled {
            orders.push(Order::Disabled(route.database.clone(), disabled));
        }
        if is.paused != paused {
            orders.push(Order::Paused(route.database.clone(), paused));
        }
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders_for(state: PoolState, leaving: bool, disabled: bool, paused: bool) -> Vec<Order> {
        let routes = [("ns/a".to_owned(), Route { database: "a".into(), state, ..Route::default() })].into();
        let databases = [("a".to_owned(), Database { disabled, paused, connections: 0 })].into();
        let leaving = if leaving { ["ns/a"].into() } else { [].into() };
        orders(&routes, &leaving, &BTreeSet::new(), &BTreeSet::new(), &databases)
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
        let all = |yes| vec![Order::Paused(alias.clone(), yes), Order::Paused("a".into(), yes)];
        assert_eq!(
            orders(&routes, &BTreeSet::new(), &held, &none, &both(false)),
            all(true),
            "also after pgbouncer forgot"
        );
        assert_eq!(orders(&routes, &BTreeSet::new(), &held, &none, &both(true)), []);
        assert_eq!(orders(&routes, &BTreeSet::new(), &none, &none, &both(true)), all(false));
    }

    #[test]
    fn a_database_with_as_many_clients_as_it_may_have_takes_no_new_ones() {
        let routes = [("ns/a".to_owned(), Route { database: "a".into(), ..Route::default() })].into();
        let orders = |full: &[&str], disabled| {
            let full = full.iter().map(|name| (*name).to_owned()).collect();
            let databases = [("a".to_owned(), Database { disabled, ..Database::default() })].into();
            orders(&routes, &BTreeSet::new(), &BTreeSet::new(), &full, &databases)
        };
        assert_eq!(orders(&["a"], false), [Order::Disabled("a".into(), true)]);
        assert_eq!(orders(&["a"], true), []);
        assert_eq!(orders(&["b"], true), [Order::Disabled("a".into(), false)]);
    }

    #[test]
    fn only_what_differs_is_ordered() {
        let disable = |yes| Order::Disabled("a".into(), yes);
        let pause = |yes| Order::Paused("a".into(), yes);
        assert_eq!(orders_for(PoolState::Active, false, false, false), []);
        assert_eq!(orders_for(PoolState::Active, false, true, true), [disable(false), pause(false)]);
        assert_eq!(orders_for(PoolState::Paused, false, false, false), [pause(true)]);
        assert_eq!(orders_for(PoolState::Paused, false, false, true), []);
        assert_eq!(orders_for(PoolState::Disabled, false, false, false), [disable(true)]);
        assert_eq!(orders_for(PoolState::Disabled, true, true, false), [pause(true)]);
        assert_eq!(
            orders_for(PoolState::Disabled, true, false, false),
            [disable(true), pause(true)],
            "it goes elsewhere"
        );
    }
}
