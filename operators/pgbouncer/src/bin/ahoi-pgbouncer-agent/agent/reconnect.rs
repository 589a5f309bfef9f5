//! Replaces server connections on request and after migrations.

use ahoi_api::Route;
use ahoi_pgbouncer::config::Plan;
use anyhow::Result;

use super::Agent;

impl Agent {
    /// Replaces the server connections of the databases whose pools request it.
    pub(super) async fn reconnect(&mut self, plan: &Plan) -> Result<()> {
        let Some(loaded) = &self.known.loaded else { return Ok(()) };
        let requests =
            |(key, route): &(&String, &Route)| loaded.get(*key).is_some_and(|was| is_to_reconnect(was, route));
        let databases: Vec<&str> =
            plan.routes.iter().filter(requests).map(|(_, route)| route.database.as_str()).collect();
        if databases.is_empty() {
            return Ok(());
        }
        let console = self.console().await?;
        for database in databases {
            console.reconnect(database).await?;
        }
        self.console = Some(console);
        Ok(())
    }
}

/// Whether this change of the route requires new server connections. The removal of a migration changes no table.
fn is_to_reconnect(was: &Route, route: &Route) -> bool {
    was.reconnect_request != route.reconnect_request || route.migration.is_some() && was.migration != route.migration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_replaced_on_request_and_after_each_migration() {
        let route = |reconnect: Option<&str>, migration: Option<&str>| Route {
            reconnect_request: reconnect.map(Into::into),
            migration: migration.map(Into::into),
            ..Route::default()
        };
        let requests = |was: (Option<&str>, Option<&str>), now: (Option<&str>, Option<&str>)| {
            is_to_reconnect(&route(was.0, was.1), &route(now.0, now.1))
        };
        assert!(!requests((None, None), (None, None)));
        assert!(requests((None, None), (Some("1"), None)) && requests((Some("1"), None), (Some("2"), None)));
        assert!(requests((None, None), (None, Some("a"))) && requests((None, Some("a")), (None, Some("b"))));
        assert!(!requests((Some("1"), Some("a")), (Some("1"), Some("a"))));
        assert!(!requests((None, Some("a")), (None, None)), "the scheduler was turned off");
    }
}
