use std::collections::BTreeMap;

use super::*;
use crate::postgres::model::RoleState;
use crate::postgres::step::Topic;

type Tamper = Box<dyn Fn(&mut DatabaseState, &mut RoleState)>;

#[test]
fn a_new_database() {
    insta::assert_snapshot!(sql(&open(&desired(), &empty(170_006)).unwrap(), 170_006));
}

#[test]
fn a_new_database_on_14() {
    insta::assert_snapshot!(sql(&open(&desired(), &empty(140_010)).unwrap(), 140_010));
}

/// An ordinary role may not read verifiers: it stores a fingerprint of what it has set.
#[test]
fn hidden_verifiers_leave_a_fingerprint() {
    let empty = Observed { hidden: true, ..empty(170_006) };
    let steps = open(&desired(), &empty).unwrap();
    let login = Names::from_uid(UID).login;
    let noted = steps.windows(2).any(|pair| {
        matches!(&pair[0], Step::Login { role, .. } if *role == login)
            && matches!(&pair[1], Step::Note { role, .. } if *role == login)
            && pair[0].scope() == pair[1].scope()
    });
    assert!(noted, "in one transaction: {steps:?}");
    assert!(!sql(&steps, 170_006).contains(TENANTS), "the group is for lookups only");

    // The fingerprint is read back.
    let mut there = after(empty, &steps);
    let fingerprint = crate::postgres::scram::fingerprint(VERIFIER);
    there.roles.get_mut(&login).unwrap().verifier = Some(fingerprint);
    assert_eq!(open(&desired(), &there).unwrap(), []);
    // Its password was found to be wrong.
    there.roles.get_mut(&login).unwrap().verifier = None;
    assert_eq!(topics(&open(&desired(), &there).unwrap()), ["login", "login"]);
}

#[test]
fn a_database_as_desired_needs_no_steps() {
    for version in [140_010, 150_018, 170_006] {
        assert_eq!(open(&desired(), &provisioned(version)).unwrap(), []);
    }
}

/// Changes by a customer or a careless administrator, and the step that reverts each.
#[test]
fn drift_is_reverted() {
    let names = desired().names;
    let other = Names::from_uid(OTHER);
    let database = names.database.clone();
    let (other_login, other_owner) = (other.login.clone(), other.owner);
    let cases: Vec<(&str, Tamper)> = vec![
        ("password", Box::new(|_, login| login.verifier = Some("SCRAM-SHA-256$4096:x$y:z".into()))),
        ("public may connect", Box::new(|db, _| _ = db.grants.insert(Grant::new("", "CONNECT")))),
        (
            "another customer may connect",
            Box::new(move |db, _| _ = db.grants.insert(Grant::new(&other_login, "CONNECT"))),
        ),
        (
            "another customer's role",
            Box::new(move |_, login| _ = login.member_of.insert(other_owner.clone(), membership(170_006, true))),
        ),
        ("more connections", Box::new(|db, _| db.limit = -1)),
        ("may make databases", Box::new(|_, login| login.powers = true)),
        (
            "own setting",
            Box::new(move |_, login| {
                _ = login.settings.entry(database.clone()).or_default().insert("work_mem=1GB".into())
            }),
        ),
        ("no login", Box::new(|_, login| login.login = false)),
    ];
    let seen: BTreeMap<_, _> = cases
        .iter()
        .map(|(what, tamper)| {
            let mut observed = provisioned(170_006);
            let mut login = observed.roles.remove(&names.login).unwrap();
            tamper(observed.databases.get_mut(&names.database).unwrap(), &mut login);
            observed.roles.insert(names.login.clone(), login);
            (*what, sql(&open(&desired(), &observed).unwrap(), 170_006))
        })
        .collect();
    insta::assert_yaml_snapshot!(seen);
}

#[test]
fn roles_of_administrators_are_not_changed() {
    let mut observed = provisioned(170_006);
    let names = desired().names;
    observed.databases.get_mut(&names.database).unwrap().grants.insert(Grant::new("backup", "CONNECT"));
    let login = observed.roles.get_mut(&names.login).unwrap();
    login.member_of.insert("pg_read_all_stats".into(), membership(170_006, true));
    assert_eq!(open(&desired(), &observed).unwrap(), []);
}

