//! Description of the machine, without its name.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Properties that the figures depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Number of cores.
    pub cores: usize,
    /// Model of the processor.
    pub processor: String,
    /// Memory in GiB.
    pub memory: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Versions of all programs.
    pub versions: Vec<String>,
    /// Load average of the minute before the run.
    pub load: String,
}

impl Machine {
    /// Returns the description of this machine.
    pub fn this(kubernetes: &str, peers: &str) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let mut versions = vec![format!("Ahoi {}", commit()), format!("Kubernetes {kubernetes}")];
        versions.extend(peers.lines().map(|line| line.rsplit('/').next().unwrap_or(line).to_owned()));
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&cpu, "model name"),
            memory: field(&memory, "MemTotal").split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0)
                >> 20,
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            versions,
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!(field("a\t: 1\nmodel name\t: Fast One\n", "model name"), "Fast One");
        assert_eq!(field("MemTotal:       24 kB", "MemTotal"), "24 kB");
        assert_eq!(field("", "MemTotal"), "");
    }
}
