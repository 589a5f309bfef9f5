//! Two generations of login: which of the two is given away, when they change places, and when the former one may go.
//!
//! The Secret decides which login is in use, because writing it is the one step by which applications change over. Before
//! it, the next login is only made, and making it again does no harm; after it, the status follows. The process may die
//! between any two of these.

use std::time::Duration;

use ahoi_api::{ConnectionPool, CredentialsStatus, Database, DatabaseStatus};
use ahoi_reconcile::Error;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::postgres::desired::OtherLogin;
use crate::postgres::names::Names;
use crate::renewal::{self, Due, GRACE, age};
use crate::secret;

/// How soon a former login is looked at again, and how soon once it has been in use for long.
const SOON: Duration = Duration::from_secs(10);
const SELDOM: Duration = Duration::from_secs(60);
/// Since when it has been in use for long.
const LONG: Duration = Duration::from_secs(600);

/// The logins of the database `name`, and what the other one is, by its status and its binding Secret.
pub fn logins(status: &DatabaseStatus, binding: Option<&Secret>, name: &str) -> (Names, OtherLogin) {
    let known = status.login.as_deref().unwrap_or_default();
    let given = binding.and_then(|binding| secret::text(binding, "username")).unwrap_or_default();
    let names = Names::of(name).used_by(known).used_by(&given);
    let former = status.credentials.as_ref().and_then(|credentials| credentials.previous_login.as_deref());
    // The Secret was written, and the process died before the status was.
    let is_former = former == Some(&names.other) || known == names.other;
    (names, if is_former { OtherLogin::Former } else { OtherLogin::Closed })
}

/// When the database's credentials are to be replaced.
pub fn due(database: &Database, now: Timestamp) -> Result<Due, Error> {
    let known = database.status.as_ref().and_then(|status| status.credentials.as_ref());
    renewal::due(database.spec.credentials.as_ref(), known, &database.uid().unwrap_or_default(), now)
}

/// What keeps a former login open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Not everybody has the new Secret yet.
    Young,
    /// The Secret of a pool still has the former login: the new one is not proved there.
    Unproved(String),
    /// A pool has not said that its clients are gone.
    Pool(String),
    /// Sessions on the server.
    Sessions,
}

impl Kept {
    /// What keeps `former` open and what to do about it; stable, so that it is written once.
    pub fn explain(&self, former: &str) -> String {
        match self {
            Kept::Young => format!("the former login {former} stays open while applications change over"),
            Kept::Unproved(pool) => format!(
                "the former login {former} stays open because the Secret of ConnectionPool {pool} still has it; the conditions of \
                 the ConnectionPool say why"
            ),
            Kept::Pool(pool) => format!(
                "the former login {former} stays open while clients of ConnectionPool {pool} use it; restart those that \
                 do not read their Secret again"
            ),
            Kept::Sessions => format!(
                "the former login {former} stays open while it has sessions on the server (pg_stat_activity shows them); \
                 restart what does not read its Secret again"
            ),
        }
    }
}

/// What keeps the former login open, sessions on the server aside.
pub fn kept_open<'a>(
    credentials: &CredentialsStatus,
    former: &str,
    pools: impl IntoIterator<Item = &'a ConnectionPool>,
    now: Timestamp,
) -> Option<Kept> {
    if age(credentials, now) < GRACE {
        return Some(Kept::Young);
    }
    let uses = |pool: &&ConnectionPool| {
        let status = pool.status.as_ref();
        status.is_some_and(|status| status.route.is_some() && status.unused_login.as_deref() != Some(former))
    };
    let pool = pools.into_iter().filter(uses).min_by_key(|pool| pool.name_any())?;
    // A login retires in the route when the Secret has the next one: from then on there is something to read again.
    let retiring = pool.status.as_ref().and_then(|status| status.route.as_ref()?.retiring.as_deref());
    let name = pool.name_any();
    Some(if retiring == Some(former) { Kept::Pool(name) } else { Kept::Unproved(name) })
}

/// How soon a former login is looked at again. Its pools wake the database, the sessions on the server do not.
pub fn look_again(credentials: &CredentialsStatus, now: Timestamp) -> Duration {
    if age(credentials, now) < LONG { SOON } else { SELDOM }
}

