//! The TLS part of pgbouncer's files.

use std::path::Path;

use ahoi_api::{ClientTlsMode, TlsMode};

use crate::certificates::Tls;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const SERVERS: &str = "servers.crt";

/// The files, in the order in which they have to be written.
pub fn files(tls: &Tls) -> Vec<(&'static str, String)> {
    let pair = tls.pair.iter().flat_map(|pair| [(CERTIFICATE, pair.certificate.clone()), (KEY, pair.key.clone())]);
    pair.chain(tls.server_authorities.iter().map(|pem| (SERVERS, pem.clone()))).collect()
}

/// The settings that differ from pgbouncer's defaults.
pub fn settings(tls: &Tls, directory: &Path) -> Vec<(&'static str, String)> {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut settings = Vec::new();
    if tls.client != ClientTlsMode::Disable {
        settings.extend([
            ("client_tls_sslmode", tls.client.sslmode().to_owned()),
            ("client_tls_cert_file", file(CERTIFICATE)),
            ("client_tls_key_file", file(KEY)),
            // pgbouncer does not start without it. No client logs in with a certificate, so this authority signs none.
            ("client_tls_ca_file", file(CERTIFICATE)),
        ]);
    }
    if tls.server != TlsMode::Prefer {
        settings.push(("server_tls_sslmode", tls.server.sslmode().to_owned()));
    }
    if tls.server_authorities.is_some() {
        settings.push(("server_tls_ca_file", file(SERVERS)));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::Pair;
    use crate::config::{Settings, render};

    fn tls() -> Tls {
        let pair = Pair { certificate: "CERTIFICATE".into(), key: "KEY".into() };
        Tls {
            client: ClientTlsMode::Require,
            pair: Some(pair),
            server: TlsMode::VerifyFull,
            server_authorities: Some("AUTHORITIES".into()),
        }
    }

    #[test]
    fn settings_follow_from_the_modes() {
        assert_eq!(settings(&Tls::default(), Path::new("/run")), [], "the defaults of pgbouncer");
        let text: Vec<String> =
            settings(&tls(), Path::new("/run")).iter().map(|(name, value)| format!("{name} = {value}")).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        client_tls_sslmode = require
        client_tls_cert_file = /run/tls.crt
        client_tls_key_file = /run/tls.key
        client_tls_ca_file = /run/tls.crt
        server_tls_sslmode = verify-full
        server_tls_ca_file = /run/servers.crt
        ");
    }

    #[test]
    fn another_certificate_changes_the_marker_and_the_main_file_stays_last() {
        let files = |tls: Tls| render([], &[].into(), &Settings { tls, ..Settings::default() });
        let mut other = tls();
        other.pair = Some(Pair { certificate: "CERTIFICATE".into(), key: "ANOTHER".into() });
        let (one, other) = (files(tls()), files(other));
        assert_ne!(one.marker, other.marker);
        assert_eq!(one.files.last().map(|(name, _)| *name), Some(crate::config::INI));
        assert!(one.files.iter().any(|(name, text)| *name == KEY && text == "KEY"));
        assert!(!format!("{one:?}{:?}", tls()).contains("KEY"));
    }
}
