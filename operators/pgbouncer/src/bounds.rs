//! Limits the clients of each customer.
//!
//! pgbouncer's own limit also counts clients that have not logged in, so it is higher than the customer's
//! ([`Resources`](crate::config::Resources)). The agent counts the clients that have logged in, once a second.

use std::collections::{BTreeMap, BTreeSet};

use crate::console::Connected;

/// Maximum number of logged-in clients, by database.
pub type Bounds = BTreeMap<String, i64>;

/// The databases that have reached their maximum.
#[must_use]
pub fn full(bounds: &Bounds, logged_in: &BTreeMap<String, i64>) -> BTreeSet<String> {
    let at_bound = |(database, bound): &(&String, &i64)| logged_in.get(*database).is_some_and(|count| count >= *bound);
    bounds.iter().filter(at_bound).map(|(database, _)| database.clone()).collect()
}

/// The databases that have exceeded their maximum, and by how many clients.
#[must_use]
pub fn exceeded<'a>(bounds: &'a Bounds, logged_in: &BTreeMap<String, i64>) -> BTreeMap<&'a str, i64> {
    let surplus = bounds.iter().map(|(database, bound)| {
        let count = logged_in.get(database).copied().unwrap_or(0);
        (database.as_str(), count - bound)
    });
    surplus.filter(|(_, surplus)| *surplus > 0).collect()
}

/// The clients to disconnect: the newest of each database. Clients with a server connection may be in a transaction and stay.
#[must_use]
pub fn too_many(surplus: &BTreeMap<&str, i64>, clients: &[Connected]) -> Vec<u64> {
    let mut free: Vec<&Connected> = clients.iter().filter(|client| !client.linked).collect();
    free.sort_by_key(|client| std::cmp::Reverse(client.id));
    let mut left = surplus.clone();
    let mut ended = Vec::new();
    for client in free {
        if let Some(left) = left.get_mut(client.database.as_str()).filter(|left| **left > 0) {
            *left -= 1;
            ended.push(client.id);
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, i64)]) -> BTreeMap<String, i64> {
        pairs.iter().map(|(database, count)| ((*database).to_owned(), *count)).collect()
    }

    #[test]
    fn a_database_is_full_at_its_bound() {
        let bounds = counts(&[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
        let logged_in = counts(&[("a", 1), ("b", 2), ("c", 5), ("x", 9)]);
        assert_eq!(full(&bounds, &logged_in), ["b".to_owned(), "c".to_owned()].into());
        assert_eq!(exceeded(&bounds, &logged_in), [("c", 3)].into());
    }

    #[test]
    fn the_newest_clients_without_a_server_connection_are_disconnected() {
        let client = |id, database: &str, linked| Connected { id, database: database.into(), linked, waiting: false };
        let clients = [
            client(1, "c", false),
            client(2, "c", true),
            client(3, "c", false),
            client(4, "c", true),
            client(5, "b", false),
        ];
        assert_eq!(too_many(&[("c", 1)].into(), &clients), [3]);
        assert_eq!(too_many(&[("c", 3)].into(), &clients), [3, 1], "the others may be in a transaction");
        assert_eq!(too_many(&BTreeMap::new(), &clients), [0_u64; 0]);
    }
}
