use super::*;

fn server(yaml: &str) -> DatabaseServerSpec {
    serde_saphyr::from_str(&format!("adminSecretRef: {{namespace: ahoi-system, name: pg-1}}\n{yaml}")).unwrap()
}

fn database() -> Database {
    serde_saphyr::from_str(
        "
        apiVersion: internal.example.com/v1
        kind: Database
        metadata: {name: acme, namespace: customer-acme, labels: {internal.example.com/customer: acme}}
        spec: {storage: 1gb}
        ",
    )
    .unwrap()
}

fn credentials_of(password: &str) -> Credentials {
    Credentials { password: password.into(), verifier: "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy".into() }
}

fn made(password: &str, server_yaml: &str) -> Secret {
    desired(&database(), &server(server_yaml), &Names::of("c_3f2504e04f89"), &credentials_of(password))
}

#[test]
fn content() {
    let secret = made("abc123", "host: pg-1.db.svc");
    let readable: BTreeMap<_, _> =
        secret.data.iter().flatten().map(|(key, _)| (key, text(&secret, key).unwrap())).collect();
    insta::assert_yaml_snapshot!((&secret.metadata, &secret.type_, readable));
}

#[test]
fn uris_are_escaped() {
    let uri = |password: &str, yaml: &str| text(&made(password, yaml), "uri").unwrap();
    assert_eq!(
        uri("p@ss/w:rd?", "host: \"fd00::5\"\nport: 5433\ntls: {mode: Require}"),
        "postgresql://c_3f2504e04f89_a:p%40ss%2Fw%3Ard%3F@[fd00::5]:5433/c_3f2504e04f89?sslmode=require"
    );
}

#[test]
fn the_secret_of_a_verified_server_contains_its_authorities() {
    let made = |mode: &str| {
        let server = server(&format!("host: a\ntls: {{mode: {mode}}}"));
        let plain = desired(&database(), &server, &Names::of("c_3f2504e04f89"), &credentials_of("abc"));
        (secured(plain.clone(), &server.tls, Some("PEM")), plain)
    };
    let (full, plain) = made("VerifyFull");
    assert_eq!(text(&full, "sslmode").as_deref(), Some("verify-full"));
    assert_eq!(text(&full, "ca.crt").as_deref(), Some("PEM"));
    assert!(text(&full, "uri").unwrap().ends_with("?sslmode=verify-full"));
    assert_ne!(version(&full), version(&plain), "other authorities roll the workers");
    let (prefer, plain) = made("Prefer");
    assert_eq!(prefer, plain, "nothing changes without spec.tls");
    let (require, _) = made("Require");
    assert_eq!((text(&require, "sslmode").as_deref(), text(&require, "ca.crt")), (Some("require"), None));
}

#[test]
fn the_version_depends_on_the_content() {
    let (one, other) = (made("abc", "host: a"), made("abd", "host: a"));
    assert_eq!(version(&one), version(&made("abc", "host: a")));
    assert_ne!(version(&one), version(&other));
}

#[test]
fn the_password_is_recovered_from_a_damaged_secret() {
    let good = Credentials::of("p@ss/w:rd".into());
    let damaged = |damage: &[(&str, Option<&str>)]| {
        let mut secret = desired(&database(), &server("host: a"), &Names::of("c_3f2504e04f89"), &good);
        for (key, value) in damage {
            let data = secret.data.as_mut().unwrap();
            match value {
                None => _ = data.remove(*key),
                Some(value) => _ = data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec())),
            }
        }
        recovered(&secret, &good.verifier)
    };
    assert!(damaged(&[("verifier", None), ("username", Some("postgres")), ("uri", None)]) == Some(good.clone()));
    assert!(damaged(&[("password", Some("another"))]) == Some(good.clone()), "the uri contains it as well");
    assert!(damaged(&[("password", None), ("uri", Some("postgresql://a:b@c/d"))]).is_none());
    assert!(recovered(&Secret::default(), &good.verifier).is_none());
}

#[test]
fn immutable_secrets_and_those_of_another_type_are_recreated() {
    let made = made("abc", "host: a");
    assert!(!must_be_recreated(&made, &made));
    assert!(must_be_recreated(&Secret { immutable: Some(true), ..made.clone() }, &made));
    assert!(must_be_recreated(&Secret { type_: Some("Opaque".into()), ..made.clone() }, &made));
}

#[test]
fn only_matching_credentials_are_used() {
    let good = Credentials::of("a password".into());
    let edited = Credentials { password: "another".into(), ..good.clone() };
    let made = |credentials| desired(&database(), &server("host: a"), &Names::of("c_3f2504e04f89"), credentials);
    assert!(credentials(&made(&good), None) == Some(good.clone()));
    assert!(credentials(&made(&edited), None).is_none());
    // The known version is of another content.
    let known = version(&made(&good));
    assert!(credentials(&made(&edited), Some(&known)).is_none());
    assert!(credentials(&made(&good), Some(&known)) == Some(good));
    assert!(credentials(&Secret::default(), None).is_none());
}
