use super::*;
use proptest::prelude::*;

#[test]
fn passwords_are_long_and_alphanumeric() {
    let password = random_password().unwrap();
    assert_eq!(password.len(), 32);
    assert!(password.chars().all(|c| c.is_ascii_alphanumeric()));
    assert_ne!(password, random_password().unwrap());
}

#[test]
fn only_the_right_password_matches() {
    let credentials = Credentials::generate().unwrap();
    assert!(matches(&credentials.password, &credentials.verifier));
    assert!(!matches("another", &credentials.verifier));
    assert!(!matches(&credentials.password, &credentials.verifier.replacen("4096", "4095", 1)));
}

#[test]
fn a_fingerprint_identifies_one_verifier() {
    let (one, other) = (Credentials::of("a".into()).verifier, Credentials::of("a".into()).verifier);
    assert!(stands_for(Some(&fingerprint(&one)), &one) && stands_for(Some(&one), &one));
    assert!(!stands_for(Some(&fingerprint(&other)), &one) && !stands_for(None, &one));
    assert!(!one.contains(fingerprint(&one).trim_start_matches("password ")));
}

/// The example of RFC 7677 in PostgreSQL's format.
#[test]
fn the_example_of_the_rfc_matches() {
    let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    assert!(matches("pencil", verifier));
}

#[test]
fn debug_output_is_redacted() {
    let credentials = Credentials::of("hunter2".into());
    assert_eq!(format!("{credentials:?}"), "Credentials");
}

proptest! {
    #[test]
    fn malformed_verifiers_match_nothing(verifier in "(SCRAM-SHA-256\\$)?[0-9:$=A-Za-z]{0,80}") {
        prop_assert!(!matches("pencil", &verifier));
    }
}
