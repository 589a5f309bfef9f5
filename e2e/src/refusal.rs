//! Refusals of PostgreSQL and pgbouncer, recognized by SQLSTATE. Any other error is not a refusal.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail, ensure};

use crate::postgres::Login;

/// insufficient_privilege
pub const NO_PRIVILEGE: &str = "42501";
/// invalid_password: unknown login or wrong password.
pub const WRONG_PASSWORD: &str = "28P01";
/// invalid_authorization_specification: the role may not log in.
pub const NO_LOGIN: &str = "28000";
/// protocol_violation: SQLSTATE of most errors of pgbouncer.
pub const BY_POOLER: &str = "08P01";

/// Fails unless the outcome is an error with this SQLSTATE whose message contains `words`.
pub fn refused<T, E: Into<Error>>(outcome: Result<T, E>, code: &str, words: &str, what: &str) -> Result<()> {
    let error = match outcome {
        Ok(_) => bail!("allowed: {what}"),
        Err(error) => error.into(),
    };
    let Some(database) = error.chain().find_map(|cause| cause.downcast_ref::<tokio_postgres::error::DbError>()) else {
        bail!("{what} failed without a SQLSTATE: {error:#}")
    };
    let (found, message) = (database.code().code(), database.message());
    ensure!(found == code && message.contains(words), "{what}: refused with {found} {message:?}, not {code} {words:?}");
    Ok(())
}

/// Fails unless the login is refused with this SQLSTATE within ten seconds. Until then it may fail with another error, but must
/// not succeed.
pub async fn refused_soon(login: &Login, code: &str, words: &str, what: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let outcome = login.connect().await;
        ensure!(outcome.is_err(), "allowed: {what}");
        match refused(outcome, code, words, what) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
            done => return done,
        }
    }
}

/// Returns all errors as one.
pub fn all(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
