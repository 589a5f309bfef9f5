use super::*;
use crate::postgres::step::Topic;

#[test]
fn a_full_database_is_frozen_and_thawed() {
    let observed = provisioned(170_006);
    let frozen = Desired { access: Access::Shrink, ..desired() };
    let steps = open(&frozen, &observed).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let cold = after(observed, &steps);
    assert_eq!(open(&frozen, &cold).unwrap(), []);
    let steps = open(&desired(), &cold).unwrap();
    assert_eq!(topics(&steps), ["privileges", "contents", "contents", "ownership marker"]);
    assert_eq!(open(&desired(), &after(cold, &steps)).unwrap(), []);
}

/// Both logins are closed, and opened with their former passwords.
#[test]
fn a_growing_database_is_closed_and_opened_again() {
    let names = desired().names;
    let full = Desired { access: Access::Shrink, other: OtherLogin::Former, ..desired() };
    let rotated = Desired { names: names.clone().rotated(), ..full.clone() };
    let both = after(provisioned(170_006), &open(&rotated, &provisioned(170_006)).unwrap());
    let both = after(both.clone(), &open(&full, &both).unwrap());
    let breached = Desired { access: Access::Closed, ..full.clone() };
    let steps = open(&breached, &both).unwrap();
    assert_eq!(topics(&steps), ["login", "sessions", "login", "sessions"]);
    let closed = after(both.clone(), &steps);
    assert_eq!(open(&breached, &closed).unwrap(), []);
    assert!([&names.login, &names.other].into_iter().all(|login| !closed.roles[login].login));
    let steps = open(&full, &closed).unwrap();
    assert_eq!(topics(&steps), ["login", "login"]);
    assert_eq!(after(closed.clone(), &steps), both);
    let raised = Desired { access: Access::Write, ..full };
    let steps = open(&raised, &closed).unwrap();
    assert_eq!(topics(&steps), ["login", "login", "privileges", "contents", "contents", "ownership marker"]);
}

/// An earlier release used a role and other triggers.
#[test]
fn a_freeze_of_an_earlier_release_is_upgraded() {
    let mut observed = provisioned(170_006);
    let names = desired().names;
    let state = observed.databases.get_mut(&names.database).unwrap();
    let comment = state.comment.clone().unwrap();
    state.comment = Some(comment.replace(r#""extensions""#, r#""frozen":true,"extensions""#));
    assert!(state.ownership().unwrap().frozen);
    let kinds = |access| {
        let steps = open(&Desired { access, ..desired() }, &observed).unwrap();
        let healed = after(observed.clone(), &steps);
        assert_eq!(open(&Desired { access, ..desired() }, &healed).unwrap(), []);
        steps.iter().map(Step::topic).collect::<Vec<_>>()
    };
    assert_eq!(kinds(Access::Write), [Topic::Contents, Topic::Contents, Topic::Ownership], "thawed");
    let frozen = [
        Topic::Privileges,
        Topic::Privileges,
        Topic::Contents,
        Topic::Contents,
        Topic::Sessions,
        Topic::Contents,
        Topic::Contents,
        Topic::Ownership,
    ];
    assert_eq!(kinds(Access::Shrink), frozen, "thawed, and frozen in the present way");
}
