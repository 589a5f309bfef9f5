//! The alerts of `manifests/monitoring`: each expression is valid PromQL, and its metrics and labels are exposed by the pods or
//! added by the PodMonitors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ahoi_api::{Customer, CustomerSpec};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use promql_parser::label::MatchOp;
use promql_parser::parser::{Expr, LabelModifier, VectorSelector, parse};
use serde_json::Value;

use super::endpoints::get;

/// Labels that the Prometheus Operator adds to each series of a PodMonitor.
const ADDED: [&str; 3] = ["namespace", "pod", "container"];
/// Exposed metrics: values by metric and label.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Needs no cluster.
#[test]
fn every_expression_is_promql() -> Result<()> {
    let rules = rules()?;
    ensure!(rules.len() >= 10, "only {} alerts were found", rules.len());
    let used: BTreeSet<&str> = rules.iter().flat_map(|(_, used)| used).map(|used| used.metric.as_str()).collect();
    ensure!(used.iter().all(|metric| metric.starts_with("ahoi_")), "{used:?}");
    Ok(())
}

#[tokio::test]
async fn alerts_use_existing_metrics() -> Result<()> {
    let cluster = Cluster::connect().await?;
    // One customer with a client, so that its metrics are exposed, and one that is not Ready.
    let (name, wrong) = ("monitoring", "monitoring-wrong");
    cluster.delete_customer(wrong).await?;
    let spec: CustomerSpec = serde_json::from_value(serde_json::json!({"plan": "no-such-plan"}))?;
    cluster.customers().create(&PostParams::default(), &Customer::new(wrong, spec)).await?;
    let features = serde_json::json!({"database": {"enabled": true}, "connectionPool": {"maxClientConnections": 10}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    let sessions = [cluster.pooled(name).await?.connect().await?, cluster.pooled(name).await?.connect().await?];

    let rules = rules()?;
    // Missing metrics at the last attempt, for the message.
    let mut last = Vec::new();
    let all = async {
        loop {
            for session in &sessions {
                session.simple_query("SELECT 1").await?;
            }
            let exposed = exposed(&cluster).await?;
            let missing: Vec<String> = rules.iter().flat_map(|(_, used)| missing(used, &exposed)).collect();
            if missing.is_empty() {
                return anyhow::Ok(exposed);
            }
            last = missing;
            // Metrics have no watch. The time-out around this loop bounds it.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(150), all).await;
    let exposed = found.map_err(|_| anyhow!("not exposed: {}", last.join(", ")))??;

    // The number of customers with metrics is limited.
    let customers = exposed["ahoi_pooler_customer_servers_active"]["pool_namespace"].clone();
    ensure!(customers.len() <= 40, "{} customers have metrics in two processes", customers.len());
    ensure!(exposed["ahoi_database_server_up"]["server"].contains("demo"));
    ensure!(exposed["ahoi_pooler_server_connections"]["server"].contains("demo"));
    ensure!(exposed.contains_key("ahoi_database_quota_used"), "no database has a size");
    cluster.delete_customer(wrong).await?;
    cluster.delete_customer(name).await
}

/// Metric and labels of a selector.
#[derive(Debug)]
struct Used {
    alert: String,
    metric: String,
    labels: BTreeMap<String, Option<String>>,
}

/// Returns each alert with the selectors of its expression.
fn rules() -> Result<Vec<(String, Vec<Used>)>> {
    let text = include_str!("../../../manifests/monitoring/rules.yaml");
    let document: Value = serde_saphyr::from_str(text)?;
    let groups = document["spec"]["groups"].as_array().context("no groups")?;
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
    rules
        .map(|rule| {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let alert = text(&rule["alert"]).context("a rule without an alert")?;
            for annotation in ["summary", "description", "runbook"] {
                ensure!(rule["annotations"][annotation].is_string(), "{alert} has no {annotation}");
            }
            let expression = text(&rule["expr"]).context("no expression")?;
            let parsed = parse(&expression).map_err(|error| anyhow!("{alert}: {error}"))?;
            let mut used = Vec::new();
            collect(&parsed, &BTreeSet::new(), &alert, &mut used);
            ensure!(!used.is_empty(), "{alert} uses no metric");
            Ok((alert, used))
        })
        .collect()
}

/// Collects the selectors of an expression with the labels that they and their aggregations use.
fn collect(expression: &Expr, grouped: &BTreeSet<String>, alert: &str, used: &mut Vec<Used>) {
    let mut below = |inner: &Expr, grouped: &BTreeSet<String>| collect(inner, grouped, alert, used);
    match expression {
        Expr::Aggregate(aggregate) => {
            let mut grouped = grouped.clone();
            if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = &aggregate.modifier {
                grouped.extend(labels.labels.iter().cloned());
            }
            below(&aggregate.expr, &grouped);
        }
        Expr::Unary(unary) => below(&unary.expr, grouped),
        Expr::Binary(binary) => {
            below(&binary.lhs, grouped);
            below(&binary.rhs, grouped);
        }
        Expr::Paren(paren) => below(&paren.expr, grouped),
        Expr::Subquery(subquery) => below(&subquery.expr, grouped),
        Expr::Call(call) => call.args.args.iter().for_each(|argument| below(argument, grouped)),
        Expr::VectorSelector(selector) => used.push(of(selector, grouped, alert)),
        Expr::MatrixSelector(selector) => used.push(of(&selector.vs, grouped, alert)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

fn of(selector: &VectorSelector, grouped: &BTreeSet<String>, alert: &str) -> Used {
    let mut labels: BTreeMap<String, Option<String>> = grouped.iter().map(|label| (label.clone(), None)).collect();
    for matcher in &selector.matchers.matchers {
        let value = matches!(matcher.op, MatchOp::Equal).then(|| matcher.value.clone());
        labels.insert(matcher.name.clone(), value);
    }
    Used { alert: alert.to_owned(), metric: selector.name.clone().unwrap_or_default(), labels }
}

fn missing(used: &[Used], exposed: &Exposed) -> Vec<String> {
    let mut missing = Vec::new();
    for Used { alert, metric, labels } in used {
        let Some(found) = exposed.get(metric) else {
            missing.push(format!("{metric} ({alert})"));
            continue;
        };
        for (label, value) in labels.iter().filter(|(label, _)| !ADDED.contains(&label.as_str())) {
            let values = found.get(label);
            if values.is_none_or(|values| value.as_ref().is_some_and(|value| !values.contains(value))) {
                missing.push(format!("{metric}{{{label}={value:?}}} ({alert})"));
            }
        }
    }
    missing
}

/// Scrapes the pods that the PodMonitors select, with the labels that they add.
async fn exposed(cluster: &Cluster) -> Result<Exposed> {
    let text = include_str!("../../../manifests/monitoring/pod-monitors.yaml");
    let monitors: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut exposed = Exposed::new();
    for monitor in monitors {
        let selector = monitor["spec"]["selector"]["matchLabels"].as_object().context("no selector")?;
        let selector: Vec<String> =
            selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let pods = cluster.of::<Pod>(SYSTEM).list(&ListParams::default().labels(&selector.join(","))).await?;
        ensure!(!pods.items.is_empty(), "{selector:?} selects no pod");
        let added = monitor["spec"]["podTargetLabels"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let added: Vec<&str> = added.collect();
        for pod in pods {
            let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|c| c.ports.iter().flatten());
            ensure!(
                ports.into_iter().any(|port| port.name.as_deref() == Some("metrics")),
                "{} has no port",
                pod.name_any()
            );
            let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) else { continue };
            // A starting pod answers at the next attempt.
            let Ok(text) = get(&ip, "/metrics").await else { continue };
            for (metric, mut labels) in text.lines().filter_map(sample) {
                for label in &added {
                    let value = pod.labels().get(*label).cloned().unwrap_or_default();
                    labels.push((label.replace(['.', '/', '-'], "_"), value));
                }
                let known = exposed.entry(metric).or_default();
                for (label, value) in labels {
                    known.entry(label).or_default().insert(value);
                }
            }
        }
    }
    Ok(exposed)
}

/// Parses a line of the text format: `name{label="value",…} number`. Our values contain no quotes or commas.
fn sample(line: &str) -> Option<(String, Vec<(String, String)>)> {
    let series = line.rsplit_once(' ')?.0;
    if !series.starts_with("ahoi_") {
        return None;
    }
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()));
    Some((name.to_owned(), pairs.collect()))
}
