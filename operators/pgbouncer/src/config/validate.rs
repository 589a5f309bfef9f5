//! Whether a route may be written into pgbouncer's files.
//!
//! pgbouncer stops reading the file at the first entry that it cannot parse. So an entry may consist only of words that need
//! no quoting, and everything else is refused here.

use ahoi_api::Route;

use super::render::AUTH_PREFIX;

/// Checks a route. The error does not contain the invalid value, which may be arbitrary text.
///
/// # Errors
/// When the route must not be loaded.
pub fn validate(route: &Route) -> Result<(), String> {
    check(is_server(&route.server), "route.server must be 1 to 63 lower-case letters, digits and '-'")?;
    check(is_host(&route.host), "route.host must be a host name or an address")?;
    check((1..=65535).contains(&route.port), "route.port must be 1 to 65535")?;
    check(is_word(&route.database), "route.database must be 1 to 63 lower-case letters, digits and '_'")?;
    check(is_word(&route.auth_database), "route.authDatabase must be 1 to 63 lower-case letters, digits and '_'")?;
    check(route.database != "pgbouncer", "route.database must not be pgbouncer, the name of its console")?;
    check(!route.database.starts_with(AUTH_PREFIX), "route.database must not begin with _auth_, which is reserved")?;
    check((1..=1000).contains(&route.pool_size), "route.poolSize must be 1 to 1000")?;
    let clients = route.max_client_connections.unwrap_or(1);
    check((1..=100_000).contains(&clients), "route.maxClientConnections must be 1 to 100000")?;
    let seconds = [route.query_timeout_seconds, route.idle_transaction_timeout_seconds];
    let in_range = seconds.iter().flatten().all(|seconds| (1..=604_800).contains(seconds));
    check(in_range, "route.queryTimeoutSeconds and idleTransactionTimeoutSeconds must be 1 to 604800")
}

fn check(good: bool, problem: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(problem.to_owned()) }
}

/// A name of lower-case letters, digits and `_`.
pub(super) fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_server(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_host(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let ipv6 = text.parse::<std::net::Ipv6Addr>().is_ok();
    let name = edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    (1..=253).contains(&text.len()) && (ipv6 || name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::route;
    use proptest::prelude::*;

    #[test]
    fn ordinary_routes_are_valid() {
        assert_eq!(validate(&route("c_ab12")), Ok(()));
        for host in ["10.1.2.3", "::1", "fd00::1:2", "pg-eu-1.example.com", "pg"] {
            assert_eq!(validate(&Route { host: host.into(), ..route("c_ab12") }), Ok(()), "{host}");
        }
    }

    #[test]
    fn values_that_pgbouncer_could_misread_are_refused() {
        let good = route("c_ab12");
        for (bad, word) in [
            (Route { database: "c ab".into(), ..good.clone() }, "route.database"),
            (Route { database: String::new(), ..good.clone() }, "route.database"),
            (Route { database: "*".into(), ..good.clone() }, "route.database"),
            (Route { database: "a".repeat(64), ..good.clone() }, "route.database"),
            (Route { database: "pgbouncer".into(), ..good.clone() }, "console"),
            (Route { database: "_auth_x".into(), ..good.clone() }, "_auth_"),
            (Route { host: "a,b".into(), ..good.clone() }, "route.host"),
            (Route { host: "/tmp".into(), ..good.clone() }, "route.host"),
            (Route { host: "pg user=postgres".into(), ..good.clone() }, "route.host"),
            (Route { host: "a:b".into(), ..good.clone() }, "route.host"),
            (Route { port: 0, ..good.clone() }, "route.port"),
            (Route { auth_database: "postgres\n".into(), ..good.clone() }, "route.authDatabase"),
            (Route { pool_size: 0, ..good.clone() }, "route.poolSize"),
            (Route { query_timeout_seconds: Some(0), ..good.clone() }, "route.queryTimeoutSeconds"),
            (
                Route { idle_transaction_timeout_seconds: Some(604_801), ..good.clone() },
                "idleTransactionTimeoutSeconds",
            ),
            (Route { max_client_connections: Some(-1), ..good.clone() }, "route.maxClientConnections"),
            (Route { server: "Pg".into(), ..good.clone() }, "route.server"),
        ] {
            let problem = validate(&bad).expect_err(word);
            assert!(problem.contains(word), "{problem}");
        }
    }

    proptest! {
        /// Accepted values consist of characters that pgbouncer reads literally.
        #[test]
        fn accepted_text_needs_no_quoting(database in any::<String>(), host in any::<String>()) {
            let route = Route { database, host, ..route("x") };
            if validate(&route).is_ok() {
                let text = format!("{}{}", route.database, route.host);
                prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b)));
            }
        }
    }
}
