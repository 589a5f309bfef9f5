//! The settings of pgbouncer 1.26 that a fleet may change (<https://www.pgbouncer.org/config.html>).
//!
//! With one unknown name or invalid value, pgbouncer would not read its file, with all routes in it. So only settings in this
//! table are written.

use std::collections::BTreeMap;

use super::tls_values;

enum Value {
    /// A whole number with this minimum.
    Number(u32),
    /// A whole number with minimum and maximum. The kernel refuses more, and then pgbouncer does not start.
    Between(u32, u32),
    /// Seconds, possibly with a fraction.
    Seconds,
    /// A single line of text.
    Text,
    /// See [`tls_values`].
    Protocols,
    /// See [`tls_values`].
    Ciphers,
}

use Value::{Between, Ciphers, Number, Protocols, Seconds, Text};

struct Parameter {
    name: &'static str,
    value: Value,
    /// Whether pgbouncer reads it only when it starts.
    restart: bool,
}

const fn live(name: &'static str, value: Value) -> Parameter {
    Parameter { name, value, restart: false }
}

const fn restart(name: &'static str, value: Value) -> Parameter {
    Parameter { name, value, restart: true }
}

const ALLOWED: &[Parameter] = &[
    live("application_name_add_host", Number(0)),
    live("cancel_wait_timeout", Seconds),
    live("client_idle_timeout", Seconds),
    live("client_login_timeout", Seconds),
    live("dns_max_ttl", Seconds),
    live("dns_nxdomain_ttl", Seconds),
    live("dns_zone_check_period", Seconds),
    live("idle_transaction_timeout", Seconds),
    restart("listen_backlog", Number(1)),
    live("log_connections", Number(0)),
    live("log_disconnections", Number(0)),
    live("log_pooler_errors", Number(0)),
    live("log_stats", Number(0)),
    live("max_db_connections", Number(0)),
    live("max_packet_size", Number(1024)),
    live("max_prepared_statements", Number(0)),
    live("max_user_connections", Number(0)),
    live("min_pool_size", Number(0)),
    restart("pkt_buf", Number(512)),
    live("query_timeout", Seconds),
    live("query_wait_timeout", Seconds),
    live("reserve_pool_size", Number(0)),
    live("reserve_pool_timeout", Seconds),
    live("sbuf_loopcnt", Number(0)),
    live("server_check_delay", Seconds),
    live("server_check_query", Text),
    live("server_connect_timeout", Seconds),
    live("server_fast_close", Number(0)),
    live("server_idle_timeout", Seconds),
    live("server_lifetime", Seconds),
    live("server_login_retry", Seconds),
    live("server_reset_query", Text),
    live("server_reset_query_always", Number(0)),
    live("server_round_robin", Number(0)),
    live("server_tls_ciphers", Ciphers),
    live("server_tls_protocols", Protocols),
    live("stats_period", Number(1)),
    live("tcp_defer_accept", Number(0)),
    live("tcp_keepalive", Number(0)),
    live("tcp_keepcnt", Between(0, 127)),
    live("tcp_keepidle", Between(0, 32_767)),
    live("tcp_keepintvl", Between(0, 32_767)),
    live("tcp_socket_buffer", Number(0)),
    live("tcp_user_timeout", Between(0, 2_147_483_647)),
    restart("track_extra_parameters", Text),
    live("verbose", Number(0)),
];

/// Limits that count clients before they have logged in, so that any client can use them up. If clients of the console reach the
/// first one, pgbouncer 1.26.1 even exits.
const BEFORE_LOGIN: [&str; 2] = ["max_db_client_connections", "max_user_client_connections"];

/// Settings that follow from `spec.tls`.
const OF_SPEC_TLS: &[&str] = &[
    "client_tls_ca_file",
    "client_tls_cert_file",
    "client_tls_key_file",
    "client_tls_sslmode",
    "server_tls_ca_file",
    "server_tls_sslmode",
];

/// The problems of the parameters of a fleet, a sentence for each.
#[must_use]
pub fn check(parameters: &BTreeMap<String, String>) -> Vec<String> {
    parameters.iter().filter_map(|(name, value)| problem(name, value)).collect()
}

