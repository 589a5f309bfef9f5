//! The values of `server_tls_protocols` and `server_tls_ciphers`. pgbouncer only logs an invalid value at a reload, and does
//! not start with it. The values accepted here were tested with pgbouncer 1.26.1 and OpenSSL 3.5.

const PROTOCOL_SETS: [&str; 3] = ["all", "default", "secure"];
const PROTOCOLS: [&str; 5] = ["tlsv1", "tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3"];
const CIPHER_SETS: [&str; 4] = ["default", "fast", "normal", "secure"];
const CIPHERS: [&str; 10] = [
    "HIGH",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];
/// None of these excludes all ciphers of a name in [`CIPHERS`].
const EXCLUDED: [&str; 8] = ["!3DES", "!CAMELLIA", "!MD5", "!PSK", "!RC4", "!SRP", "!aNULL", "!eNULL"];

/// The accepted values, for messages.
pub(super) const EXPECTED_PROTOCOLS: &str =
    "all, default, secure, or a list of tlsv1.0, tlsv1.1, tlsv1.2 and tlsv1.3, separated by commas";
/// The accepted values, for messages.
pub(super) const EXPECTED_CIPHERS: &str = "default, fast, normal, secure, or OpenSSL names separated by colons: HIGH, \
    ECDHE and DHE with AES-GCM or CHACHA20-POLY1305, and exclusions such as !aNULL";

pub(super) fn is_protocols(value: &str) -> bool {
    PROTOCOL_SETS.contains(&value) || value.split(',').all(|protocol| PROTOCOLS.contains(&protocol.trim()))
}

pub(super) fn is_ciphers(value: &str) -> bool {
    let mut names = value.split(':');
    CIPHER_SETS.contains(&value)
        || (names.clone().any(|name| CIPHERS.contains(&name))
            && names.all(|name| CIPHERS.contains(&name) || EXCLUDED.contains(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_prevent_a_start_of_pgbouncer_are_refused() {
        for good in ["secure", "all", "default", "tlsv1.3", "tlsv1.2, tlsv1.3"] {
            assert!(is_protocols(good), "{good}");
        }
        for bad in ["", "tlsv9", "legacy", "tlsv1.3,", "tlsv1.2 tlsv1.3", "TLS", "!tlsv1.2"] {
            assert!(!is_protocols(bad), "{bad}");
        }
        for good in ["secure", "HIGH:!aNULL", "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384"] {
            assert!(is_ciphers(good), "{good}");
        }
        for bad in [
            "",
            "nonsense",
            "all",
            "!aNULL",
            "HIGH:!HIGH",
            "TLS_AES_256_GCM_SHA384",
            "HIGH:nonsense",
            "HIGH:@SECLEVEL=9",
        ] {
            assert!(!is_ciphers(bad), "{bad}");
        }
    }
}
