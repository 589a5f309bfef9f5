//! The report of an agent in the status of its PgBouncer, and when a new report is worth a request.

use std::collections::BTreeSet;

use ahoi_api::{ProcessStatus, RefusedRoute};

use crate::pool::Pool;

/// Maximum number of entries in each list of a report: a status has to fit into an object.
const LISTED: usize = 200;

/// Adds the refused routes to a report. Those that do not fit limit the proved version, so that no refused pool counts as
/// proved.
pub fn refuse(report: &mut ProcessStatus, refused: &[RefusedRoute], pools: &[Pool]) {
    report.refused = refused.iter().take(LISTED).cloned().collect();
    let Some(rest) = refused.get(LISTED..).filter(|rest| !rest.is_empty()) else { return };
    let unlisted = pools.iter().filter(|pool| rest.iter().any(|refused| refused.pool == pool.key));
    let lowest = unlisted.map(|pool| pool.version - 1).min();
    report.proved_version = report.proved_version.min(lowest.unwrap_or(i64::MAX));
    report.error.get_or_insert_with(|| format!("{} routes are refused, too many to list", refused.len()));
}

/// Adds the retiring logins that clients use here to a report. Those that do not fit limit the proved version, so that none of
/// them counts as unused.
pub fn retire(report: &mut ProcessStatus, users: &BTreeSet<String>, pools: &[Pool]) {
    let in_use = pools.iter().filter(|pool| pool.retiring().is_some_and(|login| users.contains(login)));
    let mut in_use: Vec<(&str, i64)> = in_use.filter_map(|pool| Some((pool.retiring()?, pool.version))).collect();
    in_use.sort_unstable();
    let rest = in_use.split_off(in_use.len().min(LISTED));
    let lowest = rest.iter().map(|(_, version)| version - 1).min();
    report.proved_version = report.proved_version.min(lowest.unwrap_or(i64::MAX));
    report.retiring = in_use.into_iter().map(|(login, _)| login.to_owned()).collect();
    report.retiring.dedup();
}

/// Whether `now` has to be written after `last`. A higher version alone has to be only if a pool's controller waits for it:
/// `awaited` is the highest version of such a pool.
#[must_use]
pub fn is_news(last: Option<&ProcessStatus>, now: &ProcessStatus, awaited: Option<i64>) -> bool {
    let Some(last) = last else { return true };
    let same = ProcessStatus { proved_version: last.proved_version, ..now.clone() } == *last;
    !same || awaited.is_some_and(|awaited| awaited > last.proved_version && now.proved_version > last.proved_version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::pool;

    fn report(proved_version: i64, routes: i64) -> ProcessStatus {
        ProcessStatus { pod: "g-0".into(), uid: "u".into(), proved_version, routes, ..ProcessStatus::default() }
    }

    #[test]
    fn a_report_without_news_is_not_written() {
        assert!(is_news(None, &report(1, 1), None));
        assert!(!is_news(Some(&report(1, 1)), &report(9, 1), None));
        assert!(!is_news(Some(&report(5, 1)), &report(9, 1), Some(5)), "already proved");
        assert!(is_news(Some(&report(5, 1)), &report(9, 1), Some(6)));
        assert!(!is_news(Some(&report(5, 1)), &report(5, 1), Some(6)), "the proved version is limited");
        assert!(is_news(Some(&report(5, 1)), &report(9, 2), None));
        let failing = ProcessStatus { error: Some("x".into()), ..report(5, 1) };
        assert!(is_news(Some(&report(5, 1)), &failing, None));
        assert!(!is_news(Some(&failing), &failing, None));
    }

    #[test]
    fn retiring_logins_in_use_are_reported() {
        let retiring = |i: i64| {
            let mut pool = pool(&format!("c_{i:03}"), i);
            pool.route.as_mut().unwrap().retiring = Some(format!("c_{i:03}_a"));
            pool
        };
        let pools: Vec<Pool> = (1..=300).map(retiring).collect();
        assert!(pools[0].awaited());
        let users = |count: i64| -> BTreeSet<String> { (1..=count).map(|i| format!("c_{i:03}_a")).collect() };
        let mut few = report(300, 0);
        retire(&mut few, &["c_002_a".into(), "c_002_b".into(), "c_900_a".into()].into(), &pools);
        assert_eq!((few.retiring, few.proved_version), (vec!["c_002_a".to_owned()], 300));
        let mut many = report(300, 0);
        retire(&mut many, &users(205), &pools);
        assert_eq!((many.retiring.len(), many.proved_version), (200, 200), "the others are not proved");
    }

    #[test]
    fn unlisted_refusals_are_not_proved() {
        let pools: Vec<Pool> = (1..=300).map(|i| pool(&format!("c_{i}"), i)).collect();
        let refused = |count: usize| -> Vec<RefusedRoute> {
            pools[..count].iter().map(|pool| RefusedRoute { pool: pool.key.clone(), reason: "no".into() }).collect()
        };
        let mut few = report(300, 0);
        refuse(&mut few, &refused(200), &pools);
        assert_eq!((few.refused.len(), few.proved_version, few.error), (200, 300, None));
        let mut many = report(300, 0);
        refuse(&mut many, &refused(201), &pools);
        assert_eq!((many.refused.len(), many.proved_version), (200, 200));
        assert_eq!(many.error.as_deref(), Some("201 routes are refused, too many to list"));
    }
}
