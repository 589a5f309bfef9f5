use super::*;

#[test]
fn one_login_of_a_database_is_remembered() {
    let (remembered, credentials) = (Remembered::default(), Credentials::of("secret".into()));
    remembered.keep("u", "c_1_b", &credentials);
    assert!(remembered.of("u", "c_1_b") == Some(credentials) && remembered.of("u", "c_1_a").is_none());
    remembered.forget("u");
    assert!(remembered.of("u", "c_1_b").is_none());
}
