use ahoi_api::OtherCluster;

use super::*;
use crate::testing::server;

#[test]
fn other_clusters_are_reported_until_the_spec_lists_them() {
    let mut server = server("pg-1");
    let mut status = DatabaseServerStatus::default();
    let reason = |server: &DatabaseServer, status: &mut DatabaseServerStatus| {
        set_condition(status, server);
        let found = conditions::find(&status.conditions, DATA_OF_OTHER_CLUSTERS);
        found.map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    assert_eq!(reason(&server, &mut status), None);
    status.other_clusters = vec![OtherCluster { id: "9577416226f80000".into(), databases: 3 }];
    let (undecided, message) = reason(&server, &mut status).unwrap();
    assert_eq!(undecided, "Undecided");
    assert!(message.contains("9577416226f80000 (3)") && message.contains("spec.adoptFromCluster"), "{message}");
    server.spec.adopt_from_cluster = Some("9577416226f80000".into());
    assert_eq!(reason(&server, &mut status).unwrap().0, "Adopting");
    status.other_clusters.clear();
    assert_eq!(reason(&server, &mut status), None);
}
