use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::step::Topic;
use super::*;
use crate::postgres::model::RoleState;
use crate::postgres::ownership::Cluster;

const UID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const OTHER: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const VERIFIER: &str = "SCRAM-SHA-256$4096:salt$stored:server";

fn identity(uid: &str, name: &str) -> Identity {
    let cluster = Cluster::new("cluster");
    Identity {
        object: cluster.object("customer-acme", name),
        cluster: cluster.id,
        uid: uid.into(),
        namespace: "customer-acme".into(),
        name: name.into(),
    }
}

fn desired() -> Desired {
    Desired {
        names: Names::from_uid(UID),
        identity: identity(UID, "acme"),
        provisioned: false,
        verifier: VERIFIER.into(),
        other: OtherLogin::Closed,
        connection_limit: 30,
        parameters: [("statement_timeout".to_owned(), "30s".to_owned())].into(),
        extensions: ["pgcrypto".to_owned()].into(),
        access: Access::Write,
        temporary_kilobytes: 65_536,
    }
}

fn empty(version: i32) -> Observed {
    Observed { version, operator: "postgres".into(), limits_temporary_files: true, ..Observed::default() }
}

fn after(mut observed: Observed, steps: &[Step]) -> Observed {
    steps.iter().for_each(|step| step.apply(&mut observed));
    observed
}

fn provisioned(version: i32) -> Observed {
    let empty = empty(version);
    let steps = open(&desired(), &empty).unwrap();
    after(empty, &steps)
}

fn sql(steps: &[Step], version: i32) -> String {
    steps.iter().map(|step| format!("{:?}: {}\n", step.place(), step.sql(version))).collect()
}

fn topics(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|step| step.topic().as_str()).collect()
}

#[test]
fn from_nothing() {
    insta::assert_snapshot!(sql(&open(&desired(), &empty(170_006)).unwrap(), 170_006));
}

#[test]
fn from_nothing_on_14() {
    insta::assert_snapshot!(sql(&open(&desired(), &empty(140_010)).unwrap(), 140_010));
}

/// An ordinary role sees no verifiers: it writes down what it has set.
#[test]
fn where_verifiers_are_hidden_they_are_written_down() {
    let empty = Observed { hidden: true, ..empty(170_006) };
    let steps = open(&desired(), &empty).unwrap();
    let login = Names::from_uid(UID).login;
    let noted = steps.windows(2).any(|pair| {
        matches!(&pair[0], Step::Login { role, .. } if *role == login)
            && matches!(&pair[1], Step::Note { role, .. } if *role == login)
            && pair[0].place() == pair[1].place()
    });
    assert!(noted, "in one transaction: {steps:?}");
    assert!(!sql(&steps, 170_006).contains(TENANTS), "nobody asks whose a login is");

    // As it is read back.
    let mut there = after(empty, &steps);
    let fingerprint = crate::postgres::scram::fingerprint(VERIFIER);
    there.roles.get_mut(&login).unwrap().verifier = Some(fingerprint);
    assert_eq!(open(&desired(), &there).unwrap(), []);
    // Found to be wrong.
    there.roles.get_mut(&login).unwrap().verifier = None;
    assert_eq!(topics(&open(&desired(), &there).unwrap()), ["login", "login"]);
}

#[test]
fn what_is_there_needs_nothing() {
    for version in [140_010, 150_018, 170_006] {
        assert_eq!(open(&desired(), &provisioned(version)).unwrap(), []);
    }
}

