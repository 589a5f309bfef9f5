//! Many customers: whether the cost of each stays the same, and the cost of the control plane.

use anyhow::{Context as _, Result};

use super::converge;
use super::labels::{FAN_OUT, MEMORY};
use super::{is_control_plane, rest};
use crate::bench::{Bench, fan_out_spec};

/// Compared rows of the report: costs per customer.
const EACH: [&str; 4] =
    ["writes per customer", "reads of single objects per customer", "CPU of Ahoi per customer", MEMORY];

/// Creates some customers and then the others, and measures both.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let Some((some, all)) = bench.profile.large else { return Ok(()) };
    bench.start_controllers().await?;
    let rest_of_them = all - some;
    let empty = control_plane(bench).await?;
    converge::run(bench, FAN_OUT, "some", some, &fan_out_spec()).await?;
    rest::restart(bench, some).await?;
    converge::beside(bench, some, FAN_OUT, "more", rest_of_them, &fan_out_spec()).await?;
    rest::restart(bench, all).await?;
    rest::idle(bench, all).await?;
    let full = control_plane(bench).await?;

    let scenario = format!("the control plane with {all} customers, {FAN_OUT}");
    println!("{scenario}");
    for ((what, before), (_, now)) in empty.iter().zip(full) {
        bench.run.value(&scenario, what, "MB", now / 1e6);
        bench.run.value(&scenario, &format!("{what}, per customer"), "kB", (now - before) / all as f64 / 1e3);
    }
    let scenario = format!("each of {all} customers as a multiple of each of {some}");
    println!("{scenario}");
    let few = format!("{some} customers at once, {FAN_OUT}");
    let many = format!("{rest_of_them} customers at once beside {some}, {FAN_OUT}");
    for what in EACH {
        let (few, many) = (bench.run.find(&few, what), bench.run.find(&many, what));
        if let (Some(few), Some(many)) = (few.filter(|few| *few > 0.0), many) {
            bench.run.value(&scenario, what, "×", many / few);
        }
    }
    Ok(())
}

/// Returns the memory and storage of the control plane in bytes.
async fn control_plane(bench: &Bench) -> Result<[(&'static str, f64); 2]> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let metrics = bench.cluster.client.request_text(request).await.context("the API server's metrics")?;
    let stored = metrics.lines().find(|line| line.starts_with("apiserver_storage_size_bytes{"));
    let stored =
        stored.and_then(|line| line.rsplit(' ').next()?.parse().ok()).context("no apiserver_storage_size_bytes")?;
    Ok([
        ("size of etcd's database", stored),
        ("memory of API server and etcd", bench.usage()?.memory(is_control_plane)),
    ])
}
