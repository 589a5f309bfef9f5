//! Server connections that are to be replaced.

use ahoi_api::Route;
use ahoi_pgbouncer::config::Plan;
use anyhow::Result;

use super::Agent;

impl Agent {
    /// Replaces the server connections of the databases whose pools ask for it.
    pub(super) async fn reconnect(&mut self, plan: &Plan) -> Result<()> {
        let Some(loaded) = &self.known.loaded else { return Ok(()) };
        let asks =
            |(key, route): &(&String, &Route)| loaded.get(*key).is_some_and(|was| was.reconnect != route.reconnect);
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
