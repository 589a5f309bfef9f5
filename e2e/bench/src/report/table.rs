//! The numbers as Markdown.

use super::figure::figure;
use crate::results::{Run, Value};
use crate::stats::spread;

/// Everything that was measured, by scenario, with the machine and the plots.
pub fn markdown(runs: &[Run], summary: &str, plots: &[(String, String)]) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    let Some(first) = runs.first() else { return text };
    let command =
        if first.profile == "full" { "make bench".to_owned() } else { format!("e2e/bench/run {}", first.profile) };
    let scenarios = in_order(runs.iter().flat_map(|run| &run.values).map(|value| value.scenario.as_str()));
    // A run may measure something more than once, in turns with what it is compared with.
    let times = |scenario: &str| {
        let of = || runs.iter().flat_map(|run| &run.values).filter(|value| value.scenario == scenario);
        in_order(of().map(|v| v.what.as_str()))
            .iter()
            .map(|what| of().filter(|v| v.what == *what).count())
            .max()
            .unwrap_or_default()
    };
    let (least, most) = (scenarios.iter().map(|s| times(s)).min(), scenarios.iter().map(|s| times(s)).max());
    let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
    let several = match (least, most) {
        (_, 0 | 1) => "measured once".to_owned(),
        (least, most) if least == most => format!("measured {most} times: medians (smallest – largest)"),
        (least, most) => format!("measured {least} to {most} times: medians (smallest – largest)"),
    };
    let ours = |version: &&str| version.starts_with("Ahoi ");
    let commits = in_order(versions(runs).filter(ours));
    let several_commits = commits.len() > 1;
    let others = in_order(versions(runs).filter(|version| !several_commits || !ours(version)));
    let machine = &first.machine;
    let loads: Vec<f64> = runs.iter().filter_map(|run| run.machine.load.parse().ok()).collect();
    let (calm, busy) = spread(&loads);
    let together = if several_commits { ", and put together from runs of several commits, named below" } else { "" };
    text += &format!(
        "Made by `{command}`, which anybody can run again{together}. Each scenario was {several}. API server, etcd, controllers, PostgreSQL \
         and whatever is measured with share one machine, so absolute figures belong to it. Compare the ratios.\n\n\
         - Machine: {} cores ({}), {} GiB of memory, {}\n\
         - Load in the minute before a cluster was measured: {calm:.2} – {busy:.2}\n\
         - Versions: {}\n",
        machine.cores,
        machine.processor,
        machine.memory,
        machine.kernel,
        others.join(", "),
    );
    text += summary;
    for (name, file) in plots {
        text += &format!("\n![{name}]({file})\n");
    }
    for scenario in scenarios {
        let of_it = runs.iter().filter(|run| run.values.iter().any(|value| value.scenario == scenario));
        let by = in_order(versions(of_it).filter(ours)).join(", ");
        let by = if several_commits { format!(", {by}") } else { String::new() };
        let measured = match times(scenario) {
            _ if least == most && !several_commits => String::new(),
            1 => format!("Measured once{by}.\n\n"),
            several => format!("Measured {several} times{by}.\n\n"),
        };
        text += &format!("\n## {}\n\n{measured}| | |\n|---|---|\n", capital(scenario));
        let of: Vec<&Value> = runs.iter().flat_map(|run| &run.values).filter(|v| v.scenario == scenario).collect();
        for what in in_order(of.iter().map(|value| value.what.as_str())) {
            let same: Vec<&&Value> = of.iter().filter(|value| value.what == what).collect();
            let values: Vec<f64> = same.iter().map(|value| value.value).collect();
            let unit = same.first().map_or("", |value| value.unit.as_str());
            text += &format!("| {what} | {} |\n", figure(&values, unit));
        }
    }
    let violations: Vec<&String> = runs.iter().flat_map(|run| &run.violations).collect();
    if !violations.is_empty() {
        text += "\n## What must be and was not\n\n";
        for violation in violations {
            text += &format!("- {violation}\n");
        }
    }
    text
}

/// What was measured with, some of it named more than once.
fn versions<'a>(runs: impl IntoIterator<Item = &'a Run>) -> impl Iterator<Item = &'a str> {
    runs.into_iter().flat_map(|run| &run.machine.versions).map(String::as_str)
}

fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn the_report() {
        let run = |rate: f64, load: &str| {
            let machine = Machine {
                cores: 2,
                processor: "Some Processor".into(),
                memory: 24,
                kernel: "Linux 6".into(),
                versions: vec!["Ahoi abc".into(), "Kubernetes v1".into()],
                load: load.into(),
            };
            let mut run = Run { profile: "full".into(), machine, ..Run::default() };
            run.value("10 customers at once", "rate", "customers/s", rate);
            run.value("10 customers at once", "share", "", 0.9);
            run.zero("at rest", "writes", "requests", usize::from(rate > 20.0));
            run
        };
        let runs = [run(20.0, "0.10"), run(22.5, "0.20"), run(10.0, "0.00")];
        insta::assert_snapshot!(markdown(&runs, "", &[("the plot".into(), "the-plot.svg".into())]));
    }
}
