//! Goals and results: the first section of the report.

use super::figure::figure;
use crate::results::Run;
use crate::scenarios::{changes, databases, floor, labels, peers};
use crate::stats::median;

/// Goal for a figure.
struct Goal {
    name: &'static str,
    found: Found,
    limit: Limit,
}

/// Where the figure is in the results.
enum Found {
    /// Row of the scenarios with this prefix and suffix.
    Row { begin: &'static str, end: &'static str, what: &'static str },
    /// Quotient of a row of Ahoi and a row of the peer with this prefix. The rest of the name of the peer's scenario is the name
    /// of the scenario of Ahoi.
    Quotient { ours: &'static str, peer: &'static str, theirs: &'static str },
}

enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

fn goals() -> Vec<Goal> {
    use Limit::{AtLeast, AtMost};
    let row = |name, begin, end, what, limit| Goal { name, found: Found::Row { begin, end, what }, limit };
    let beside =
        |name, peer, ours, theirs| Goal { name, found: Found::Quotient { ours, peer, theirs }, limit: AtMost(1.0) };
    let (writes, parent, kro) = ("writes per customer", peers::PARENT, peers::KRO_RAISED);
    vec![
        row("customers a second ÷ the floor's", "the floor", "", floor::SHARE, AtLeast(0.85)),
        row("… ÷ those of a bare client that waits for nothing", "the floor", "", floor::SHARE_OF_BARE, AtLeast(0.85)),
        row("… ÷ those of a parent on controller-runtime", parent, "", peers::MULTIPLE, AtLeast(1.0)),
        row("… ÷ those of kro with raised limits", kro, "", peers::MULTIPLE, AtLeast(1.0)),
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
        row("… CPU of Ahoi", "each of 10000", "", "CPU of Ahoi per customer", AtMost(1.1)),
        row(
            "databases a second ÷ those of the same SQL by a bare client",
            "300 databases",
            "at once",
            databases::SHARE,
            AtLeast(0.85),
        ),
        row("… PostgreSQL on its own core", "300 databases", "its own core", databases::SHARE, AtLeast(0.85)),
    ]
}

/// Returns the goals for which these runs have figures.
pub fn markdown(runs: &[Run]) -> String {
    let lines: Vec<String> = goals().iter().filter_map(|goal| line(goal, runs)).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("\n## Goals\n\n| | goal | result | |\n|---|---|---|---|\n{}", lines.concat())
}

fn line(goal: &Goal, runs: &[Run]) -> Option<String> {
    let (values, unit) = goal.found.values(runs)?;
    let middle = median(&values);
    let (bound, met) = match goal.limit {
        Limit::AtLeast(least) => (format!("≥ {least}"), middle >= least),
        Limit::AtMost(0.0) => ("0".to_owned(), middle <= 0.0),
        Limit::AtMost(most) => (format!("≤ {most}"), middle <= most),
    };
    let met = if met { "met" } else { "**missed**" };
    Some(format!("| {} | {bound} | {} | {met} |\n", goal.name, figure(&values, &unit)))
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
        for goal in goals() {
            assert!(line(&goal, &runs).is_some(), "{}", goal.name);
        }
    }

    #[test]
    fn met_and_missed() {
        let mut run = Run::default();
        run.value("the floor: of all", "rate of Ahoi as a share of the floor", "", 0.8);
        run.value("10 at once", "writes per customer", "requests", 14.0);
        run.value("a parent on controller-runtime: 10 at once", "writes per customer", "requests", 16.0);
        let expected = "\n## Goals\n\n| | goal | result | |\n|---|---|---|---|\n\
            | customers a second ÷ the floor's | ≥ 0.85 | 0.800 | **missed** |\n\
            | writes of a customer ÷ the parent's | ≤ 1 | 0.875 | met |\n";
        assert_eq!(markdown(&[run]), expected);
    }
}
