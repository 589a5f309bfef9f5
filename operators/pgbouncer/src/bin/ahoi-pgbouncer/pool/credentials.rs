//! New credentials in the pooled Secret: tried through every process first, and the previous login retired afterwards.

use std::time::Duration;

use ahoi_api::{
    CREDENTIALS_PROVED, ClientTlsMode, ConnectionPool, ConnectionPoolStatus, EventReason, PoolState, Reason,
};
use ahoi_pgbouncer::{PORT, trust};
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus, DesiredCondition};
use ahoi_reconcile::{EventType, Platform};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

use super::dereference::Inputs;
use super::desired::{self, version_of};
use super::reports::Reports;

/// Time between two attempts to log in with new credentials.
const LOGIN_RETRY: Duration = Duration::from_secs(5);
/// Time within which one process has to accept a login and to answer a query.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing shows from outside that an accepted login waits for a server connection.
const NO_ANSWER: &str = "no answer within 10 s. If all server connections of the pool are in use, close idle clients \
    (with poolMode Session each keeps its connection) or raise poolSize";
const FULL: &str = "the pool has reached maxClientConnections. Close clients, or raise it";

/// Logs in with the Secret through every process at these addresses. Clients of a pool that is not Active would not notice new
/// credentials, so these are not tried.
pub async fn try_login(
    pool: &ConnectionPool,
    inputs: &Inputs,
    addresses: Vec<(String, String)>,
    secret: &Secret,
) -> Result<(), String> {
    if pool.spec.state != PoolState::Active {
        return Ok(());
    }
    let field = |key: &str| desired::text(secret, key).unwrap_or_default();
    let mut config = Config::new();
    config.user(field("username")).password(field("password")).dbname(field("database")).port(PORT);
    config.application_name("ahoi-pgbouncer").connect_timeout(LOGIN_TIMEOUT);
    let tls = tls_of(inputs)?;
    config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
    let attempts = addresses.into_iter().map(|(pod, address)| {
        let (mut config, tls) = (config.clone(), tls.clone());
        config.host(&address);
        async move {
            let attempt = timeout(LOGIN_TIMEOUT, log_in(&config, tls)).await;
            attempt.unwrap_or_else(|_| Err(NO_ANSWER.to_owned())).map_err(|why| (pod, why))
        }
    });
    let failed: Vec<_> = futures::future::join_all(attempts).await.into_iter().filter_map(Result::err).collect();
    let Some((pod, why)) = failed.first() else { return Ok(()) };
    warn!(pod, error = why, "new credentials do not work through the process yet");
    Err(format!(
        "the new login {} does not work through pod {pod} yet: {why}. Applications keep the previous login; the next attempt \
         is in {} s",
        field("username"),
        LOGIN_RETRY.as_secs()
    ))
}

/// Sets which login retires, and whether the fleet still uses it. `secret` is the one that applications read.
pub fn retire(
    reports: &Reports,
    previous: Option<&String>,
    secret: Option<&Secret>,
    status: &mut ConnectionPoolStatus,
) {
    let current = secret.and_then(|secret| desired::text(secret, "username"));
    let retiring = previous.filter(|previous| current.as_ref() != Some(previous)).cloned();
    let Some(route) = &mut status.route else { return };
    let is_announced = route.retiring == retiring;
    route.retiring.clone_from(&retiring);
    let known = status.unused_login == retiring;
    // The fleets that the pool leaves may still have clients of it.
    let places = || status.former_places.iter().map(|former| &former.place).chain([reports.place]);
    let is_unused = |login: &String| is_announced && places().all(|place| reports.is_unused_at(place, login, known));
    status.unused_login = retiring.filter(is_unused);
}

/// Publishes an event if the Secret was deleted or modified although nothing changed that it is made from.
pub fn record_repair(platform: &Platform, pool: &ConnectionPool, present: Option<&Secret>, desired: &Secret) {
    let known = pool.status.as_ref().and_then(|status| status.binding.as_ref());
    let Some(known) = known.filter(|known| known.version == version_of(desired)) else { return };
    let name = desired.name_any();
    let note = match present {
        None => format!("recreated Secret {name}, which had been deleted"),
        Some(present) if version_of(present) != known.version => {
            format!("restored Secret {name}, which had been modified")
        }
        Some(_) => return,
    };
    platform.event(pool, EventType::Warning, EventReason::Repaired, note);
}

/// Uses TLS wherever the fleet offers it: it may require it.
fn tls_of(inputs: &Inputs) -> Result<Option<MakeRustlsConnect>, String> {
    let offered = inputs.fleet.spec.tls.client.mode != ClientTlsMode::Disable;
    let pair = inputs.certificates.pair.as_ref().filter(|_| offered);
    let config = pair.map(trust::only).transpose();
    Ok(config.map_err(|error| format!("the fleet's certificate cannot be used: {error}"))?.map(MakeRustlsConnect::new))
}

/// An answer from PostgreSQL proves both hops.
async fn log_in(config: &Config, tls: Option<MakeRustlsConnect>) -> Result<(), String> {
    let explain = |error: tokio_postgres::Error| match error.as_db_error() {
        // An agent disables the database while the pool has as many clients as it may have.
        Some(refusal) if refusal.message().ends_with(" is disabled") => FULL.to_owned(),
        Some(refusal) => refusal.message().to_owned(),
        None => "the process is unreachable".to_owned(),
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

/// Sets the condition about the trial, which exists only while it fails. Returns when to try again.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    trial: Result<(), String>,
) -> Option<Duration> {
    match trial {
        Ok(()) => {
            conditions.retain(|condition| condition.type_ != CREDENTIALS_PROVED);
            None
        }
        Err(why) => {
            let condition = DesiredCondition::new(CREDENTIALS_PROVED, ConditionStatus::False, Reason::LoginFailed, why);
            let _ = conditions::set(conditions, condition.observed_generation(generation));
            Some(LOGIN_RETRY)
        }
    }
}
