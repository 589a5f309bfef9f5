//! Checks once a second for clients that do not log in, and for customers with too many clients.

use ahoi_api::EventReason;
use std::collections::BTreeMap;

use ahoi_pgbouncer::bounds::{exceeded, full, too_many};
use ahoi_pgbouncer::console::Console;
use ahoi_pgbouncer::logins::{Change, most};
use ahoi_reconcile::EventType;
use anyhow::Result;
use tracing::{debug, info, warn};

use super::Agent;

/// Seconds for a login while there are many unfinished ones.
const HURRIED: f64 = 5.0;
/// Seconds for a login otherwise, unless the fleet's parameters set it: pgbouncer's default. A client whose server is unreachable
/// waits this long.
const UNHURRIED: &str = "60";

impl Agent {
    /// Checks both. A failed check is repeated at the next interval.
    pub(super) async fn check_clients(&mut self) {
        let Some(console) = self.console.take() else { return };
        match self.check(&console).await {
            Ok(()) => self.console = Some(console),
            Err(error) => debug!(%error, "cannot check the clients"),
        }
    }

    async fn check(&mut self, console: &Console) -> Result<()> {
        let clients = console.count_clients().await?;
        self.metrics.unfinished_logins.set(clients.unfinished);
        let was_hurried = self.logins.is_hurried();
        let change = self.logins.observe(clients.unfinished);
        self.metrics.login_flood.set(i64::from(self.logins.is_flood()));
        if self.logins.is_hurried() {
            // At every check: a reload resets it.
            self.hurry(console).await?;
        } else if was_hurried {
            console.set("client_login_timeout", &self.login_timeout).await?;
            console.set("log_pooler_errors", &self.log_pooler_errors).await?;
        }
        if let Some(change) = change {
            self.report_flood(console, change, clients.unfinished).await?;
        }
        let least = self.bounds.values().min().copied().unwrap_or(i64::MAX);
        if clients.all >= least || !self.full.is_empty() {
            self.enforce_bounds(console).await?;
        }
        Ok(())
    }

    async fn hurry(&self, console: &Console) -> Result<()> {
        let configured: f64 = self.login_timeout.parse().unwrap_or(0.0);
        if configured == 0.0 || configured > HURRIED {
            console.set("client_login_timeout", &HURRIED.to_string()).await?;
        }
        // Otherwise pgbouncer logs a line for each login that times out.
        console.set("log_pooler_errors", "0").await
    }

    async fn report_flood(&self, console: &Console, change: Change, unfinished: i64) -> Result<()> {
        let pod = self.platform.instance();
        let Some(fleet) = self.fleets.get_in(&self.fleet.namespace, &self.fleet.name) else { return Ok(()) };
        let (type_, note) = match change {
            Change::Began => {
                let most = most(&console.unfinished_logins().await?).unwrap_or_default();
                warn!(unfinished, most, "flood of unfinished logins began");
                (EventType::Warning, format!("pod {pod} has {unfinished} unfinished logins, most of them: {most}"))
            }
            Change::Ended => {
                info!("flood of unfinished logins ended");
                (EventType::Normal, format!("the flood of unfinished logins in pod {pod} has ended"))
            }
        };
        self.platform.event(&*fleet, type_, EventReason::LoginFlood, note);
        Ok(())
    }

    /// Refuses new clients of customers that have reached their maximum, and disconnects the newest above it.
    async fn enforce_bounds(&mut self, console: &Console) -> Result<()> {
        let logged_in = console.logged_in().await?;
        let full = full(&self.bounds, &logged_in);
        for database in full.symmetric_difference(&self.full).filter(|database| self.bounds.contains_key(*database)) {
            console.set_disabled(database, full.contains(database)).await?;
        }
        self.full = full;
        let surplus = exceeded(&self.bounds, &logged_in);
        if !surplus.is_empty() {
            for client in too_many(&surplus, &console.clients().await?) {
                // It may have disconnected meanwhile.
                if let Err(error) = console.kill_client(client).await {
                    debug!(%error, client, "cannot disconnect the client");
                }
            }
        }
        Ok(())
    }

    /// Records the fleet's parameters for logins.
    pub(super) fn remember_parameters(&mut self, parameters: &BTreeMap<String, String>) {
        let of = |name: &str, default: &str| parameters.get(name).cloned().unwrap_or_else(|| default.to_owned());
        self.login_timeout = of("client_login_timeout", UNHURRIED);
        self.log_pooler_errors = of("log_pooler_errors", "1");
    }
}
