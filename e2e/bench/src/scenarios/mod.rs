//! Scenarios.

pub mod changes;
pub mod compare;
pub mod converge;
pub mod databases;
pub mod floor;
pub mod labels;
pub mod large;
pub mod offboard;
pub mod peers;
pub mod rest;
pub mod steady;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ahoi_e2e::audit::Request;

use crate::bench::{Bench, Start};
use crate::stats::{millis, quantile};
use crate::usage::{Usage, sum};

/// Seconds without a write until a scenario is over.
const QUIET: u64 = 5;

/// Whether it is a controller or an agent.
fn is_of_ahoi(program: &str) -> bool {
    program.starts_with("ahoi-") && program != "ahoi-bench" && program != "ahoi-demo-worker"
}

/// Whether it is a process of the control plane that serves requests.
fn is_control_plane(program: &str) -> bool {
    matches!(program, "kube-apiserver" | "etcd")
}

/// Returns the duration of each.
fn latencies(begun: &BTreeMap<String, Instant>, ended: &BTreeMap<String, Instant>) -> Vec<Duration> {
    begun.iter().filter_map(|(name, begun)| Some(ended.get(name)?.saturating_duration_since(*begun))).collect()
}

/// Returns the number of completed ones by seconds.
fn convergence(start: Instant, ended: &BTreeMap<String, Instant>) -> Vec<(f64, f64)> {
    let mut seconds: Vec<f64> = ended.values().map(|at| at.saturating_duration_since(start).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    // More points are not visible in a plot.
    let every = seconds.len().div_ceil(200).max(1);
    let last = seconds.len();
    let kept = seconds.iter().enumerate().filter(|(n, _)| n % every == 0 || n + 1 == last);
    let before = [(0.0, 0.0), (seconds.first().copied().unwrap_or_default(), 0.0)];
    before.into_iter().chain(kept.map(|(n, at)| (*at, (n + 1) as f64))).collect()
}

impl Bench {
    /// Records percentiles of `times`, and their distribution as a curve.
    fn latency(&mut self, scenario: &str, what: &str, times: Vec<Duration>) {
        let times = millis(times);
        for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
            self.run.value(scenario, &format!("{what}, {name}"), "ms", quantile(&times, q));
        }
        let points = (1..=100).map(|percent| (f64::from(percent), quantile(&times, f64::from(percent) / 100.0)));
        self.run.curve("latency", &format!("{scenario}: {what}"), points.collect());
    }

    /// Records the requests per customer.
    fn requests(&mut self, scenario: &str, requests: &[Request], n: usize) {
        let each = |count: usize| count as f64 / n as f64;
        let writes: Vec<&Request> = requests.iter().filter(|request| request.is_write()).collect();
        self.run.value(scenario, "writes per customer", "requests", each(writes.len()));
        let reads = requests.iter().filter(|request| request.is_single_read()).count();
        self.run.value(scenario, "reads of single objects per customer", "requests", each(reads));
        let mut by: BTreeMap<&str, usize> = BTreeMap::new();
        for write in writes {
            *by.entry(write.user.username.rsplit(':').next().unwrap_or_default()).or_default() += 1;
        }
        for (who, count) in by {
            self.run.value(scenario, &format!("writes per customer by {who}"), "requests", each(count));
        }
    }

    /// Records CPU time since `start` and memory, in total and by program.
    fn used(&mut self, scenario: &str, start: &Start, now: &Usage, n: usize) {
        let cpu = start.cpu(now);
        let each = |seconds: f64| seconds * 1000.0 / n as f64;
        self.run.value(scenario, "CPU of Ahoi per customer", "ms", each(sum(&cpu, is_of_ahoi)));
        let programs: Vec<&str> = now.programs().filter(|program| is_of_ahoi(program)).collect();
        for program in &programs {
            self.run.value(
                scenario,
                &format!("CPU of {program} per customer"),
                "ms",
                each(sum(&cpu, |p| p == *program)),
            );
        }
        self.run.value(scenario, "CPU of API server and etcd per customer", "ms", each(sum(&cpu, is_control_plane)));
        self.run.value(scenario, "memory of Ahoi", "MB", now.memory(is_of_ahoi) / 1e6);
        for program in programs {
            self.run.value(scenario, &format!("memory of {program}"), "MB", now.memory(|p| p == program) / 1e6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_of_ahoi_are_counted() {
        assert!(["ahoi-customer", "ahoi-pgbouncer-agent"].into_iter().all(is_of_ahoi));
        assert!(!["ahoi-bench", "ahoi-demo-worker", "pgbouncer", "parent"].into_iter().any(is_of_ahoi));
    }

    #[test]
    fn curves() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ended = BTreeMap::from([("a".to_owned(), at(3)), ("b".to_owned(), at(1))]);
        assert_eq!(convergence(start, &ended), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (3.0, 2.0)]);
        let many: BTreeMap<String, Instant> = (0..1000).map(|n| (n.to_string(), at(n))).collect();
        let points = convergence(start, &many);
        assert!(points.len() <= 203);
        assert_eq!(points.last(), Some(&(999.0, 1000.0)));
        let begun = BTreeMap::from([("a".to_owned(), at(1)), ("c".to_owned(), at(1))]);
        assert_eq!(latencies(&begun, &ended), [Duration::from_secs(2)]);
    }
}
