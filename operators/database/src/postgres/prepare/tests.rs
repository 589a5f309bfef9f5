use super::*;

fn poolers() -> Poolers {
    let [name, other] = ahoi_api::logins("ahoi_pooler_3f2504e0");
    Poolers {
        login: PoolerLogin { name, password: "secret".into() },
        other,
        other_is_open: false,
        owner: "ours".into(),
    }
}

fn fresh() -> Facts {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Facts {
        version: 170_006,
        version_text: "17.6".into(),
        admin_database: "postgres".into(),
        reads_passwords: true,
        connections: 497,
        superuser: true,
        owned: names(&["postgres", "template1"]),
        connect: [
            ("postgres".to_owned(), names(&["", "postgres"])),
            ("template1".to_owned(), names(&["", "postgres"])),
        ]
        .into(),
        ..Facts::default()
    }
}

fn prepared() -> Facts {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let login = poolers().login.name;
    let role = |login| RoleFacts { login, powers: false, comment: Some("ours".into()) };
    Facts {
        roles: [(TENANTS.to_owned(), role(false)), (login.clone(), role(true))].into(),
        table: true,
        schema: Some(names(&["postgres", &login])),
        function: Some(FunctionFacts {
            source: LOOKUP.into(),
            definer: true,
            settings: names(&[LOOKUP_PATH]),
            callers: names(&["postgres", &login]),
        }),
        connect: [
            ("postgres".to_owned(), names(&["postgres", &login])),
            ("template1".to_owned(), names(&["postgres"])),
        ]
        .into(),
        ..fresh()
    }
}

#[test]
fn a_fresh_server() {
    let steps = plan(&fresh(), &poolers(), false).join("\n");
    assert!(!steps.contains("'secret'"));
    let at = steps.find("SCRAM").unwrap();
    let end = at + steps[at..].find('\'').unwrap();
    insta::assert_snapshot!(steps.replace(&steps[at..end], "SCRAM…"));
}

#[test]
fn a_prepared_server_needs_nothing() {
    assert_eq!(plan(&prepared(), &poolers(), true), Vec::<String>::new());
}

#[test]
fn the_former_login_is_closed_when_it_is_unused() {
    let mut poolers = poolers();
    let mut facts = prepared();
    facts.roles.insert(poolers.other.clone(), RoleFacts { login: true, powers: false, comment: Some("ours".into()) });
    assert_eq!(plan(&facts, &poolers, true), ["ALTER ROLE \"ahoi_pooler_3f2504e0_b\" NOLOGIN"]);
    poolers.other_is_open = true;
    assert_eq!(plan(&facts, &poolers, true), Vec::<String>::new());
}

#[test]
fn drift_is_reverted() {
    let mut facts = prepared();
    facts.connect.insert("template1".into(), vec![String::new()]);
    facts.function.iter_mut().for_each(|function| function.callers.push(String::new()));
    facts.schema.iter_mut().for_each(|grantees| grantees.push(String::new()));
    facts.roles.insert(TENANTS.into(), RoleFacts { login: true, powers: false, comment: Some("ours".into()) });
    assert_eq!(
        plan(&facts, &poolers(), true),
        [
            "ALTER ROLE ahoi_tenants NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
            "REVOKE ALL ON SCHEMA ahoi FROM PUBLIC",
            "REVOKE ALL ON FUNCTION ahoi.pooler_lookup(text) FROM PUBLIC",
            "REVOKE CONNECT ON DATABASE \"template1\" FROM PUBLIC",
        ]
    );
}

#[test]
fn a_modified_lookup_function_is_replaced() {
    let mut facts = prepared();
    facts.function.iter_mut().for_each(|function| function.source = "SELECT 1".into());
    let steps = plan(&facts, &poolers(), true);
    assert_eq!(steps.len(), 1);
    assert!(steps[0].starts_with("CREATE OR REPLACE FUNCTION ahoi.pooler_lookup"));
}

#[test]
fn the_connections_of_this_controller_are_not_for_customers() {
    assert_eq!(fresh().connections(), 493);
    assert_eq!(Facts { connections: 3, ..fresh() }.connections(), 0);
}

#[test]
fn old_versions_and_missing_privileges_are_refused() {
    let reason = |facts: Facts| check("pg-1", &facts).unwrap_err().reason().to_owned();
    assert!(check("pg-1", &fresh()).is_ok());
    assert_eq!(reason(Facts { version: 130_020, ..fresh() }), "VersionTooOld");
    let ordinary = |creates, version| Facts { superuser: false, reads_passwords: false, creates, version, ..fresh() };
    assert_eq!(reason(ordinary(false, 170_006)), "PrivilegeMissing");
    assert_eq!(reason(ordinary(true, 150_018)), "PrivilegeMissing");
    assert!(check("pg-1", &ordinary(true, 170_006)).is_ok());
    let strange = Facts { admin_database: "app".into(), ..ordinary(true, 170_006) };
    assert_eq!(reason(strange), "AdminDatabaseNotOwned");
}

#[test]
fn an_ordinary_role_prepares_what_it_owns() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut facts = Facts { superuser: false, reads_passwords: false, owned: names(&["ahoi"]), ..fresh() };
    facts.admin_database = "ahoi".into();
    facts.connect.insert("ahoi".into(), names(&["", "ahoi"]));
    assert_eq!(facts.passwords(), Passwords::File);
    let steps = plan_without_pooler(&facts);
    assert_eq!(steps[0], "CREATE SCHEMA ahoi");
    assert_eq!(steps[2..], ["REVOKE CONNECT ON DATABASE \"ahoi\" FROM PUBLIC"]);

    facts.schema = Some(names(&["ahoi"]));
    facts.table = true;
    facts.connect.insert("ahoi".into(), names(&["ahoi"]));
    assert_eq!(plan_without_pooler(&facts), Vec::<String>::new());
    assert_eq!(facts.open_databases(), ["\"postgres\"", "\"template1\""]);
    assert!(prepared().open_databases().is_empty());
}
