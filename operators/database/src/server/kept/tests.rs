use super::*;
use crate::postgres::model::DatabaseState;
use crate::postgres::ownership::{Cluster, Ownership};

#[test]
fn databases_without_an_object_are_kept() {
    let here = Cluster::new("here");
    let database = |cluster: &str, name: &str, state: State| {
        let ownership = Ownership {
            cluster: cluster.to_owned(),
            object: here.object("n", name),
            uid: name.to_owned(),
            state,
            extensions: None,
            frozen: false,
            full: false,
        };
        (name.to_owned(), DatabaseState { comment: Some(ownership.comment()), ..DatabaseState::default() })
    };
    let databases = [
        database(&here.id, "in-use", State::Active),
        database(&here.id, "orphan", State::Active),
        database(&here.id, "retained", State::Retained),
        database(&here.id, "archived", State::Archived),
        database(&here.id, "deleting", State::Deleting),
        database("lost", "theirs", State::Active),
        database("lost", "theirs-archived", State::Archived),
        database("living", "shared", State::Active),
    ];
    let observed = Observed { databases: databases.into(), ..Observed::default() };
    let unclaimed = ["orphan".to_owned(), "retained".to_owned()].into();
    let found = find(&observed, &here.id, &["living".to_owned()], &unclaimed);
    let lost = Some("lost".to_owned());
    let expected = [
        ("archived", State::Archived, None, KeptState::Archived),
        ("orphan", State::Active, None, KeptState::Retained),
        ("retained", State::Retained, None, KeptState::Retained),
        ("theirs", State::Active, lost.clone(), KeptState::Active),
        ("theirs-archived", State::Archived, lost, KeptState::Archived),
    ];
    let found: Vec<_> = found.iter().map(|(name, m)| (name.as_str(), m.0, m.1.clone(), why(m))).collect();
    assert_eq!(found, expected);
}
