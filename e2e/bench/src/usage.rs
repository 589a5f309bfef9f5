//! CPU and memory of the processes of a cluster, from /proc.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// Ticks per second of the CPU times in /proc, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU seconds since its start.
    pub cpu: f64,
    /// Resident memory in bytes.
    pub memory: f64,
}

/// Processes of a cluster, by program and process id.
#[derive(Clone, Debug, Default)]
pub struct Usage(BTreeMap<String, BTreeMap<u32, Process>>);

impl Usage {
    /// Returns the usage of the processes of the cluster `name` and of this process.
    pub fn now(name: &str) -> Result<Usage> {
        let group = format!("/ahoi-{name}/");
        let mut usage = Usage::default();
        for entry in fs::read_dir("/proc").context("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let own = pid == std::process::id();
            // A process may end meanwhile.
            let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
            if !own && !groups.contains(&group) {
                continue;
            }
            let (Ok(command), Ok(stat), Ok(memory)) = (
                fs::read(format!("/proc/{pid}/cmdline")),
                fs::read_to_string(format!("/proc/{pid}/stat")),
                fs::read_to_string(format!("/proc/{pid}/statm")),
            ) else {
                continue;
            };
            let Some(process) = parse(&stat, &memory) else { continue };
            usage.0.entry(program(&command)).or_default().insert(pid, process);
        }
        Ok(usage)
    }

    /// Returns the CPU seconds of each program since `before`, over its running processes.
    pub fn cpu_since(&self, before: &Usage) -> BTreeMap<String, f64> {
        let of = |(program, processes): (&String, &BTreeMap<u32, Process>)| {
            let known = before.0.get(program);
            let used = processes.iter().map(|(pid, now)| {
                let then = known.and_then(|known| known.get(pid)).map_or(0.0, |then| then.cpu);
                (now.cpu - then).max(0.0)
            });
            (program.clone(), used.sum())
        };
        self.0.iter().map(of).collect()
    }

    /// Returns the memory of the programs that `counts` selects, in bytes.
    pub fn memory(&self, counts: impl Fn(&str) -> bool) -> f64 {
        self.0.iter().filter(|(program, _)| counts(program)).flat_map(|(_, p)| p.values()).map(|p| p.memory).sum()
    }

    /// Returns all processes with their programs.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().flat_map(|(program, processes)| processes.keys().map(move |pid| (program.as_str(), *pid)))
    }

    /// Returns the programs.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Returns the CPU seconds of the programs that `counts` selects.
pub fn sum(cpu: &BTreeMap<String, f64>, counts: impl Fn(&str) -> bool) -> f64 {
    cpu.iter().filter(|(program, _)| counts(program)).map(|(_, seconds)| seconds).sum()
}

/// Returns the file name of the first argument.
fn program(command: &[u8]) -> String {
    let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    first.rsplit('/').next().unwrap_or_default().to_owned()
}

fn parse(stat: &str, memory: &str) -> Option<Process> {
    // The second field, in parentheses, may contain any character.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let pages: f64 = memory.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { cpu: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, memory: pages * 4096.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_and_memory_from_proc() {
        let stat = "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 1 1 1";
        assert_eq!(parse(stat, "1000 10 5 1 0 20 0"), Some(Process { cpu: 3.0, memory: 40960.0 }));
        assert_eq!(parse("gone", ""), None);
        assert_eq!(program(b"/usr/bin/etcd\0--flag"), "etcd");
        assert_eq!(program(b""), "");
    }

    #[test]
    fn counts_what_was_used_since() {
        let one = |cpu| BTreeMap::from([(7, Process { cpu, memory: 5.0 })]);
        let before = Usage(BTreeMap::from([("a".into(), one(1.0))]));
        let mut now = Usage(BTreeMap::from([("a".into(), one(1.5)), ("b".into(), one(2.0))]));
        now.0.get_mut("a").unwrap().insert(8, Process { cpu: 3.0, memory: 6.0 });
        let cpu = now.cpu_since(&before);
        assert_eq!(cpu, BTreeMap::from([("a".into(), 3.5), ("b".into(), 2.0)]));
        assert_eq!(sum(&cpu, |program| program == "a"), 3.5);
        assert_eq!(now.memory(|program| program == "a"), 11.0);
        assert_eq!(now.programs().collect::<Vec<_>>(), ["a", "b"]);
    }
}
