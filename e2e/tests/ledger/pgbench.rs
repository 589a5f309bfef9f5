//! pgbench as an application of a customer: a pod in its namespace that connects with the pooled Secret. Runs as long as a
//! connection of a pool lives follow each other.

use std::fmt;

use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::json;

const NAME: &str = "pgbench";
/// Also checks pgbench_history, which has a row for each transaction.
const SCRIPT: &str = "
pgbench -i -q -s 1 2>&1 || exit
touch /tmp/started
until [ -e /tmp/stop ]; do
    pgbench -n -c 2 -T 8 -R 40 2>&1 || { echo \"exit code $?\"; sleep 1; }
done
psql -Atc \"SELECT 'rows: ' || count(*) FROM pgbench_history\"
psql -Atc \"SELECT 'difference: ' || (SELECT coalesce(sum(delta), 0) FROM pgbench_history) - sum(abalance) FROM pgbench_accounts\"
";

pub struct Pgbench {
    namespace: String,
}

impl Pgbench {
    /// Starts pgbench and waits until its tables exist.
    pub async fn start(cluster: &Cluster, customer: &str) -> Result<Pgbench> {
        pod(cluster, customer, NAME, SCRIPT).await?;
        Ok(Pgbench { namespace: ahoi_api::namespace_of(customer) })
    }

    /// Waits for the end of the current run, and reads the results of all runs.
    pub async fn finish(self, cluster: &Cluster) -> Result<Report> {
        cluster.kubectl(&["-n", &self.namespace, "exec", NAME, "--", "touch", "/tmp/stop"], "").await?;
        let pods = cluster.of::<Pod>(&self.namespace);
        let ended = |pod: Option<&Pod>| {
            let phase = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        cluster.until(&pods, NAME, "pgbench ended", 120, ended).await?;
        Ok(Report::read(&pods.logs(NAME, &LogParams::default()).await?))
    }
}

/// Runs `script` in a pod of the customer with the pooled Secret. The pod is Ready when the file /tmp/started exists.
pub async fn pod(cluster: &Cluster, customer: &str, name: &str, script: &str) -> Result<()> {
    let namespace = ahoi_api::namespace_of(customer);
    let server = cluster.of::<StatefulSet>(SYSTEM).get("demo-postgres").await?;
    let pod = server.spec.and_then(|set| set.template.spec).context("a StatefulSet without pods")?;
    let image = pod.containers.into_iter().find_map(|container| container.image).context("no image")?;
    let secret = format!("{customer}-pool");
    let variable =
        |(name, key): (&str, &str)| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}});
    let environment = [
        ("PGHOST", "host"),
        ("PGPORT", "port"),
        ("PGUSER", "username"),
        ("PGPASSWORD", "password"),
        ("PGDATABASE", "database"),
    ];
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": name,
                "image": image,
                "command": ["sh", "-c", script],
                "env": environment.map(variable),
                "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    });
    cluster.apply(&pod.to_string()).await?;
    let ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    cluster.until(&cluster.of::<Pod>(&namespace), name, "started", 60, ready).await.map(drop)
}

/// Sum of the results of all runs.
#[derive(Debug, Default)]
pub struct Report {
    runs: usize,
    transactions: i64,
    failed: i64,
    aborted: usize,
    rows: i64,
    difference: Option<i64>,
    errors: Vec<String>,
}

impl Report {
    fn read(log: &str) -> Report {
        let mut report = Report::default();
        for line in log.lines() {
            let (what, value) = line.split_once(':').unwrap_or((line, ""));
            let number = || value.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
            match what {
                "number of transactions actually processed" => {
                    report.runs += 1;
                    // One number with -T, "done/total" with -t.
                    report.transactions += number().unwrap_or(0);
                }
                "number of failed transactions" => report.failed += number().unwrap_or(0),
                "rows" => report.rows = number().unwrap_or(0),
                "difference" => report.difference = number(),
                _ if line.starts_with("exit code") => report.aborted += 1,
                _ if line.contains("error") || line.contains("FATAL") => report.errors.push(line.to_owned()),
                _ => {}
            }
        }
        report.errors.truncate(8);
        report
    }

    /// Whether all transactions succeeded and exist exactly once.
    pub fn is_flawless(&self) -> bool {
        self.aborted == 0 && self.failed == 0 && self.transactions > 0 && self.nothing_lost()
    }

    /// Whether no transaction was lost. Each of the two clients of an aborted run may have had one at COMMIT.
    pub fn nothing_lost(&self) -> bool {
        let in_doubt = i64::try_from(2 * self.aborted).unwrap_or(i64::MAX);
        self.difference == Some(0) && (0..=in_doubt).contains(&(self.rows - self.transactions))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transactions in {} runs, {} failed, {} runs aborted; {} rows, balances differ by {:?}",
            self.transactions, self.runs, self.failed, self.aborted, self.rows, self.difference
        )?;
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}