#[test]
fn a_dropped_role_is_recreated_without_touching_the_contents() {
    let mut observed = provisioned(170_006);
    observed.roles.remove(&desired().names.login);
    let steps = open(&desired(), &observed).unwrap();
    assert!(steps.iter().all(|step| step.topic() != Topic::Contents && step.topic() != Topic::Database), "{steps:?}");
}

#[test]
fn a_lost_database_is_not_replaced_by_an_empty_one() {
    let desired = Desired { provisioned: true, ..desired() };
    assert!(matches!(open(&desired, &empty(170_006)), Err(Refusal::Missing(_))));
    let mut observed = provisioned(170_006);
    observed.databases.get_mut(&desired.names.database).unwrap().limit = INVALID;
    assert!(matches!(open(&desired, &observed), Err(Refusal::Missing(_))));
}

#[test]
fn an_interrupted_drop_is_finished_first() {
    let mut observed = provisioned(170_006);
    observed.databases.get_mut(&desired().names.database).unwrap().limit = INVALID;
    let steps = open(&desired(), &observed).unwrap();
    assert!(matches!(&steps[..2], [Step::DropDatabase { .. }, Step::CreateDatabase { .. }]), "{steps:?}");
}

#[test]
fn databases_of_others_are_not_changed() {
    let comments = [
        None,
        Some("the shop".to_owned()),
        Some(identity(OTHER, "acme").ownership(State::Archived).comment()),
        Some(identity(OTHER, "acme").ownership(State::Deleting).comment()),
        Some(identity(OTHER, "other").ownership(State::Active).comment()),
        Some(identity(OTHER, "other").ownership(State::Retained).comment()),
        Some(Ownership { cluster: "another".into(), ..identity(UID, "acme").ownership(State::Active) }.comment()),
    ];
    for comment in comments {
        let names = desired().names;
        let mut observed = provisioned(170_006);
        let database = observed.databases.get_mut(&names.database).unwrap();
        database.comment.clone_from(&comment);
        for limit in [30, INVALID] {
            observed.databases.get_mut(&names.database).unwrap().limit = limit;
            observed.databases.get_mut(&names.database).unwrap().owner = "dba".into();
            let identity = &desired().identity;
            let answers = [
                open(&desired(), &observed),
                retain(&names, identity, &observed),
                archive(&names, identity, &observed, "zz_x".into()),
                delete(&names, identity, &observed),
            ];
            for answer in answers {
                assert!(matches!(answer, Err(Refusal::NotOurs(_))), "{comment:?} {limit}: {answer:?}");
            }
        }
    }
}

/// Only a declared extension that was dropped is recreated.
#[test]
fn a_dropped_extension_is_recreated() {
    let mut observed = provisioned(170_006);
    let database = desired().names.database;
    observed.databases.get_mut(&database).unwrap().lost_extensions.insert("pgcrypto".into());
    let steps = open(&desired(), &observed).unwrap();
    assert_eq!(topics(&steps), ["extensions"]);
    assert_eq!(open(&desired(), &after(observed.clone(), &steps)).unwrap(), []);
    let none = Desired { extensions: BTreeSet::new(), ..desired() };
    assert_eq!(open(&none, &observed).unwrap(), [], "not declared any more");
}

/// PostgreSQL stores a list in its own spelling.
#[test]
fn a_search_path_is_set_once() {
    let desired = Desired { parameters: [("search_path".to_owned(), "app, user".to_owned())].into(), ..desired() };
    let empty = empty(170_006);
    let steps = open(&desired, &empty).unwrap();
    assert!(sql(&steps, 170_006).contains("SET \"search_path\" = 'app', 'user'"), "{}", sql(&steps, 170_006));
    let mut there = after(empty, &steps);
    let settings =
        there.roles.get_mut(&desired.names.login).unwrap().settings.get_mut(&desired.names.database).unwrap();
    settings.retain(|setting| !setting.starts_with("search_path="));
    settings.insert("search_path=app, \"user\"".into());
    assert_eq!(open(&desired, &there).unwrap(), []);
}
