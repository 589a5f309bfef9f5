//! Detects a flood of clients that connect and do not log in.

use std::collections::BTreeMap;

/// Number of unfinished logins that is unusual: a login takes milliseconds.
const MANY: i64 = 200;
/// Seconds with so many unfinished logins until they are reported. Clients that all reconnect after a restart take less.
const REPORTED: u32 = 5;
/// Maximum number of seconds with fewer of them until logins have their usual time again.
const CALM: u32 = 30;

/// Judges the number of unfinished logins of a process, once a second.
#[derive(Clone, Debug, Default)]
pub struct LoginWatch {
    heat: u32,
    reported: bool,
}

/// A change of the judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A flood has begun.
    Began,
    /// The flood has ended.
    Ended,
}

impl LoginWatch {
    /// Records the number of unfinished logins.
    pub fn observe(&mut self, unfinished: i64) -> Option<Change> {
        self.heat = if unfinished >= MANY { (self.heat + 1).min(CALM) } else { self.heat.saturating_sub(1) };
        if !self.reported && self.heat >= REPORTED {
            self.reported = true;
            Some(Change::Began)
        } else if self.reported && self.heat == 0 {
            self.reported = false;
            Some(Change::Ended)
        } else {
            None
        }
    }

    /// Whether logins get less time than usual.
    #[must_use]
    pub fn is_hurried(&self) -> bool {
        self.heat > 0
    }

    /// Whether a flood is reported.
    #[must_use]
    pub fn is_flood(&self) -> bool {
        self.reported
    }
}

/// A client that has not finished its login.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unfinished {
    /// Address of the client.
    pub address: String,
    /// User name that the client sent; empty before it sent one.
    pub user: String,
}

/// Describes the address and the user with the most unfinished logins.
#[must_use]
pub fn most(unfinished: &[Unfinished]) -> Option<String> {
    let most_of = |of: fn(&Unfinished) -> &str| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for one in unfinished {
            *counts.entry(of(one)).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count)
    };
    let (address, from) = most_of(|one| &one.address)?;
    let (user, of) = most_of(|one| &one.user)?;
    let user: String = user.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(63).collect();
    let user = if user.is_empty() { "without a user name".to_owned() } else { format!("as user {user}") };
    Some(format!("{from} from {address}, {of} {user}"))
}

/// Number of TCP connections that this network namespace has accepted, from `/proc/net/snmp`.
#[must_use]
pub fn accepted(snmp: &str) -> Option<i64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let column = lines.next()?.split(' ').position(|name| name == "PassiveOpens")?;
    lines.next()?.split(' ').nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_reported_when_it_lasts() {
        let mut watch = LoginWatch::default();
        assert!((0..60).all(|_| watch.observe(MANY - 1).is_none()));
        assert!(!watch.is_hurried());
        assert!((0..3).all(|_| watch.observe(5000).is_none()), "clients that reconnect");
        assert!(watch.is_hurried() && !watch.is_flood());
        assert!((0..3).all(|_| watch.observe(0).is_none()));
        assert!(!watch.is_hurried());

        let changes: Vec<_> = (0..60).filter_map(|_| watch.observe(2400)).collect();
        assert_eq!(changes, [Change::Began], "once");
        assert!(watch.is_flood());
        assert_eq!(watch.observe(0), None, "the clients are just reconnecting");
        assert!(watch.is_hurried() && watch.is_flood());
        let changes: Vec<_> = (0..60).filter_map(|_| watch.observe(0)).collect();
        assert_eq!(changes, [Change::Ended]);
        assert!(!watch.is_hurried() && !watch.is_flood());
    }

    #[test]
    fn user_names_are_reported_without_special_characters() {
        let one = |address: &str, user: &str| Unfinished { address: address.into(), user: user.into() };
        let all = [one("10.1.0.7", "c_a_a"), one("10.1.0.7", "c_b_a\n\"x"), one("10.1.0.8", "c_b_a\n\"x")];
        assert_eq!(most(&all).as_deref(), Some("2 from 10.1.0.7, 2 as user c_b_ax"));
        assert_eq!(most(&[one("10.1.0.7", "")]).as_deref(), Some("1 from 10.1.0.7, 1 without a user name"));
        assert_eq!(most(&[]), None);
    }

    #[test]
    fn accepted_connections_are_parsed() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 7 4711\nUdp: x\nUdp: 1\n";
        assert_eq!(accepted(text), Some(4711));
        assert_eq!(accepted("Tcp: RtoMin\nTcp: 1\n"), None);
    }
}
