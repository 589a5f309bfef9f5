use proptest::prelude::*;

use super::*;
use crate::postgres::model::RoleState;

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
    /// One plan reverts any drift; a second one is empty.
    #[test]
    fn one_plan_is_enough(observed in tampered(), access in 0..3_usize, former in any::<bool>()) {
        let other = if former { OtherLogin::Former } else { OtherLogin::Closed };
        let desired = Desired { access: [Access::Write, Access::Shrink, Access::Closed][access], other, ..desired() };
        let steps = open(&desired, &observed).unwrap();
        let healed = after(observed, &steps);
        prop_assert_eq!(open(&desired, &healed).unwrap(), []);
    }

    /// The process may die after any step; the next plan leads to the same state.
    #[test]
    fn a_crash_between_steps_changes_nothing(version in prop_oneof![Just(140_000), Just(170_000)], died_after in 0..40_usize) {
        let steps = open(&desired(), &empty(version)).unwrap();
        let left = after(empty(version), &steps[..died_after.min(steps.len())]);
        let steps = open(&desired(), &left).unwrap();
        prop_assert_eq!(after(left, &steps), provisioned(version));
    }

    /// A crash never reopens a login, and closing drops nothing.
    #[test]
    fn closing_drops_nothing(observed in tampered(), died_after in 0..6_usize) {
        let Desired { names, identity, .. } = desired();
        let archived = |n: &Names, i: &Identity, o: &Observed| archive(n, i, o, n.archived(1));
        for plan in [&retain as &Closing, &archived] {
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

    /// No value escapes its quotes: the statement without the quoted parts is always the same.
    #[test]
    fn quoting_holds(value in hostile(), name in hostile()) {
        let step = Step::Set { login: name.clone(), database: name, parameter: "work_mem".into(), value };
        prop_assert_eq!(unquoted(&step.sql(170_000)), "ALTER ROLE  IN DATABASE  SET  = ");
        let login = Step::Login { role: "r".into(), verifier: "v'); DROP".into() };
        prop_assert_eq!(unquoted(&login.sql(170_000)), "ALTER ROLE  LOGIN PASSWORD  VALID UNTIL  CONNECTION LIMIT -1");
    }
}

/// A statement without its quoted parts, as PostgreSQL's scanner reads it.
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
        // The quoting adds a space before E'…'.
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