/// Each thing that a customer or a careless administrator can do, and the one step that undoes it.
#[test]
fn drift() {
    let names = desired().names;
    let other = Names::from_uid(OTHER);
    type Tamper = Box<dyn Fn(&mut DatabaseState, &mut RoleState)>;
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
fn roles_of_the_platform_team_are_left_alone() {
    let mut observed = provisioned(170_006);
    let names = desired().names;
    observed.databases.get_mut(&names.database).unwrap().grants.insert(Grant::new("backup", "CONNECT"));
    let login = observed.roles.get_mut(&names.login).unwrap();
    login.member_of.insert("pg_read_all_stats".into(), membership(170_006, true));
    assert_eq!(open(&desired(), &observed).unwrap(), []);
}

#[test]
fn a_lost_role_comes_back_without_touching_the_contents() {
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
fn an_interrupted_drop_is_finished_before_a_new_beginning() {
    let mut observed = provisioned(170_006);
    observed.databases.get_mut(&desired().names.database).unwrap().limit = INVALID;
    let steps = open(&desired(), &observed).unwrap();
    assert!(matches!(&steps[..2], [Step::DropDatabase { .. }, Step::CreateDatabase { .. }]), "{steps:?}");
}

#[test]
fn never_takes_over_what_is_not_ours() {
    let comments = [
        None,
        Some("the shop".to_owned()),
        Some(identity(OTHER, "acme").stamp(State::Archived).comment()),
        Some(identity(OTHER, "acme").stamp(State::Deleting).comment()),
        Some(identity(OTHER, "other").stamp(State::Active).comment()),
        Some(identity(OTHER, "other").stamp(State::Retained).comment()),
        Some(Stamp { cluster: "another".into(), ..identity(UID, "acme").stamp(State::Active) }.comment()),
    ];
    for comment in comments {
        let names = desired().names;
        let mut observed = provisioned(170_006);
        let database = observed.databases.get_mut(&names.database).unwrap();
        database.comment.clone_from(&comment);
        for limit in [30, INVALID] {
            observed.databases.get_mut(&names.database).unwrap().limit = limit;
            observed.databases.get_mut(&names.database).unwrap().owner = "somebody".into();
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

#[test]
fn retained_and_found_again() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = retain(&names, &desired().identity, &observed).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let closed = after(observed, &steps);
    assert_eq!(retain(&names, &desired().identity, &closed).unwrap(), []);

    let heir = Desired { identity: identity(OTHER, "acme"), ..desired() };
    let steps = open(&heir, &closed).unwrap();
    assert_eq!(topics(&steps), ["stamp", "login"]);
    assert_eq!(open(&heir, &after(closed, &steps)).unwrap(), []);
}

/// The server was away when the object went, and nobody has closed its database yet.
#[test]
fn left_open_and_found_again() {
    let heir = Desired { identity: identity(OTHER, "acme"), ..desired() };
    let observed = provisioned(170_006);
    let steps = open(&heir, &observed).unwrap();
    assert_eq!(topics(&steps), ["stamp"]);
    assert_eq!(open(&heir, &after(observed, &steps)).unwrap(), []);
}

/// An heir that is deleted before it has taken over must not touch what it has not taken.
#[test]
fn what_another_object_retained_survives_its_heir() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let closed = after(observed.clone(), &retain(&names, &desired().identity, &observed).unwrap());
    let heir = identity(OTHER, "acme");
    assert_eq!(delete(&names, &heir, &closed).unwrap(), []);
    assert_eq!(archive(&names, &heir, &closed, "zz_x".into()).unwrap(), []);
    assert_eq!(retain(&names, &heir, &closed).unwrap(), []);
}

/// An heir that dies while it takes over, and is deleted then: nothing that it has opened stays open.
#[test]
fn an_heir_that_is_deleted_halfway_leaves_no_login() {
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
fn archived() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = archive(&names, &desired().identity, &observed, names.archived(1_790_000_000)).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let aside = after(observed, &steps);
    assert_eq!(archive(&names, &desired().identity, &aside, names.archived(1_790_000_000)).unwrap(), []);
}

#[test]
fn deleted() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = delete(&names, &desired().identity, &observed).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let gone = after(observed, &steps);
    let forget = Step::Forget { database: names.database.clone() };
    assert_eq!(delete(&names, &desired().identity, &gone).unwrap(), [forget], "the list may have been left behind");
}

/// The server refuses the drop: by then no login is open, and no object of the same name gets the data.
#[test]
fn what_is_to_be_dropped_is_closed_and_stamped_first() {
    let names = desired().names;
    let observed = provisioned(170_006);
    let steps = delete(&names, &desired().identity, &observed).unwrap();
    let drop = steps.iter().position(|step| matches!(step, Step::DropDatabase { .. })).unwrap();
    let refused = after(observed, &steps[..drop]);
    assert!(refused.roles.values().all(|role| !role.login));
    let heir = Desired { identity: identity(OTHER, "acme"), ..desired() };
    assert!(matches!(open(&heir, &refused), Err(Refusal::NotOurs(_))), "the name of the database is the uid's");
    let again = delete(&names, &desired().identity, &refused).unwrap();
    assert!(again.contains(&Step::DropDatabase { database: names.database.clone() }), "it is repeated");
    assert!(!again.iter().any(|step| matches!(step, Step::Stamp { .. })), "and the stamp is not written again");
    // Somebody has changed his mind in time.
    let kept = after(refused.clone(), &retain(&names, &desired().identity, &refused).unwrap());
    assert!(matches!(open(&heir, &kept), Ok(steps) if !steps.is_empty()));
}

#[test]
fn frozen_and_back() {
    let observed = provisioned(170_006);
    let frozen = Desired { access: Access::Shrink, ..desired() };
    let steps = open(&frozen, &observed).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let cold = after(observed, &steps);
    assert_eq!(open(&frozen, &cold).unwrap(), []);
    let steps = open(&desired(), &cold).unwrap();
    assert_eq!(topics(&steps), ["privileges", "contents", "contents", "stamp"]);
    assert_eq!(open(&desired(), &after(cold, &steps)).unwrap(), []);
}

/// Both logins, and back with the passwords they had.
#[test]
fn closed_for_growing_and_opened_again() {
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
    assert_eq!(topics(&steps), ["login", "login", "privileges", "contents", "contents", "stamp"]);
}

/// A release before this one put the login into a role of its own, and had other triggers.
#[test]
fn frozen_by_an_earlier_release() {
    let mut observed = provisioned(170_006);
    let names = desired().names;
    let state = observed.databases.get_mut(&names.database).unwrap();
    let comment = state.comment.clone().unwrap();
    state.comment = Some(comment.replace(r#""extensions""#, r#""frozen":true,"extensions""#));
    assert!(state.stamp().unwrap().frozen);
    let kinds = |access| {
        let steps = open(&Desired { access, ..desired() }, &observed).unwrap();
        let healed = after(observed.clone(), &steps);
        assert_eq!(open(&Desired { access, ..desired() }, &healed).unwrap(), []);
        steps.iter().map(Step::topic).collect::<Vec<_>>()
    };
    assert_eq!(kinds(Access::Write), [Topic::Contents, Topic::Contents, Topic::Stamp], "thawed");
    let frozen = [
        Topic::Privileges,
        Topic::Privileges,
        Topic::Contents,
        Topic::Contents,
        Topic::Sessions,
        Topic::Contents,
        Topic::Contents,
        Topic::Stamp,
    ];
    assert_eq!(kinds(Access::Shrink), frozen, "thawed, and frozen as it is done now");
}

/// The whole way of a change of login: made, given away, the former one kept, and closed.
#[test]
fn one_login_after_the_other() {
    let here = provisioned(170_006);
    let names = desired().names;
    let (next, fresh) = (names.clone().rotated(), "SCRAM-SHA-256$4096:salt$next:server");
    let rotating = Desired { names: next.clone(), verifier: fresh.into(), other: OtherLogin::Former, ..desired() };
    let steps = open(&rotating, &here).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let both = after(here.clone(), &steps);
    assert_eq!(open(&rotating, &both).unwrap(), []);
    assert_eq!(both.roles[&names.login], here.roles[&names.login], "whoever uses the former one notices nothing");

    // What somebody does to the former one is repaired, but for its password, which nobody knows any more.
    let mut tampered = both.clone();
    let former = tampered.roles.get_mut(&names.login).unwrap();
    (former.login, former.limit) = (false, 3);
    former.settings.clear();
    former.member_of.clear();
    let steps = open(&rotating, &tampered).unwrap();
    assert_eq!(after(tampered, &steps), both);
    let mut dropped = both.clone();
    dropped.roles.remove(&names.login);
    assert_eq!(open(&rotating, &dropped).unwrap(), [], "a password is not made up for it");

    let done = Desired { other: OtherLogin::Closed, ..rotating };
    let steps = open(&done, &both).unwrap();
    assert_eq!(steps, [Step::NoLogin { role: names.login.clone() }]);
    let closed = after(both, &steps);
    assert_eq!(open(&done, &closed).unwrap(), []);

    // And back: what died on the way is made anew, with another password.
    let back = Desired { other: OtherLogin::Former, ..desired() };
    let steps = open(&back, &closed).unwrap();
    assert_eq!(topics(&steps), ["login"]);
    let again = after(closed, &steps);
    assert_eq!(again.roles[&next.login].verifier.as_deref(), Some(fresh));
}

#[test]
fn closing_closes_both_logins() {
    let names = desired().names;
    let rotating = Desired { names: names.clone().rotated(), other: OtherLogin::Former, ..desired() };
    let both = after(provisioned(170_006), &open(&rotating, &provisioned(170_006)).unwrap());
    let closed = after(both.clone(), &retain(&names, &desired().identity, &both).unwrap());
    assert!([&names.login, &names.other].into_iter().all(|login| !closed.roles[login].login));
    let gone = after(both.clone(), &delete(&names, &desired().identity, &both).unwrap());
    assert!(gone.roles.is_empty(), "{:?}", gone.roles.keys());
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("x".to_owned()),
        Just("a'b\"c\\d".to_owned()),
        Just("'; DROP DATABASE postgres; --".to_owned()),
        "\\PC{1,20}"
    ]
}

fn tampered() -> impl Strategy<Value = Observed> {
    let version = prop_oneof![Just(140_000), Just(150_000), Just(160_000), Just(170_000)];
    let group = prop_oneof![
        Just(Names::from_uid(OTHER).owner),
        Just(Names::from_uid(UID).owner),
        Just(Names::from_uid(UID).frozen),
        Just("dba".to_owned())
    ];
    let grantee = prop_oneof![Just(String::new()), group.clone(), Just(Names::from_uid(UID).login)];
    let grant = (grantee, prop_oneof![Just("CONNECT"), Just("CREATE"), Just("TEMPORARY")], any::<bool>())
        .prop_map(|(grantee, privilege, grantable)| Grant { grantable, ..Grant::new(&grantee, privilege) });
    let member = (group, any::<(bool, bool, bool)>())
        .prop_map(|(group, (admin, inherit, set))| (group, Membership { admin, inherit, set }));
    let database = (
        any::<bool>(),
        -1..50_i32,
        proptest::collection::btree_set(grant, 0..6),
        prop_oneof![Just("postgres".to_owned()), Just(Names::from_uid(OTHER).owner)],
    );
    let role = (
        any::<[bool; 3]>(),
        -1..5_i32,
        proptest::option::of(hostile()),
        proptest::collection::btree_map("[a-z_.]{1,8}", hostile(), 0..3),
        proptest::collection::btree_map(0..4_u8, member, 0..4),
    );
    (version, proptest::option::of(database), proptest::collection::vec(proptest::option::of(role), 4)).prop_map(
        |(version, database, roles)| {
            let names = Names::from_uid(UID);
            let mut observed = provisioned(version);
            if let Some((open, limit, grants, owner)) = database {
                let comment = observed.databases[&names.database].comment.clone();
                observed.databases.insert(
                    names.database.clone(),
                    DatabaseState { owner, open, limit, comment, grants, ..DatabaseState::default() },
                );
            }
            for (name, role) in [&names.owner, &names.login, &names.frozen, &names.other].into_iter().zip(roles) {
                let Some(([login, powers, expires], limit, verifier, settings, member_of)) = role else {
                    observed.roles.remove(name);
                    continue;
                };
                let settings = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let settings = [(names.database.clone(), settings)].into();
                let member_of = member_of.into_values().collect();
                observed.roles.insert(
                    name.clone(),
                    RoleState { login, powers, limit, expires, verifier, member_of, settings, ..RoleState::default() },
                );
            }
            observed
        },
    )
}

type Closing = dyn Fn(&Names, &Identity, &Observed) -> Result<Vec<Step>, Refusal>;

proptest! {
    /// Whatever was done to it, one plan puts it right, and no second one is needed.
    #[test]
    fn one_plan_is_enough(observed in tampered(), access in 0..3_usize, former in any::<bool>()) {
        let other = if former { OtherLogin::Former } else { OtherLogin::Closed };
        let desired = Desired { access: [Access::Write, Access::Shrink, Access::Closed][access], other, ..desired() };
        let steps = open(&desired, &observed).unwrap();
        let healed = after(observed, &steps);
        prop_assert_eq!(open(&desired, &healed).unwrap(), []);
    }

    /// The process may die after any step; what is left is put right by the next plan, to the same end.
    #[test]
    fn dying_in_between_changes_nothing(version in prop_oneof![Just(140_000), Just(170_000)], died_after in 0..40_usize) {
        let steps = open(&desired(), &empty(version)).unwrap();
        let left = after(empty(version), &steps[..died_after.min(steps.len())]);
        let steps = open(&desired(), &left).unwrap();
        prop_assert_eq!(after(left, &steps), provisioned(version));
    }

    /// Closing is never undone by dying in between, and drops nothing.
    #[test]
    fn closing_drops_nothing(observed in tampered(), died_after in 0..6_usize) {
        let Desired { names, identity, .. } = desired();
        let aside = |n: &Names, i: &Identity, o: &Observed| archive(n, i, o, n.archived(1));
        for plan in [&retain as &Closing, &aside] {
            let steps = plan(&names, &identity, &observed).unwrap();
            let drops = |step: &Step| matches!(step, Step::DropDatabase { .. } | Step::DropRole { .. });
            prop_assert!(!steps.iter().any(drops));
            let left = after(observed.clone(), &steps[..died_after.min(steps.len())]);
            let end = after(left.clone(), &plan(&names, &identity, &left).unwrap());
            for login in [&names.login, &names.other] {
                prop_assert!(end.roles.get(login).is_none_or(|login| !login.login));
            }
            prop_assert_eq!(&end, &after(observed.clone(), &steps));
        }
    }

    /// No value reaches past its quotes: what is left once the quoted parts are taken out is the same for all.
    #[test]
    fn quoting_holds(value in hostile(), name in hostile()) {
        let step = Step::Set { login: name.clone(), database: name, parameter: "work_mem".into(), value };
        prop_assert_eq!(unquoted(&step.sql(170_000)), "ALTER ROLE  IN DATABASE  SET  = ");
        let stamp = Step::Login { role: "r".into(), verifier: "v'); DROP".into() };
        prop_assert_eq!(unquoted(&stamp.sql(170_000)), "ALTER ROLE  LOGIN PASSWORD  VALID UNTIL  CONNECTION LIMIT -1");
    }
}

/// A statement without what is in quotes, read as PostgreSQL's scanner does.
fn unquoted(sql: &str) -> String {
    let mut rest = String::new();
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let escapes = c == 'E' && chars.peek() == Some(&'\'');
        let quote = if escapes { chars.next().unwrap() } else { c };
        if quote != '\'' && quote != '"' {
            rest.push(c);
            continue;
        }
        // An E'…' is preceded by a space of the quoting's own.
        if escapes && rest.ends_with("  ") {
            rest.pop();
        }
        while let Some(c) = chars.next() {
            let doubled = c == quote && chars.peek() == Some(&quote);
            if doubled || c == '\\' && escapes {
                chars.next();
            } else if c == quote {
                break;
            }
        }
    }
    rest
}

/// A declared extension that was dropped is created again, and nothing else.
#[test]
fn a_lost_extension_is_made_again() {
    let mut observed = provisioned(170_006);
    let database = desired().names.database;
    observed.databases.get_mut(&database).unwrap().lost_extensions.insert("pgcrypto".into());
    let steps = open(&desired(), &observed).unwrap();
    assert_eq!(topics(&steps), ["extensions"]);
    assert_eq!(open(&desired(), &after(observed.clone(), &steps)).unwrap(), []);
    let none = Desired { extensions: BTreeSet::new(), ..desired() };
    assert_eq!(open(&none, &observed).unwrap(), [], "it is not declared any more");
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
