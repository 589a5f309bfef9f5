use super::*;

#[test]
fn retained_data_is_readopted() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = retain(&names, &desired().identity, &observed).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let closed = after(observed, &steps);
    assert_eq!(retain(&names, &desired().identity, &closed).unwrap(), []);

    let heir = Desired { identity: identity(OTHER, "acme"), ..desired() };
    let steps = open(&heir, &closed).unwrap();
    assert_eq!(topics(&steps), ["ownership marker", "login"]);
    assert_eq!(open(&heir, &after(closed, &steps)).unwrap(), []);
}

/// The server was unreachable when the object was deleted, so the logins are still open.
#[test]
fn open_data_is_readopted() {
    let heir = Desired { identity: identity(OTHER, "acme"), ..desired() };
    let observed = provisioned(170_006);
    let steps = open(&heir, &observed).unwrap();
    assert_eq!(topics(&steps), ["ownership marker"]);
    assert_eq!(open(&heir, &after(observed, &steps)).unwrap(), []);
}

/// The heir is deleted before it has adopted the data.
#[test]
fn retained_data_survives_an_heir_that_has_not_adopted_it() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let closed = after(observed.clone(), &retain(&names, &desired().identity, &observed).unwrap());
    let heir = identity(OTHER, "acme");
    assert_eq!(delete(&names, &heir, &closed).unwrap(), []);
    assert_eq!(archive(&names, &heir, &closed, "zz_x".into()).unwrap(), []);
    assert_eq!(retain(&names, &heir, &closed).unwrap(), []);
}

/// The process dies during the adoption, and the heir is deleted then.
#[test]
fn an_heir_that_is_deleted_halfway_leaves_no_login_open() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let closed = after(observed.clone(), &retain(&names, &desired().identity, &observed).unwrap());
    let heir = Desired { identity: identity(OTHER, "acme"), extensions: ["hstore".to_owned()].into(), ..desired() };
    let steps = open(&heir, &closed).unwrap();
    for died_after in 0..=steps.len() {
        let left = after(closed.clone(), &steps[..died_after]);
        let closings = [
            delete(&names, &heir.identity, &left).unwrap(),
            archive(&names, &heir.identity, &left, "zz_x".into()).unwrap(),
            retain(&names, &heir.identity, &left).unwrap(),
        ];
        for closing in closings {
            let end = after(left.clone(), &closing);
            assert!(end.roles.get(&names.login).is_none_or(|role| !role.login), "after {died_after}: {closing:?}");
        }
    }
}

#[test]
fn an_archived_database() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = archive(&names, &desired().identity, &observed, names.archived(1_790_000_000)).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let archived = after(observed, &steps);
    assert_eq!(archive(&names, &desired().identity, &archived, names.archived(1_790_000_000)).unwrap(), []);
}

#[test]
fn a_dropped_database() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = delete(&names, &desired().identity, &observed).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let dropped = after(observed, &steps);
    let forget = Step::Forget { database: names.database.clone() };
    assert_eq!(delete(&names, &desired().identity, &dropped).unwrap(), [forget], "the table may still list it");
}

/// If the server refuses the drop, no login is open by then, and no object of the same name adopts the data.
#[test]
fn a_drop_closes_and_marks_the_database_first() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = delete(&names, &desired().identity, &observed).unwrap();
    let drop = steps.iter().position(|step| matches!(step, Step::DropDatabase { .. })).unwrap();
    let refused = after(observed, &steps[..drop]);
    assert!(refused.roles.values().all(|role| !role.login));
    let heir = Desired { identity: identity(OTHER, "acme"), ..desired() };
    assert!(matches!(open(&heir, &refused), Err(Refusal::NotOurs(_))), "the name of the database comes from the uid");
    let again = delete(&names, &desired().identity, &refused).unwrap();
    assert!(again.contains(&Step::DropDatabase { database: names.database.clone() }), "it is repeated");
    assert!(!again.iter().any(|step| matches!(step, Step::Mark { .. })), "the marker is not written again");
    // The policy was changed in time.
    let kept = after(refused.clone(), &retain(&names, &desired().identity, &refused).unwrap());
    assert!(matches!(open(&heir, &kept), Ok(steps) if !steps.is_empty()));
}

#[test]
fn closing_closes_both_logins() {
    let names = desired().names;
    let rotating = Desired { names: names.clone().rotated(), other: OtherLogin::Former, ..desired() };
    let both = after(provisioned(170_006), &open(&rotating, &provisioned(170_006)).unwrap());
    let closed = after(both.clone(), &retain(&names, &desired().identity, &both).unwrap());
    assert!([&names.login, &names.other].into_iter().all(|login| !closed.roles[login].login));
    let dropped = after(both.clone(), &delete(&names, &desired().identity, &both).unwrap());
    assert!(dropped.roles.is_empty(), "{:?}", dropped.roles.keys());
}
