//! Which cores programs run on.

use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};

use crate::usage::Usage;

/// Gives PostgreSQL the first core, and the others to everything else of the cluster and to this process: as if the server had
/// a machine of its own. `false` on a machine with a single core, where nothing is changed.
pub fn postgres_apart(usage: &Usage) -> Result<bool> {
    let last = available_parallelism()?.get() - 1;
    if last == 0 {
        return Ok(false);
    }
    let (own, others) = ("0".to_owned(), if last == 1 { "1".to_owned() } else { format!("1-{last}") });
    pin(usage, |program| if is_postgres(program) { &own } else { &others })?;
    Ok(true)
}

/// Takes that back.
pub fn together(usage: &Usage) -> Result<()> {
    let all = format!("0-{}", available_parallelism()?.get() - 1);
    pin(usage, |_| &all)
}

/// Every process of the server calls itself so, with what it is doing.
fn is_postgres(program: &str) -> bool {
    program == "postgres" || program.starts_with("postgres:")
}

/// All threads; what they start runs on the same cores.
fn pin<'a>(usage: &Usage, cores_of: impl Fn(&str) -> &'a str) -> Result<()> {
    for (program, pid) in usage.processes() {
        let cores = cores_of(program);
        let pinned = Command::new("taskset").args(["-a", "-c", "-p", cores, &pid.to_string()]).output();
        let pinned = pinned.context("taskset")?;
        // It may have ended since.
        let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
        ensure!(
            pinned.status.success() || gone,
            "cannot have {program} on core {cores}: {}",
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
