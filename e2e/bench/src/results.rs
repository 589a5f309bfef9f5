//! Results of a run.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One run of a profile on a fresh cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Name of the profile.
    pub profile: String,
    /// Machine of the run.
    pub machine: Machine,
    /// Figures, in the order in which they were measured.
    pub values: Vec<Value>,
    /// Curves, for the plots.
    pub curves: Vec<Curve>,
    /// Violated requirements, for example writes at rest.
    pub violations: Vec<String>,
}

/// Figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Scenario: a heading of the report.
    pub scenario: String,
    /// Quantity: a row of the report.
    pub what: String,
    /// Unit.
    pub unit: String,
    /// Value.
    pub value: f64,
}

/// Curve of a plot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Name of the plot.
    pub plot: String,
    /// Name of the curve.
    pub name: String,
    /// Points.
    pub points: Vec<(f64, f64)>,
}

impl Run {
    /// Records and prints a figure.
    pub fn value(&mut self, scenario: &str, what: &str, unit: &str, value: f64) {
        println!("    {what}: {} {unit}", number(value));
        self.values.push(Value { scenario: scenario.into(), what: what.into(), unit: unit.into(), value });
    }

    /// Records a figure that must be 0.
    pub fn zero(&mut self, scenario: &str, what: &str, unit: &str, value: usize) {
        self.value(scenario, what, unit, value as f64);
        if value > 0 {
            self.violations.push(format!("{scenario}: {value} {unit} ({what}) instead of 0"));
        }
    }

    /// Returns the last figure of a scenario.
    pub fn find(&self, scenario: &str, what: &str) -> Option<f64> {
        self.values.iter().rfind(|v| v.scenario == scenario && v.what == what).map(|v| v.value)
    }

    /// Records a curve.
    pub fn curve(&mut self, plot: &str, name: &str, points: Vec<(f64, f64)>) {
        self.curves.push(Curve { plot: plot.into(), name: name.into(), points });
    }
}

/// Formats a number with its significant digits.
pub fn number(value: f64) -> String {
    // The sum of nothing is -0.
    let value = value + 0.0;
    match value.abs() {
        v if v == v.trunc() && v < 1e9 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        assert_eq!([0.0, -0.0, 3.0, 0.1234, 1.234].map(number), ["0", "0", "3", "0.123", "1.23"]);
        assert_eq!([12.34, 1234.5].map(number), ["12.3", "1234"]);
    }

    #[test]
    fn a_value_that_must_be_zero_is_a_violation_otherwise() {
        let mut run = Run::default();
        run.zero("at rest", "writes", "requests", 0);
        assert!(run.violations.is_empty());
        run.zero("at rest", "writes", "requests", 2);
        assert_eq!(run.violations, ["at rest: 2 requests (writes) instead of 0"]);
        assert_eq!(run.find("at rest", "writes"), Some(2.0));
    }
}
