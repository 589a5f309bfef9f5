use ahoi_reconcile::testing::cache;

use super::*;
use crate::testing::{secret, server};

const AUTHORITY: &str = include_str!("../postgres/testdata/ca.crt");

#[test]
fn authorities_come_from_the_referenced_secret() {
    let mut server = server("pg-1");
    assert!(authorities(&server, &cache([]), "ahoi-system").unwrap().is_none());
    server.spec.tls = serde_saphyr::from_str("{mode: VerifyFull, caSecretRef: {name: pg-1-tls}}").unwrap();
    let find = |secrets: Vec<Secret>| authorities(&server, &cache(secrets), "ahoi-system");
    insta::assert_snapshot!(find(vec![]).unwrap_err(), @"Secret ahoi-system/pg-1-tls in spec.tls.caSecretRef of DatabaseServer pg-1 does not exist: create it with the certificates under its key ca.crt");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in ["", "certificate", garbage, &format!("{AUTHORITY}{garbage}")] {
        let error = find(vec![secret("pg-1-tls", &[(CA, bad)])]).unwrap_err();
        assert_eq!(error.reason(), "SecretIncomplete", "{bad}");
    }
    assert_eq!(find(vec![secret("pg-1-tls", &[(CA, AUTHORITY)])]).unwrap().as_deref(), Some(AUTHORITY));
}
