//! The report: README.md with all figures, results.json with all runs, and an SVG for each plot.

mod figure;
mod summary;
mod svg;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::results::{Curve, Run};
use crate::stats::median;

/// Writes the report of `runs` into `folder`.
pub fn write(folder: &Path, runs: &[Run]) -> Result<()> {
    let first = runs.first().context("no run")?;
    ensure!(runs.iter().all(|run| run.profile == first.profile), "the runs are of different profiles");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut plots = Vec::new();
    for (name, curves) in plots_of(runs) {
        let file = format!("{}.svg", file_name(&name));
        fs::write(folder.join(&file), plot(&name, &curves).to_svg())?;
        plots.push((name, file));
    }
    let text = table::markdown(runs, &summary::markdown(runs), &plots);
    fs::write(folder.join("README.md"), &text)?;
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(runs)? + "\n")?;
    println!("{text}");
    Ok(())
}

/// Returns the curves of each plot, each of the median run.
fn plots_of(runs: &[Run]) -> Vec<(String, Vec<Curve>)> {
    let mut order: Vec<(String, String)> = Vec::new();
    let mut all: BTreeMap<(String, String), Vec<&Curve>> = BTreeMap::new();
    for curve in runs.iter().flat_map(|run| &run.curves) {
        let key = (curve.plot.clone(), curve.name.clone());
        if !order.contains(&key) {
            order.push(key.clone());
        }
        all.entry(key).or_default().push(curve);
    }
    let mut plots: Vec<(String, Vec<Curve>)> = Vec::new();
    for key in order {
        let Some(middle) = all.get(&key).and_then(|curves| middle(curves)) else { continue };
        match plots.iter_mut().find(|(plot, _)| *plot == key.0) {
            Some((_, curves)) => curves.push(middle.clone()),
            None => plots.push((key.0, vec![middle.clone()])),
        }
    }
    plots
}

/// Returns the measured curve whose end is nearest to the median of all ends.
fn middle<'a>(curves: &[&'a Curve]) -> Option<&'a Curve> {
    let end = |curve: &Curve| curve.points.last().map_or(0.0, |(x, y)| x * y);
    let target = median(&curves.iter().map(|curve| end(curve)).collect::<Vec<_>>());
    curves.iter().copied().min_by(|a, b| (end(a) - target).abs().total_cmp(&(end(b) - target).abs()))
}

fn plot<'a>(name: &'a str, curves: &'a [Curve]) -> svg::Plot<'a> {
    let latency = name == "latency";
    let (x, y) = if latency { ("percentile", "milliseconds") } else { ("seconds", "customers") };
    svg::Plot { title: name, x, y, logarithmic: latency, curves }
}

fn file_name(plot: &str) -> String {
    let words: Vec<&str> = plot.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_run_is_drawn() {
        let run = |end: f64| {
            let mut run = Run::default();
            run.curve("p", "a", vec![(0.0, 0.0), (end, 1.0)]);
            run.curve("q", "a", vec![(end, 1.0)]);
            run
        };
        let plots = plots_of(&[run(9.0), run(5.0), run(7.0)]);
        assert_eq!(
            plots.iter().map(|(name, curves)| (name.as_str(), curves.len())).collect::<Vec<_>>(),
            [("p", 1), ("q", 1)]
        );
        assert_eq!(plots[0].1[0].points.last(), Some(&(7.0, 1.0)));
    }

    #[test]
    fn files() {
        assert_eq!(file_name("convergence, fan-out only"), "convergence-fan-out-only");
    }
}
