use super::*;

// Made with openssl for these tests and nothing else; `good`, `expired` and `elsewhere` have the key `good.key` and come
// from `authority`.
const GOOD: &str = include_str!("testdata/good.crt");
const KEY_OF_GOOD: &str = include_str!("testdata/good.key");
const ANOTHER_KEY: &str = include_str!("testdata/another.key");
const EXPIRED: &str = include_str!("testdata/expired.crt");
const ELSEWHERE: &str = include_str!("testdata/elsewhere.crt");
const AUTHORITY: &str = include_str!("testdata/authority.crt");
const ANOTHER_AUTHORITY: &str = include_str!("testdata/another-authority.crt");

fn secret(entries: &[(&str, &str)]) -> Secret {
    let data = entries.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret { data: Some(data.collect()), ..Secret::default() }
}

fn hosts() -> [String; 2] {
    ["global.ahoi-system.svc".into(), "global-s1.ahoi-system.svc".into()]
}

fn problem(certificate: &str, key: &str, authorities: &str) -> String {
    pair(&secret(&[(CERTIFICATE, certificate), (KEY, key), (AUTHORITIES, authorities)]), &hosts()).unwrap_err()
}

#[test]
fn a_pair_that_clients_accept() {
    let entries = [(CERTIFICATE, GOOD), (KEY, KEY_OF_GOOD), (AUTHORITIES, AUTHORITY)];
    assert_eq!(pair(&secret(&entries), &hosts()).unwrap().certificate, GOOD);
    assert!(pair(&secret(&entries[..2]), &hosts()).is_ok(), "without authorities there is nothing to verify it by");
    let both = format!("{ANOTHER_AUTHORITY}{AUTHORITY}");
    assert!(pair(&secret(&[entries[0], entries[1], (AUTHORITIES, &both)]), &hosts()).is_ok());
}

#[test]
fn clients_can_verify_covered_hosts() {
    let entries = [(CERTIFICATE, GOOD), (KEY, KEY_OF_GOOD), (AUTHORITIES, AUTHORITY)];
    let [first, second] = hosts();
    assert!(pair(&secret(&entries), &[second.clone(), first.clone()]).is_ok(), "one of the hosts is enough");
    let pair = Some(Pair { certificate: GOOD.into(), key: KEY_OF_GOOD.into() });
    let material = Material { pair, client_authorities: Some(AUTHORITY.into()), server_authorities: None };
    assert!(material.is_verifiable_at(&first) && !material.is_verifiable_at(&second));
    assert!(!Material { client_authorities: None, ..material }.is_verifiable_at(&first), "without authorities");
    assert!(!is_for("nonsense", &first) && !is_for(GOOD, "no name"));
}

#[test]
fn the_problem_of_a_pair_is_reported() {
    assert_eq!(pair(&secret(&[(CERTIFICATE, GOOD)]), &hosts()).unwrap_err(), "has no tls.key");
    assert_eq!(problem("nonsense", KEY_OF_GOOD, AUTHORITY), "has no certificate (PEM) in tls.crt");
    let cut = &GOOD[..GOOD.len() / 2];
    assert_eq!(problem(cut, KEY_OF_GOOD, AUTHORITY), "has no certificate (PEM) in tls.crt");
    assert_eq!(problem(GOOD, GOOD, AUTHORITY), "has no private key (PEM, without a passphrase) in tls.key");
    assert_eq!(problem(GOOD, ANOTHER_KEY, AUTHORITY), "has a tls.key that does not belong to its tls.crt");
    assert_eq!(problem(GOOD, KEY_OF_GOOD, "nonsense"), "has no certificates (PEM) in ca.crt");
    assert_eq!(
        problem(GOOD, KEY_OF_GOOD, ANOTHER_AUTHORITY),
        "has a certificate that is not signed by the authorities in its ca.crt"
    );
    let namesake = include_str!("testdata/namesake-authority.crt");
    assert_eq!(
        problem(GOOD, KEY_OF_GOOD, namesake),
        "has a certificate that is not signed by the authorities in its ca.crt"
    );
    assert_eq!(problem(EXPIRED, KEY_OF_GOOD, AUTHORITY), "has a certificate that has expired");
    assert_eq!(
        problem(ELSEWHERE, KEY_OF_GOOD, AUTHORITY),
        "has a certificate that does not cover global.ahoi-system.svc, which clients connect to"
    );
}

#[test]
fn each_fleet_reads_its_own_entries() {
    let one = Material {
        pair: Some(Pair { certificate: GOOD.into(), key: KEY_OF_GOOD.into() }),
        client_authorities: Some(AUTHORITY.into()),
        server_authorities: None,
    };
    let other = Material { server_authorities: Some(AUTHORITY.into()), ..Material::default() };
    let mut entries = one.entries("global");
    entries.extend(other.entries("global.eu"));
    assert!(entries.keys().all(|entry| matches!(fleet_of(entry), Some("global" | "global.eu"))));
    let secret = Secret { data: Some(entries), ..Secret::default() };
    assert_eq!(Material::read(Some(&secret), "global"), one);
    assert_eq!(Material::read(Some(&secret), "global.eu"), other);
    assert_eq!(Material::read(None, "global"), Material::default());
}

#[test]
fn missing_certificates_are_reported() {
    let spec = |client: &str, server: &str| -> FleetTls {
        let secret = serde_json::json!({"name": "tls"});
        serde_json::from_value(
            serde_json::json!({"client": {"mode": client, "secretRef": secret}, "server": {"mode": server}}),
        )
        .unwrap()
    };
    let pair = Some(Pair { certificate: GOOD.into(), key: KEY_OF_GOOD.into() });
    let all = Material { pair, server_authorities: Some(AUTHORITY.into()), ..Material::default() };
    assert_eq!(Tls::of(&spec("Disable", "Prefer"), &all), Ok(Tls::default()));
    assert!(Tls::of(&spec("Require", "Require"), &Material::default()).is_err());
    assert!(Tls::of(&spec("Disable", "VerifyCa"), &Material::default()).is_err());
    let tls = Tls::of(&spec("Prefer", "VerifyFull"), &all).unwrap();
    assert!(tls.pair.is_some() && tls.server_authorities.is_some());
}
