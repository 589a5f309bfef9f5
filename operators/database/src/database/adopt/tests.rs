use super::*;
use crate::postgres::ownership::Cluster;
use crate::testing::server;

fn identity(cluster: &str) -> Identity {
    Identity::new(&Cluster::new(cluster), "customer-acme".into(), "acme".into(), "new".into())
}

#[test]
fn data_of_another_cluster_blocks_unless_the_server_is_shared() {
    let (here, there) = (identity("here"), identity("there").ownership(State::Active));
    let mut spec = server("pg-1").spec;
    assert!(is_others(&there, &here, &spec));
    assert!(!is_others(&here.ownership(State::Retained), &here, &spec), "its own");
    for state in [State::Archived, State::Deleting] {
        assert!(!is_others(&Ownership { state, ..there.clone() }, &here, &spec), "{state:?} is not adopted");
    }
    spec.shared_with_clusters = vec![there.cluster.clone()];
    assert!(!is_others(&there, &here, &spec));
}

#[test]
fn adopted_data_is_retained_data_of_this_cluster() {
    let here = identity("here");
    let former = Ownership {
        full: true,
        extensions: Some(["citext".to_owned()].into()),
        ..identity("there").ownership(State::Active)
    };
    let ownership = taken_over(&here, former);
    assert_eq!((&ownership.cluster, &ownership.object, ownership.uid.as_str()), (&here.cluster, &here.object, "new"));
    assert_eq!(
        (ownership.state, ownership.full, ownership.extensions),
        (State::Retained, true, Some(["citext".to_owned()].into()))
    );
}

#[test]
fn messages_state_the_age_of_the_data_and_the_remedy() {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let names = Names::of("c_3f2504e04f89");
    insta::assert_snapshot!(refusal("pg-1", &names, Some(time("2026-01-02T03:04:05.5Z"))), @"DatabaseServer pg-1 has database c_3f2504e04f89, which an earlier customer of this name left at 2026-01-02T03:04:05Z, and adoptionPolicy is Refuse: set spec.adoptionPolicy of the Customer to Automatic to adopt the data, or purge it as in docs/restore.md");
    let data = AdoptedData {
        retained_since: Some(Time(time("2026-01-02T03:04:05.5Z"))),
        at: Time(time("2026-02-02T03:04:05Z")),
        cluster: Some("9577416226f80000".into()),
    };
    insta::assert_snapshot!(explain(&data), @"adopted at 2026-02-02T03:04:05Z the data that an earlier Database of this name of cluster 9577416226f80000 left, kept since 2026-01-02T03:04:05Z");
    assert_eq!(
        [in_words(30), in_words(300), in_words(86_400), in_words(864_000)],
        ["30 seconds", "5 minutes", "24 hours", "10 days"]
    );
}

#[test]
fn an_unusable_server_with_data_of_another_cluster_is_waited_for() {
    let mut down = server("pg-1");
    assert!(!may_keep(&down, None, "object"));
    let other = ahoi_api::OtherCluster { id: "9577416226f80000".into(), databases: 1 };
    down.status.get_or_insert_default().other_clusters = vec![other];
    assert!(may_keep(&down, None, "object"));
}
