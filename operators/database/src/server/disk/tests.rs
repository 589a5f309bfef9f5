use super::*;

#[test]
fn open_databases_are_named_with_the_remedy() {
    let open = maintenance_databases_condition(&["\"postgres\"".into(), "\"template1\"".into()]);
    assert_eq!((open.status, open.reason.as_str()), (ConditionStatus::False, "OpenToPublic"));
    insta::assert_snapshot!(open.message, @r#"every login may connect to databases that the admin role does not own: as their owner, GRANT CONNECT to the roles that need it, and then run REVOKE CONNECT ON DATABASE "postgres", "template1" FROM PUBLIC"#);
    assert_eq!(maintenance_databases_condition(&[]).status, ConditionStatus::True);
}
