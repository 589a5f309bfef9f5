//! Processes of pods, seen from the node. Tests kill processes that the pod itself may not kill.

use std::fs;

use anyhow::{Result, ensure};
use tokio::process::Command;

/// A process on the node.
#[derive(Clone, Debug)]
pub struct Process {
    /// Process id on the node.
    pub pid: String,
    /// Command line, with spaces between the arguments.
    pub command: String,
    /// Whether it is process 1 of its container.
    pub is_first: bool,
}

/// Returns the processes whose cgroup path contains `cgroup`: a container id or the uid of a pod.
#[must_use]
pub fn of(cgroup: &str) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        // A process that ended meanwhile has no cgroup.
        let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if !read("cgroup").contains(cgroup) {
            return None;
        }
        let is_first = |line: &str| line.starts_with("NSpid:") && line.split_whitespace().last() == Some("1");
        Some(Process {
            pid: entry.file_name().to_string_lossy().into_owned(),
            command: read("cmdline").replace('\0', " ").trim().to_owned(),
            is_first: read("status").lines().any(is_first),
        })
    });
    found.collect()
}

/// Returns process 1 of a container.
#[must_use]
pub fn first_of(container: &str) -> Option<Process> {
    of(container).into_iter().find(|process| process.is_first)
}

/// Kills the processes with SIGKILL. A process that has already ended is no error.
pub async fn kill(processes: &[Process]) -> Result<()> {
    ensure!(!processes.is_empty(), "there is no process to kill");
    for process in processes {
        let output = Command::new("kill").args(["-KILL", &process.pid]).output().await?;
        let refusal = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() || refusal.contains("No such process"), "kill: {}", refusal.trim());
    }
    Ok(())
}
