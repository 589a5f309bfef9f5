use super::*;
use crate::postgres::model::{DatabaseState, RoleState};

#[test]
fn a_repaired_login_and_extension_are_forgotten() {
    let names = Names::of("c_3f2504e04f89");
    let database = names.database.clone();
    let all = Corrections {
        wrong_passwords: [names.login.clone(), "c_000000000000_a".to_owned()].into(),
        lost_extensions: [(database.clone(), ["citext".to_owned(), "hstore".to_owned()].into())].into(),
    };
    let (mut known, mut ours) = (all.clone(), all.of(&names));
    let before = ours.clone();
    assert_eq!(ours.wrong_passwords, [names.login.clone()].into());
    let mut observed = Observed {
        databases: [(database.clone(), DatabaseState::default())].into(),
        roles: [(names.login.clone(), RoleState { verifier: Some("v".into()), ..RoleState::default() })].into(),
        ..Observed::default()
    };
    ours.apply(&mut observed);
    assert_eq!(
        (observed.databases[&database].lost_extensions.len(), &observed.roles[&names.login].verifier),
        (2, &None)
    );
    let login = Step::Login { role: names.login.clone(), verifier: "v".into() };
    let extension = Step::Extension { extension: "citext".into(), owner: names.owner };
    ours.settle(&database, &[login, extension]);
    assert!(ours.wrong_passwords.is_empty());
    assert_eq!(ours.lost_extensions[&database], ["hstore".to_owned()].into());
    known.remove_repaired(&before, &ours);
    assert_eq!(known.wrong_passwords, ["c_000000000000_a".to_owned()].into(), "those of others stay");
    assert_eq!(known.lost_extensions, ours.lost_extensions);
}
