//! Two generations of login: which of the two is given away, when they change places, and when the former one may go.
//!
//! The Secret decides which login is in use, because writing it is the one step by which applications change over. Before
//! it, the next login is only made, and making it again does no harm; after it, the status follows. The process may die
//! between any two of these.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use ahoi_api::{ConnectionPool, CredentialsStatus, Database, DatabaseStatus};
use ahoi_reconcile::Error;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::desired::OtherLogin;
use super::names::Names;
use crate::secret;

/// How long a former login is kept open at least: until every kubelet has brought the new Secret to those who read it from
/// a file, and who may have no connection just now.
const GRACE: Duration = Duration::from_secs(120);
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

/// When credentials are to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    In(Duration),
    Never,
}

/// When the database's credentials are to be replaced, at whose word ever.
pub fn due(database: &Database, now: Timestamp) -> Result<Due, Error> {
    let known = database.status.as_ref().and_then(|status| status.credentials.as_ref());
    let (Some(wanted), Some(known)) = (&database.spec.credentials, known) else { return Ok(Due::Never) };
    if wanted.rotation_trigger.is_some() && wanted.rotation_trigger != known.trigger {
        return Ok(Due::Now);
    }
    let Some(interval) = &wanted.rotation_interval else { return Ok(Due::Never) };
    let interval = interval.parse::<SignedDuration>().ok().and_then(|interval| Duration::try_from(interval).ok());
    let interval = interval.filter(|interval| !interval.is_zero()).ok_or_else(|| {
        let message = "spec.credentials.rotationInterval is no duration such as 720h";
        Error::terminal("InvalidRotationInterval", message)
    })?;
    let lifetime = interval.saturating_sub(staggered(&database.uid().unwrap_or_default(), interval / 5));
    let age = age(known, now);
    Ok(if age >= lifetime { Due::Now } else { Due::In(lifetime - age) })
}

/// A part of `most` that is always the same for one object, and another for others.
fn staggered(uid: &str, most: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    most.mul_f64(f64::from(u32::try_from(hasher.finish() % 1000).unwrap_or_default()) / 1000.0)
}

fn age(credentials: &CredentialsStatus, now: Timestamp) -> Duration {
    // A clock that went backwards makes nothing old.
    Duration::try_from(now.duration_since(credentials.rotated_at.0)).unwrap_or_default()
}

/// What keeps a former login open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Not everybody has the new Secret yet.
    Young,
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
    let pool = pools.into_iter().filter(uses).map(ResourceExt::name_any).min();
    pool.map(Kept::Pool)
}

/// How soon a former login is looked at again. Its pools wake the database, the sessions on the server do not.
pub fn look_again(credentials: &CredentialsStatus, now: Timestamp) -> Duration {
    if age(credentials, now) < LONG { SOON } else { SELDOM }
}

/// What is said of credentials from `now` on.
pub fn begun(database: &Database, former: Option<String>, now: Timestamp) -> CredentialsStatus {
    let trigger = database.spec.credentials.as_ref().and_then(|wanted| wanted.rotation_trigger.clone());
    let known = database.status.as_ref().and_then(|status| status.credentials.as_ref());
    CredentialsStatus {
        rotated_at: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        // One that is taken back and set again is not new.
        trigger: trigger.or_else(|| known.and_then(|known| known.trigger.clone())),
        previous_login: former,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::secret;

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

    fn due_with(credentials: &str, status: &str) -> Due {
        due(&database(credentials, status), now()).unwrap()
    }

    #[test]
    fn a_trigger_is_honoured_once() {
        let status = "{rotatedAt: 2026-02-28T23:59:59Z, trigger: one}";
        assert_eq!(due_with("{rotationTrigger: one}", status), Due::Never);
        assert_eq!(due_with("{rotationTrigger: two}", status), Due::Now);
        assert_eq!(due_with("{}", status), Due::Never, "taken back");
        let rotated = begun(&database("{rotationTrigger: two}", status), Some(A.into()), now());
        assert_eq!((rotated.trigger.as_deref(), rotated.previous_login.as_deref()), (Some("two"), Some(A)));
        let kept = begun(&database("{}", status), None, now());
        assert_eq!(kept.trigger.as_deref(), Some("one"));
    }

    #[test]
    fn an_interval_ends_within_its_last_fifth() {
        let status = |at: &str| format!("{{rotatedAt: {at}}}");
        assert_eq!(due_with("{rotationInterval: 100h}", &status("2026-02-24T19:59:59Z")), Due::Now, "100 h and 1 s");
        let Due::In(rest) = due_with("{rotationInterval: 100h}", &status("2026-02-28T23:00:00Z")) else {
            panic!("due after an hour of a hundred")
        };
        let hours = rest.as_secs_f64() / 3600.0;
        assert!((79.0..=99.0).contains(&hours), "{hours} h");
        let others = ["a", "b", "c", "d"].map(|uid| staggered(uid, Duration::from_secs(20 * 3600)));
        assert!(others.iter().all(|one| others.iter().filter(|other| *other == one).count() == 1), "{others:?}");
        assert_eq!(
            due_with("{rotationInterval: 1h30m}", &status("2027-01-01T00:00:00Z")),
            due_with("{rotationInterval: 1h30m}", &status("2026-03-01T00:00:00Z")),
            "the clock went back"
        );
        assert!(due(&database("{rotationInterval: h}", &status("2026-02-28T23:00:00Z")), now()).is_err());
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
        let route = "route: {server: s, host: h, port: 1, database: d, authDatabase: p, authLogin: l, poolMode: Transaction, poolSize: 1}";
        let busy = pool("busy", &format!("{{{route}}}"));
        let done = pool("done", &format!("{{{route}, unusedLogin: {A}}}"));
        let other = pool("other", &format!("{{{route}, unusedLogin: {B}}}"));
        let new = pool("new", "{}");
        assert_eq!(kept_open(&credentials, A, [&done], now()), Some(Kept::Young));
        assert_eq!(kept_open(&credentials, A, [&done, &new], later), None);
        assert_eq!(kept_open(&credentials, A, [], later), None, "no pool at all");
        assert_eq!(kept_open(&credentials, A, [&done, &busy], later), Some(Kept::Pool("busy".into())));
        assert_eq!(kept_open(&credentials, A, [&other], later), Some(Kept::Pool("other".into())));
    }
}
