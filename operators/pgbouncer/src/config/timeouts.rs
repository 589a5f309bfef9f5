//! Timeouts of single routes. Clients can change PostgreSQL's timeouts, but not those of pgbouncer.
//!
//! pgbouncer has timeouts for a login, not for a database, so they are set for every login that a database can have. A login
//! that is listed here and not in the auth_file is looked up like any other.

use std::fmt::Write;

use ahoi_api::{Route, logins};

/// The section of the logins. A login that is no longer in it has the settings of the fleet from the next reload on.
pub(super) fn render(routes: &[&Route]) -> String {
    let mut lines: Vec<String> = routes.iter().flat_map(|route| entries(route)).collect();
    lines.sort();
    format!("[users]\n{}", lines.concat())
}

fn entries(route: &Route) -> Vec<String> {
    let mut settings = String::new();
    if let Some(seconds) = route.query_timeout_seconds {
        let _ = write!(settings, " query_timeout={seconds}");
    }
    if let Some(seconds) = route.idle_transaction_timeout_seconds {
        let _ = write!(settings, " idle_transaction_timeout={seconds}");
    }
    if settings.is_empty() {
        return Vec::new();
    }
    logins(&route.database).map(|login| format!("{login} ={settings}\n")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::route;

    #[test]
    fn timeouts_are_set_for_every_login_of_a_route() {
        let both =
            Route { query_timeout_seconds: Some(30), idle_transaction_timeout_seconds: Some(60), ..route("c_b") };
        let one = Route { idle_transaction_timeout_seconds: Some(5), ..route("c_a") };
        insta::assert_snapshot!(render(&[&both, &one, &route("c_c")]), @r"
        [users]
        c_a_a = idle_transaction_timeout=5
        c_a_b = idle_transaction_timeout=5
        c_b_a = query_timeout=30 idle_transaction_timeout=60
        c_b_b = query_timeout=30 idle_transaction_timeout=60
        ");
    }
}
