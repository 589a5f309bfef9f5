//! Refusals of PostgreSQL and pgbouncer, known by their SQLSTATE: some other error is no refusal.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail, ensure};

use crate::postgres::Login;

/// insufficient_privilege: PostgreSQL knows who asks, and does not let it.
pub const NO_PRIVILEGE: &str = "42501";
/// invalid_password: the login is not known, or not with this password.
pub const WRONG_PASSWORD: &str = "28P01";
/// invalid_authorization_specification: the login may not log in.
pub const NO_LOGIN: &str = "28000";
/// protocol_violation: what pgbouncer answers with where it has no code of its own.
pub const BY_POOLER: &str = "08P01";

/// Fails unless the outcome is an error with this SQLSTATE and with these words.
pub fn refused<T, E: Into<Error>>(outcome: Result<T, E>, code: &str, words: &str, what: &str) -> Result<()> {
    let error = match outcome {
        Ok(_) => bail!("allowed: {what}"),
        Err(error) => error.into(),
    };
    let Some(database) = error.chain().find_map(|cause| cause.downcast_ref::<tokio_postgres::error::DbError>()) else {
        bail!("{what} failed, which is no refusal: {error:#}")
    };
    let (found, message) = (database.code().code(), database.message());
    ensure!(found == code && message.contains(words), "{what}: refused with {found} {message:?}, not {code} {words:?}");
    Ok(())
}

/// The same for a login that a process may be about to close: it is never let in, and refused so within ten seconds.
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

/// All of these, so that one run shows every one that is not as expected.
pub fn all(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
