//! CPU affinity of programs.

use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};

use crate::usage::Usage;

/// Pins PostgreSQL to the first core, and all other processes of the cluster and this one to the others, as if PostgreSQL had its own
/// machine. Returns false on a machine with a single core.
pub fn postgres_apart(usage: &Usage) -> Result<bool> {
    let last = available_parallelism()?.get() - 1;
    if last == 0 {
        return Ok(false);
    }
    let (own, others) = ("0".to_owned(), if last == 1 { "1".to_owned() } else { format!("1-{last}") });
    pin(usage, |program| if is_postgres(program) { &own } else { &others })?;
    Ok(true)
}

/// Reverts `postgres_apart`.
pub fn together(usage: &Usage) -> Result<()> {
    let all = format!("0-{}", available_parallelism()?.get() - 1);
    pin(usage, |_| &all)
}

/// Processes of PostgreSQL have this name, followed by their role.
fn is_postgres(program: &str) -> bool {
    program == "postgres" || program.starts_with("postgres:")
}

/// Pins all threads. Their children inherit the affinity.
fn pin<'a>(usage: &Usage, cores_of: impl Fn(&str) -> &'a str) -> Result<()> {
    for (program, pid) in usage.processes() {
        let cores = cores_of(program);
        let pinned = Command::new("taskset").args(["-a", "-c", "-p", cores, &pid.to_string()]).output();
        let pinned = pinned.context("taskset")?;
        // The process may have ended.
        let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
        ensure!(
            pinned.status.success() || gone,
            "cannot pin {program} to core {cores}: {}",
            String::from_utf8_lossy(&pinned.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_processes_are_recognized() {
        assert!(["postgres", "postgres: checkpointer "].into_iter().all(is_postgres));
        assert!(!["ahoi-database", "pg_isready", "postgres_exporter"].into_iter().any(is_postgres));
    }
}
