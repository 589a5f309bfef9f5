use super::*;
use crate::postgres::model::RoleState;

const USED: Membership = Membership { admin: false, inherit: true, set: true };
const IN_NAME: Membership = Membership { admin: false, inherit: false, set: false };

fn names() -> Names {
    Names::of("c_3f2504e04f89")
}

fn role(member_of: &[(&str, Membership)], own_settings: &[&str]) -> RoleState {
    RoleState {
        member_of: member_of.iter().map(|(group, membership)| ((*group).to_owned(), *membership)).collect(),
        own_settings: own_settings.iter().map(|setting| (*setting).to_owned()).collect(),
        ..RoleState::default()
    }
}

fn observed(next: Option<RoleState>, former: RoleState) -> Observed {
    let next = next.map(|next| (names().login, next));
    Observed {
        version: 170_006,
        roles: next.into_iter().chain([(names().other, former)]).collect(),
        ..Observed::default()
    }
}

fn sql(observed: &Observed) -> Vec<String> {
    steps(&names(), observed).iter().map(|step| step.sql(observed.version)).collect()
}

#[test]
fn the_next_login_gets_what_the_former_one_has() {
    let owner = (names().owner.clone(), USED);
    let former = role(
        &[("pg_monitor", USED), (&owner.0, USED), (TENANTS, IN_NAME)],
        &["search_path=app, \"user\"", "app.tenant=acme"],
    );
    let found = observed(Some(role(&[(TENANTS, IN_NAME)], &[])), former);
    assert_eq!(
        sql(&found),
        [
            "GRANT \"pg_monitor\" TO \"c_3f2504e04f89_a\" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE",
            "ALTER ROLE \"c_3f2504e04f89_a\" SET \"app\".\"tenant\" = 'acme'",
            "ALTER ROLE \"c_3f2504e04f89_a\" SET \"search_path\" = 'app', 'user'",
        ]
    );
    assert_eq!(explain(&steps(&names(), &found)), "membership in pg_monitor, setting app.tenant, setting search_path");
    let mut after = found.clone();
    steps(&names(), &found).iter().for_each(|step| step.apply(&mut after));
    assert_eq!(sql(&after), [""; 0]);
}

/// What was revoked from the login in use must not come back with the login of two rotations ago.
#[test]
fn the_next_login_loses_what_the_former_one_lacks() {
    let next = role(&[("pg_monitor", USED), ("readers", USED)], &["work_mem=1GB", "jit=off"]);
    let found = observed(Some(next), role(&[("readers", IN_NAME)], &["jit=on"]));
    assert_eq!(
        sql(&found),
        [
            "REVOKE \"pg_monitor\" FROM \"c_3f2504e04f89_a\" CASCADE",
            "REVOKE \"readers\" FROM \"c_3f2504e04f89_a\" CASCADE",
            "GRANT \"readers\" TO \"c_3f2504e04f89_a\" WITH ADMIN FALSE, INHERIT FALSE, SET FALSE",
            "ALTER ROLE \"c_3f2504e04f89_a\" RESET \"work_mem\"",
            "ALTER ROLE \"c_3f2504e04f89_a\" SET \"jit\" = 'on'",
        ]
    );
    assert_eq!(
        explain(&steps(&names(), &found)),
        "membership in pg_monitor, membership in readers, setting jit, setting work_mem"
    );
}

#[test]
fn equal_logins_need_no_steps() {
    let given = || role(&[("pg_monitor", USED)], &["jit=on"]);
    assert_eq!(sql(&observed(Some(given()), given())), [""; 0]);
    assert_eq!(sql(&observed(None, RoleState::default())), [""; 0]);
}
