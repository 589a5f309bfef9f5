use ahoi_reconcile::testing::{ApiServer, ready};

use super::*;
use crate::testing::{admin, context, database, secret, server};

fn references(context: &Context) -> References {
    let server = ready(server("pg-1"));
    References {
        database: Arc::new(database()),
        instance: context.instance(&server).unwrap(),
        server: Arc::new(server),
        names: Names::of("c_3f2504e04f89"),
        other: OtherLogin::Closed,
        binding: None,
        connection_pools: Vec::new(),
    }
}

/// Whether a session uses it need not be known until then.
#[tokio::test]
async fn a_former_login_stays_open_for_two_minutes() {
    let context = context(&ApiServer::new(), vec![], vec![], vec![admin()]);
    let references = references(&context);
    let logins = Logins { context: &context, references: &references, access: Access::Write };
    let rotated = Timestamp::now();
    let status = rotation::begun(None, None, Some(references.names.other.clone()), rotated);
    let kept = async |seconds: i64| {
        let now = rotated + jiff::SignedDuration::from_secs(seconds);
        rotation::kept_open(&logins, &references.names.other, &status, now).await
    };
    assert_eq!(kept(119).await.unwrap(), Some(Kept::Recent));
}

/// pgbouncer never looks up a login that its file contained once, even after the admin role may read verifiers.
#[tokio::test]
async fn a_verifier_is_published_if_the_agents_have_one_of_the_database() {
    let names = Names::of("c_3f2504e04f89");
    let published = ahoi_api::verifier_secret(&names.database);
    let writes = async |known: &str| {
        let api = ApiServer::new();
        let verifiers = secret(&published, &[(known, "v")]);
        let context = context(&api, vec![ready(server("pg-1"))], vec![], vec![admin(), verifiers]);
        let references = references(&context);
        let logins = Logins { context: &context, references: &references, access: Access::Write };
        assert!(!logins.postgres().hides_passwords());
        // The answer about the binding Secret does not matter here.
        let _ = logins.write_secret(&names, &Credentials::generate().unwrap()).await;
        api.take_writes()
    };
    let patch = format!("PATCH /api/v1/namespaces/ahoi-system/secrets/{published}");
    assert_eq!(writes("c_3f2504e04f89_b").await.first(), Some(&patch), "before the binding");
    assert!(!writes("c_000000000000_a").await.contains(&patch), "poolers look up its logins");
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
fn connection_pools_keep_a_former_login_open() {
    const A: &str = "c_3f2504e04f89_a";
    const B: &str = "c_3f2504e04f89_b";
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
    assert_eq!(kept_by([&done, &new], A), None);
    assert_eq!(kept_by([], A), None, "no pool at all");
    assert_eq!(kept_by([&done, &busy], A), Some(Kept::ConnectionPool("busy".into())));
    // The Secret of a pool that is full or suspended, or whose next Secret cannot be written, has not changed.
    for unproved in [pool("unproved", &format!("{{{idle}}}")), other] {
        assert_eq!(kept_by([&unproved], A), Some(Kept::Unproved(unproved.name_any())));
    }
}
