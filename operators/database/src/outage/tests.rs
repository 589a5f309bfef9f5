use ahoi_reconcile::Verdict;
use ahoi_reconcile::testing::{ready, settled};

use super::*;
use crate::testing::server;

fn database(name: &str, on: &str) -> Database {
    serde_saphyr::from_str(&format!(
        "
        apiVersion: internal.example.com/v1
        kind: Database
        metadata: {{name: {name}, namespace: customer-{name}, uid: {name}, generation: 1}}
        spec: {{storage: 1gb}}
        status: {{server: {on}, databaseName: c_3f2504e04f89}}
        "
    ))
    .unwrap()
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::now() + jiff::SignedDuration::from_secs(seconds)
}

#[test]
fn databases_report_an_outage_that_lasts_and_its_end() {
    let down = settled(server("pg-1"), Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable"));
    let refusing = settled(server("pg-1"), Verdict::stalled(Reason::LoginRefused, "no"));
    let unready = |name: &str, reason: Reason| settled(database(name, "pg-1"), Verdict::progressing(reason, "…"));
    let all = [
        ready(database("fine", "pg-1")),
        ready(database("elsewhere", "pg-2")),
        unready("reported", Reason::DatabaseServerUnreachable),
        unready("another", Reason::Creating),
    ];
    let names = |server: &DatabaseServer, seconds| {
        let found = outdated(server, &all, after(seconds));
        found.into_iter().map(|database| database.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&down, 58), Vec::<String>::new(), "only the server reports it");
    assert_eq!(names(&down, 62), ["fine"]);
    assert_eq!(names(&refusing, 62), Vec::<String>::new(), "customers are served");
    assert_eq!(names(&ready(server("pg-1")), 0), ["reported"]);
}
