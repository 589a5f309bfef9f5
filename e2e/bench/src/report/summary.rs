//! What was promised, and what was found: the beginning of the report.

use super::figure::figure;
use crate::results::Run;
use crate::scenarios::{changes, databases, floor, labels, peers};
use crate::stats::median;

/// A figure that was promised.
struct Bar {
    promise: &'static str,
    found: Found,
    limit: Limit,
}

/// Where it is found.
enum Found {
    /// In this row of the scenarios that begin and end so.
    Row { begin: &'static str, end: &'static str, what: &'static str },
    /// As the quotient of two rows, of the suite and of a peer whose name begins so: the rest of the name of the peer's scenario
    /// is that of the suite's.
    Quotient { ours: &'static str, peer: &'static str, theirs: &'static str },
}

enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

fn bars() -> Vec<Bar> {
    use Limit::{AtLeast, AtMost};
    let row = |promise, begin, end, what, limit| Bar { promise, found: Found::Row { begin, end, what }, limit };
    let beside = |promise, peer, ours, theirs| Bar {
        promise,
        found: Found::Quotient { ours, peer, theirs },
        limit: AtMost(1.0),
    };
    let (writes, parent, kro) = ("writes per customer", peers::PARENT, peers::KRO_RAISED);
    vec![
        row("customers a second ÷ the floor's", "the floor", "", floor::SHARE, AtLeast(0.85)),
        row("… ÷ those of a bare client that awaits nothing", "the floor", "", floor::SHARE_OF_BARE, AtLeast(0.85)),
        row("… ÷ those of a parent on controller-runtime", parent, "", peers::MULTIPLE, AtLeast(1.0)),
        row("… ÷ those of kro with its limits raised", kro, "", peers::MULTIPLE, AtLeast(1.0)),
        beside("writes of a customer ÷ the parent's", parent, writes, writes),
        beside("… ÷ kro's", kro, writes, writes),
        beside("memory of a customer ÷ the parent's", parent, labels::MEMORY, peers::MEMORY),
        beside("… ÷ kro's", kro, labels::MEMORY, peers::MEMORY),
        row("toggle → child applied ÷ one apply, p99", "one toggle on each", "", changes::TOGGLE_MULTIPLE, AtMost(8.0)),
        row("writes at a restart of every controller", "every controller restarted", "", "writes", AtMost(0.0)),
        row("writes at rest", "", "idle seconds with 10000 customers", "writes", AtMost(0.0)),
        row(
            "memory of all controllers for each of 10,000 customers",
            "9000 customers at once beside",
            "",
            labels::MEMORY,
            AtMost(40.0),
        ),
        row("one of 10,000 ÷ one of 1,000: writes", "each of 10000", "", writes, AtMost(1.1)),
        row("… memory", "each of 10000", "", labels::MEMORY, AtMost(1.1)),
        row("… CPU of the suite", "each of 10000", "", "CPU of the suite per customer", AtMost(1.1)),
        row(
            "databases a second ÷ those of the same SQL by a bare client",
            "300 databases",
            "at once",
            databases::SHARE,
            AtLeast(0.85),
        ),
        row("… PostgreSQL on a core of its own", "300 databases", "of its own", databases::SHARE, AtLeast(0.85)),
    ]
}

/// The bars of which these runs have a figure.
pub fn markdown(runs: &[Run]) -> String {
    let lines: Vec<String> = bars().iter().filter_map(|bar| line(bar, runs)).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("\n## In short\n\n| | bar | found | |\n|---|---|---|---|\n{}", lines.concat())
}

fn line(bar: &Bar, runs: &[Run]) -> Option<String> {
    let (values, unit) = bar.found.values(runs)?;
    let middle = median(&values);
    let (bound, met) = match bar.limit {
        Limit::AtLeast(least) => (format!("≥ {least}"), middle >= least),
        Limit::AtMost(0.0) => ("0".to_owned(), middle <= 0.0),
        Limit::AtMost(most) => (format!("≤ {most}"), middle <= most),
    };
    let met = if met { "met" } else { "**missed**" };
    Some(format!("| {} | {bound} | {} | {met} |\n", bar.promise, figure(&values, &unit)))
}

impl Found {
    fn values(&self, runs: &[Run]) -> Option<(Vec<f64>, String)> {
        let all = || runs.iter().flat_map(|run| &run.values);
        let (values, unit) = match self {
            Found::Row { begin, end, what } => {
                let is = |scenario: &str| scenario.starts_with(begin) && scenario.ends_with(end);
                let found: Vec<_> = all().filter(|value| is(&value.scenario) && value.what == *what).collect();
                (found.iter().map(|value| value.value).collect::<Vec<f64>>(), found.first()?.unit.clone())
            }
            Found::Quotient { ours, peer, theirs } => {
                let theirs: Vec<_> =
                    all().filter(|value| value.scenario.starts_with(peer) && value.what == *theirs).collect();
                let (_, scenario) = theirs.first()?.scenario.split_once(": ")?;
                let ours = all().filter(|value| value.scenario == scenario && value.what == *ours);
                let ours = median(&ours.map(|value| value.value).collect::<Vec<_>>());
                (theirs.iter().map(|value| ours / value.value).collect(), String::new())
            }
        };
        Some((values, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_has_a_published_result() {
        let published = include_str!("../../../../docs/benchmarks/results.json");
        let runs: Vec<Run> = serde_json::from_str(published).unwrap();
        for bar in bars() {
            assert!(line(&bar, &runs).is_some(), "{}", bar.promise);
        }
    }

    #[test]
    fn met_and_missed() {
        let mut run = Run::default();
        run.value("the floor: of all", "rate of the suite as a share of the floor", "", 0.8);
        run.value("10 at once", "writes per customer", "requests", 14.0);
        run.value("a parent on controller-runtime: 10 at once", "writes per customer", "requests", 16.0);
        let expected = "\n## In short\n\n| | bar | found | |\n|---|---|---|---|\n\
            | customers a second ÷ the floor's | ≥ 0.85 | 0.800 | **missed** |\n\
            | writes of a customer ÷ the parent's | ≤ 1 | 0.875 | met |\n";
        assert_eq!(markdown(&[run]), expected);
    }
}
