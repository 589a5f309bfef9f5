use std::sync::Arc;

use ahoi_api::{Binding, Credentials as Request};
use ahoi_reconcile::testing::{ApiServer, ready};
use jiff::SignedDuration;

use super::*;
use crate::postgres::names::Names;
use crate::testing::{admin, context, database, server};

const STORAGE: i64 = 1_000_000_000;

fn now() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

/// A published database whose login was rotated so many seconds ago.
fn references(rotated: i64, other: OtherLogin) -> References {
    let context = context(&ApiServer::new(), vec![], vec![], vec![admin()]);
    let server = ready(server("pg-1"));
    let mut database = database();
    let status = database.status.get_or_insert_default();
    status.binding = Some(Binding { name: "acme-database".into(), version: "v".into() });
    status.credentials = Some(credentials(rotated, None));
    References {
        database: Arc::new(database),
        instance: context.instance(&server).unwrap(),
        server: Arc::new(server),
        names: Names::of("c_3f2504e04f89"),
        other,
        binding: None,
        connection_pools: Vec::new(),
    }
}

fn credentials(rotated: i64, previous_login: Option<&str>) -> CredentialsStatus {
    CredentialsStatus {
        rotated_at: Time(now() - SignedDuration::from_secs(rotated)),
        rotation_request: None,
        previous_login: previous_login.map(str::to_owned),
        lost_secrets: None,
    }
}

fn observed(credentials: Option<Credentials>, status: CredentialsStatus, former: Option<Kept>) -> Observed {
    Observed { level: Level::Within, size: Some(1), grows: false, credentials, status, former, at: now() }
}

fn decide(references: &References, observed: Observed) -> Desired {
    desired(Validated { storage: STORAGE }, references, observed).unwrap()
}

#[tokio::test]
async fn a_lost_secret_replaces_the_login_unless_clients_use_the_former_one() {
    let closed = references(3600, OtherLogin::Closed);
    let lost = decide(&closed, observed(None, credentials(3600, None), None));
    assert!(matches!(lost.login, LoginAction::Replace { losses: 0 }));
    let present = decide(&closed, observed(Some(Credentials::of("x".into())), credentials(3600, None), None));
    assert!(matches!(present.login, LoginAction::Publish(Some(_))));

    let open = references(60, OtherLogin::Former);
    let status = credentials(60, Some("c_3f2504e04f89_b"));
    let held = decide(&open, observed(None, status.clone(), Some(Kept::Sessions)));
    assert!(matches!(held.login, LoginAction::Hold(at) if at == now() + SignedDuration::from_secs(90)));
    assert_eq!(held.other, OtherLogin::Former);
    let unused = decide(&open, observed(None, status, None));
    assert_eq!((unused.other, unused.credentials.previous_login), (OtherLogin::Closed, None));
}

#[tokio::test]
async fn a_rotation_waits_for_the_former_login() {
    let request = Request { rotation_request: Some("now".into()), ..Request::default() };
    let with = |mut references: References, status: CredentialsStatus, former| {
        let mut database = (*references.database).clone();
        database.spec.credentials = Some(request.clone());
        references.database = Arc::new(database);
        decide(&references, observed(Some(Credentials::of("x".into())), status, former)).login
    };
    let rotates = with(references(3600, OtherLogin::Closed), credentials(3600, None), None);
    assert!(matches!(rotates, LoginAction::Rotate(Some(_))));
    let status = credentials(3600, Some("c_3f2504e04f89_b"));
    let waits = with(references(3600, OtherLogin::Former), status, Some(Kept::Sessions));
    assert!(matches!(waits, LoginAction::Publish(Some(_))));
}

#[tokio::test]
async fn a_growing_database_is_closed_for_a_while() {
    let references = references(3600, OtherLogin::Closed);
    let full = |grows| {
        let status = credentials(3600, None);
        let observed = observed(Some(Credentials::of("x".into())), status, None);
        decide(&references, Observed { level: Level::Exceeded, size: Some(STORAGE), grows, ..observed })
    };
    assert_eq!((full(false).level, full(false).closed_until), (Level::Exceeded, None));
    let closed = full(true);
    assert_eq!((closed.level, closed.closed_until), (Level::Closed, Some(Time(now() + quota::CLOSED_FOR))));

    let mut database = (*references.database).clone();
    let mut level = |seconds: i64| {
        let status = database.status.get_or_insert_default();
        status.closed_until = Some(Time(now() + SignedDuration::from_secs(seconds)));
        super::closed(&database, Level::Closed, false, now()).0
    };
    assert_eq!([level(1), level(0)], [Level::Closed, Level::Exceeded]);
}
