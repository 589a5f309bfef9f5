use super::*;

#[test]
fn only_logins_of_this_cluster_without_a_server_are_dropped() {
    let owner = |cluster: &str, server: &str| LoginOwner { cluster: cluster.into(), server: server.into() }.comment();
    let found = [
        ("ahoi_pooler_00000001_a", owner("c1", "living")),
        ("ahoi_pooler_00000002_a", owner("c1", "deleted")),
        ("ahoi_pooler_00000003_a", owner("c2", "deleted")),
        ("ahoi_pooler_00000004_a", "of cluster c1, by a person".to_owned()),
    ]
    .map(|(login, comment)| (login.to_owned(), comment));
    assert_eq!(removed(&found, "c1", &["living".to_owned()].into()), ["ahoi_pooler_00000002_a"]);
}
