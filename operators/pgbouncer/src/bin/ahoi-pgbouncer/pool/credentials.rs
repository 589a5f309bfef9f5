//! New credentials in the pooled Secret: tried through every process first, and the former login let go of afterwards.

use std::time::Duration;

use ahoi_api::{ClientTlsMode, ConnectionPool, ConnectionPoolStatus, Place, PoolState};
use ahoi_pgbouncer::fleet::reports;
use ahoi_pgbouncer::pool::{unused, version};
use ahoi_pgbouncer::{PORT, trust};
use ahoi_reconcile::EventType;
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus, DesiredCondition};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

use super::PoolController;
use super::desired::{self, version_of};
use super::resolve::Resolved;

/// There while new credentials wait for the fleet, and False.
const CONDITION: &str = "CredentialsProved";
/// When they are tried again.
pub const RETRY: Duration = Duration::from_secs(5);
/// How long one process may take to let somebody in and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl PoolController {
    /// Logs in with the desired Secret through every process of the pool's shard that serves. The error is for people. Where nobody is
    /// served on purpose there is nobody to disturb either.
    pub(super) async fn try_out(
        &self,
        pool: &ConnectionPool,
        resolved: &Resolved,
        place: &Place,
        secret: &Secret,
    ) -> Result<(), String> {
        if pool.spec.state != PoolState::Active {
            return Ok(());
        }
        let field = |key: &str| desired::text(secret, key).unwrap_or_default();
        let mut config = Config::new();
        config.user(field("username")).password(field("password")).dbname(field("database")).port(PORT);
        config.application_name("ahoi-pgbouncer").connect_timeout(PATIENCE);
        let tls = tls_of(resolved)?;
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        let attempts = self.shared.addresses(&resolved.fleet, place.shard).into_iter().map(|(pod, address)| {
            let (mut config, tls) = (config.clone(), tls.clone());
            config.host(&address);
            async move {
                timeout(PATIENCE, log_in(&config, tls))
                    .await
                    .unwrap_or(Err("no answer".to_owned()))
                    .map_err(|why| (pod, why))
            }
        });
        let failed: Vec<_> = futures::future::join_all(attempts).await.into_iter().filter_map(Result::err).collect();
        let Some((pod, why)) = failed.first() else { return Ok(()) };
        warn!(pod, why, "new credentials do not work through the fleet yet");
        Err(format!(
            "the new login {} does not work through {pod} yet: {why}. Applications keep the former one, and it is tried again",
            field("username")
        ))
    }

    /// Which login retires, and whether the fleet still uses it.
    pub(super) fn retire(
        &self,
        pool: &ConnectionPool,
        resolved: &Resolved,
        place: &Place,
        status: &mut ConnectionPoolStatus,
        given: Option<&Secret>,
    ) {
        let given = given.and_then(|given| desired::text(given, "username"));
        let retiring = resolved.former.clone().filter(|former| given.as_ref() != Some(former));
        let Some(route) = &mut status.route else { return };
        let announced = route.retiring == retiring;
        route.retiring.clone_from(&retiring);
        let known = status.unused_login == retiring;
        // A fleet that the pool leaves may still have clients of it.
        let places = || status.former_places.iter().map(|former| &former.place).chain([place]);
        let is_unused =
            |login: &String| announced && places().all(|place| self.is_unused_at(place, login, known, pool));
        status.unused_login = retiring.filter(is_unused);
    }

    fn is_unused_at(&self, place: &Place, login: &str, known: bool, pool: &ConnectionPool) -> bool {
        // A fleet that is gone serves nobody.
        let Ok(fleet) = self.shared.fleet(&place.fleet) else { return false };
        let Some(fleet) = fleet else { return true };
        unused(login, known, version(pool), reports(&fleet), &self.shared.serving(&fleet, place.shard))
    }

    /// Says what had been done to the Secret where nobody asked for it.
    pub(super) fn tell_of_edits(&self, pool: &ConnectionPool, present: Option<&Secret>, desired: &Secret) {
        let known = pool.status.as_ref().and_then(|status| status.binding.as_ref());
        let Some(known) = known.filter(|known| known.version == version_of(desired)) else { return };
        let note = match present {
            None => format!("made Secret {} again, which was lost", desired.name_any()),
            Some(present) if version_of(present) != known.version => {
                format!("put back what had been changed in Secret {}", desired.name_any())
            }
            Some(_) => return,
        };
        self.platform.event(pool, EventType::Warning, "Repaired", note);
    }
}

/// Where clients may use TLS, this one does: they may have to.
fn tls_of(resolved: &Resolved) -> Result<Option<MakeRustlsConnect>, String> {
    let offered = resolved.fleet.spec.tls.client.mode != ClientTlsMode::Disable;
    let pair = resolved.certificates.pair.as_ref().filter(|_| offered);
    let config = pair.map(trust::only).transpose();
    Ok(config.map_err(|error| format!("the fleet's certificate cannot be used: {error}"))?.map(MakeRustlsConnect::new))
}

/// An answer from PostgreSQL proves the whole way.
async fn log_in(config: &Config, tls: Option<MakeRustlsConnect>) -> Result<(), String> {
    let explain = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(refusal) => refusal.message().to_owned(),
        None => "it cannot be reached".to_owned(),
    };
    let (client, connection) = match tls {
        Some(tls) => {
            let (client, connection) = config.connect(tls).await.map_err(explain)?;
            (client, tokio::spawn(connection))
        }
        None => {
            let (client, connection) = config.connect(NoTls).await.map_err(explain)?;
            (client, tokio::spawn(connection))
        }
    };
    let answer = client.simple_query("SELECT 1").await.map(drop).map_err(explain);
    drop(client);
    connection.abort();
    answer
}

/// Says in the conditions what came of the trial; the answer is whether it failed.
pub fn tell(conditions: &mut Vec<Condition>, generation: Option<i64>, trial: Result<(), String>) -> bool {
    match trial {
        Ok(()) => {
            conditions.retain(|condition| condition.type_ != CONDITION);
            false
        }
        Err(why) => {
            let condition = DesiredCondition::new(CONDITION, ConditionStatus::False, "LoginFailed", why);
            let _ = conditions::set(conditions, condition.observed_generation(generation));
            true
        }
    }
}
