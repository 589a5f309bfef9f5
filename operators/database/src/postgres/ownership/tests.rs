use super::*;
use proptest::prelude::*;

fn ownership() -> Ownership {
    let cluster = Cluster::new("0b2a7c1e-1d3c-4f7e-9a51-1b1f6f1f0c11");
    Ownership {
        object: cluster.object("customer-acme", "acme"),
        cluster: cluster.id,
        uid: "3f2504e0-4f89-41d3-9a0c-0305e82c3301".into(),
        state: State::Active,
        extensions: Some(["pgcrypto".to_owned()].into()),
        frozen: false,
        full: false,
    }
}

#[test]
fn text() {
    insta::assert_snapshot!(ownership().comment());
}

#[test]
fn markers_survive_a_round_trip() {
    let comment = ownership().comment();
    // The sweep's query matches this prefix.
    assert!(comment.starts_with(r#"{"ahoi":"#));
    assert_eq!(Ownership::parse(&comment), Some(ownership()));
}

#[test]
fn markers_name_no_customer() {
    assert!(!ownership().comment().contains("acme"));
}

#[test]
fn the_hash_depends_on_the_cluster() {
    assert_ne!(Cluster::new("a").object("n", "m"), Cluster::new("b").object("n", "m"));
    assert_ne!(Cluster::new("a").object("n", "m"), Cluster::new("a").object("nm", ""));
}

proptest! {
    #[test]
    fn other_comments_are_no_markers(comment in ".{0,200}") {
        prop_assert_eq!(Ownership::parse(&comment), None);
    }
}