/// The valid parameters. An agent uses them until the others are corrected.
#[must_use]
pub fn valid(parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let good = parameters.iter().filter(|(name, value)| problem(name, value).is_none());
    good.map(|(name, value)| (name.clone(), value.trim().to_owned())).collect()
}

/// The parameters that pgbouncer reads only when it starts.
#[must_use]
pub fn needing_restart(parameters: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let cold = parameters.iter().filter(|(name, _)| find(name).is_some_and(|known| known.restart));
    cold.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn find(name: &str) -> Option<&'static Parameter> {
    ALLOWED.iter().find(|known| known.name == name)
}

fn problem(name: &str, value: &str) -> Option<String> {
    let Some(known) = find(name) else {
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        if OF_SPEC_TLS.contains(&name.as_str()) {
            return Some(format!("{name} follows from spec.tls: remove it and set spec.tls instead"));
        }
        if BEFORE_LOGIN.contains(&name.as_str()) {
            let instead = "set spec.defaultMaxClientConnections";
            return Some(format!("{name} counts clients that have not logged in: remove it and {instead} instead"));
        }
        return Some(format!("{name} is set by Ahoi or unknown to pgbouncer 1.26: remove it"));
    };
    let value = value.trim();
    let number = || Some(value).filter(|value| is_digits(value)).and_then(|value| value.parse::<u32>().ok());
    let (fits, expected) = match &known.value {
        Number(least) => (number().is_some_and(|number| number >= *least), format!("a whole number, at least {least}")),
        Between(least, most) => (
            number().is_some_and(|number| (*least..=*most).contains(&number)),
            format!("a whole number from {least} to {most}"),
        ),
        Protocols => (tls_values::is_protocols(value), tls_values::EXPECTED_PROTOCOLS.to_owned()),
        Ciphers => (tls_values::is_ciphers(value), tls_values::EXPECTED_CIPHERS.to_owned()),
        Seconds => (is_seconds(value), "a number of seconds".to_owned()),
        Text => (value.len() <= 1024 && !value.chars().any(char::is_control), "a single line of text".to_owned()),
    };
    (!fits).then(|| format!("{name} must be {expected}"))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_seconds(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    is_digits(whole) && whole.len() <= 9 && is_digits(fraction) && fraction.len() <= 6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn valid_parameters_are_accepted() {
        let good = parameters(&[
            ("query_wait_timeout", "0.5"),
            ("max_prepared_statements", "0"),
            ("server_tls_protocols", "tlsv1.3"),
            ("server_reset_query", "DISCARD ALL"),
        ]);
        assert_eq!(check(&good), Vec::<String>::new());
        assert_eq!(valid(&good), good);
    }

    #[test]
    fn each_invalid_parameter_is_named_with_what_is_accepted() {
        let bad = parameters(&[
            ("listen_port", "1"),
            ("max_db_client_connections", "100"),
            ("nonsense\n[databases]", "1"),
            ("pkt_buf", "0"),
            ("query_timeout", "1h"),
            ("query_wait_timeout", "30"),
            ("server_check_query", "select 1\nx = y"),
            ("server_tls_protocols", "tlsv9"),
            ("server_tls_sslmode", "require"),
            ("tcp_keepidle", "4294967295"),
        ]);
        insta::assert_snapshot!(check(&bad).join("\n"), @r"
        listen_port is set by Ahoi or unknown to pgbouncer 1.26: remove it
        max_db_client_connections counts clients that have not logged in: remove it and set spec.defaultMaxClientConnections instead
        nonsense[databases] is set by Ahoi or unknown to pgbouncer 1.26: remove it
        pkt_buf must be a whole number, at least 512
        query_timeout must be a number of seconds
        server_check_query must be a single line of text
        server_tls_protocols must be all, default, secure, or a list of tlsv1.0, tlsv1.1, tlsv1.2 and tlsv1.3, separated by commas
        server_tls_sslmode follows from spec.tls: remove it and set spec.tls instead
        tcp_keepidle must be a whole number from 0 to 32767
        ");
        assert_eq!(valid(&bad), parameters(&[("query_wait_timeout", "30")]));
    }

    #[test]
    fn parameters_that_need_a_restart_are_known() {
        let both = parameters(&[("pkt_buf", "8192"), ("query_timeout", "3")]);
        assert_eq!(needing_restart(&both), BTreeMap::from([("pkt_buf", "8192")]));
    }
}
