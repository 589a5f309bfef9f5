//! Deletion of many customers at once.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;

use super::QUIET;
use crate::bench::{Bench, STEP_TIMEOUT};
use crate::watch::{Change, Seen};

/// Deletes `customers` and waits until they and their namespaces are deleted.
pub async fn run(bench: &mut Bench, kind: &str, set: &str, customers: &[String]) -> Result<()> {
    let n = customers.len();
    let scenario = format!("{n} customers deleted, {kind}");
    println!("{scenario}");
    let mut emptied = namespaces_gone(bench, set).await?;
    let start = bench.start()?;
    let gone = bench.remove(bench.cluster.customers(), customers).await?;
    let last = gone.values().max().context("none")?.saturating_duration_since(start.at).as_secs_f64();
    let emptied = emptied.all(n, "namespaces gone", STEP_TIMEOUT).await?;
    let all = emptied.values().max().context("none")?.saturating_duration_since(start.at).as_secs_f64();
    bench.quiet(ahoi_e2e::SYSTEM, QUIET).await?;
    bench.run.value(&scenario, "until the last customer is deleted", "s", last);
    bench.run.value(&scenario, "until the last namespace is deleted", "s", all);
    bench.run.value(&scenario, "rate", "customers/s", n as f64 / last);
    bench.requests(&scenario, &start.requests()?, n);
    Ok(())
}

/// Watches for deletions of namespaces of `set`.
pub async fn namespaces_gone(bench: &Bench, set: &str) -> Result<Seen> {
    let prefix = ahoi_api::namespace_of(&format!("{set}-"));
    let gone = move |change: Change<'_, Namespace>| match change {
        Change::Gone(namespace) => Some(namespace.name_any()).filter(|name| name.starts_with(&prefix)),
        Change::Is(_) => None,
    };
    Seen::by(bench.cluster.all::<Namespace>(), gone).await
}