/// What is said of credentials from `now` on.
pub fn begun(database: &Database, former: Option<String>, now: Timestamp) -> CredentialsStatus {
    let known = database.status.as_ref().and_then(|status| status.credentials.as_ref());
    renewal::begun(database.spec.credentials.as_ref(), known, former, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::secret;
    use jiff::SignedDuration;

    const NAME: &str = "c_3f2504e04f89";
    const A: &str = "c_3f2504e04f89_a";
    const B: &str = "c_3f2504e04f89_b";

    fn database(credentials: &str, status: &str) -> Database {
        serde_saphyr::from_str(&format!(
            "
            apiVersion: internal.example.com/v1
            kind: Database
            metadata: {{name: acme, namespace: customer-acme, uid: 3f2504e0-4f89-41d3-9a0c-0305e82c3301}}
            spec: {{storage: 1gb, credentials: {credentials}}}
            status: {{login: {A}, credentials: {status}}}
            "
        ))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_secret_says_which_login_is_in_use() {
        let status = |login: &str, previous: Option<&str>| DatabaseStatus {
            login: Some(login.into()),
            credentials: Some(begun(
                &database("{}", "{rotatedAt: 2026-02-28T23:00:00Z}"),
                previous.map(Into::into),
                now(),
            )),
            ..DatabaseStatus::default()
        };
        let of = |status: &DatabaseStatus, username: Option<&str>| {
            let binding = username.map(|username| secret("acme-database", &[("username", username)]));
            let (names, other) = logins(status, binding.as_ref(), NAME);
            (names.login, other)
        };
        assert_eq!(of(&DatabaseStatus::default(), None), (A.into(), OtherLogin::Closed));
        assert_eq!(of(&status(A, None), Some(A)), (A.into(), OtherLogin::Closed));
        assert_eq!(of(&status(B, Some(A)), Some(B)), (B.into(), OtherLogin::Former));
        assert_eq!(of(&status(B, None), Some(B)), (B.into(), OtherLogin::Closed));
        assert_eq!(of(&status(B, Some(A)), None), (B.into(), OtherLogin::Former), "lost");
        assert_eq!(of(&status(B, None), Some("postgres")), (B.into(), OtherLogin::Closed), "edited");
        assert_eq!(of(&status(A, None), Some(B)), (B.into(), OtherLogin::Former), "died before the status was written");
    }

    fn pool(name: &str, status: &str) -> ConnectionPool {
        serde_saphyr::from_str(&format!(
            "
            apiVersion: internal.example.com/v1
            kind: ConnectionPool
            metadata: {{name: {name}, namespace: customer-acme}}
            spec: {{databaseRef: {{name: acme}}, pgBouncerRef: {{namespace: ahoi-system, name: global}}}}
            status: {status}
            "
        ))
        .unwrap()
    }

    #[test]
    fn a_former_login_goes_when_every_pool_says_so() {
        let credentials = begun(&database("{}", "{rotatedAt: 2026-02-28T23:00:00Z}"), Some(A.into()), now());
        let later = now() + SignedDuration::from_secs(121);
        let route = |more: &str| {
            format!(
                "route: {{server: s, host: h, port: 1, database: d, authDatabase: p, poolMode: Session, poolSize: 1{more}}}"
            )
        };
        let (idle, route) = (route(""), route(&format!(", retiring: {A}")));
        let busy = pool("busy", &format!("{{{route}}}"));
        let done = pool("done", &format!("{{{route}, unusedLogin: {A}}}"));
        let other = pool("other", &format!("{{{idle}, unusedLogin: {B}}}"));
        let new = pool("new", "{}");
        assert_eq!(kept_open(&credentials, A, [&done], now()), Some(Kept::Young));
        assert_eq!(kept_open(&credentials, A, [&done, &new], later), None);
        assert_eq!(kept_open(&credentials, A, [], later), None, "no pool at all");
        assert_eq!(kept_open(&credentials, A, [&done, &busy], later), Some(Kept::Pool("busy".into())));
        // The Secret of a pool that is full or suspended, or whose next Secret cannot be written, has not changed.
        for unproved in [pool("unproved", &format!("{{{idle}}}")), other] {
            let kept = kept_open(&credentials, A, [&unproved], later).unwrap();
            assert_eq!(kept, Kept::Unproved(unproved.name_any()));
            assert!(!kept.explain(A).contains("restart"), "its Secret has not changed");
        }
    }
}
