//! Server connections that are to be replaced.

use ahoi_api::Route;
use ahoi_pgbouncer::config::Plan;
use anyhow::Result;

use super::Agent;

impl Agent {
    /// Replaces the server connections of the databases whose pools ask for it.
    pub(super) async fn reconnect(&mut self, plan: &Plan) -> Result<()> {
        let Some(loaded) = &self.known.loaded else { return Ok(()) };
        let asks = |(key, route): &(&String, &Route)| loaded.get(*key).is_some_and(|was| is_to_reconnect(was, route));
        let databases: Vec<&str> = plan.routes.iter().filter(asks).map(|(_, route)| route.database.as_str()).collect();
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

/// Whether the server connections from before this change of the route are to be replaced. A customer that has no migration any
/// more has changed no table.
fn is_to_reconnect(was: &Route, route: &Route) -> bool {
    was.reconnect != route.reconnect || route.migration.is_some() && was.migration != route.migration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_replaced_on_request_and_after_each_migration() {
        let route = |reconnect: Option<&str>, migration: Option<&str>| Route {
            reconnect: reconnect.map(Into::into),
            migration: migration.map(Into::into),
            ..Route::default()
        };
        let asks = |was: (Option<&str>, Option<&str>), now: (Option<&str>, Option<&str>)| {
            is_to_reconnect(&route(was.0, was.1), &route(now.0, now.1))
        };
        assert!(!asks((None, None), (None, None)));
        assert!(asks((None, None), (Some("1"), None)) && asks((Some("1"), None), (Some("2"), None)));
        assert!(asks((None, None), (None, Some("a"))) && asks((None, Some("a")), (None, Some("b"))));
        assert!(!asks((Some("1"), Some("a")), (Some("1"), Some("a"))));
        assert!(!asks((None, Some("a")), (None, None)), "the scheduler was turned off");
    }
}
