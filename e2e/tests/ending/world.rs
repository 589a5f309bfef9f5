//! Everything that a customer can leave behind, as a list of names.

use std::collections::BTreeSet;
use std::time::Duration;

use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Result, ensure};
use serde_json::json;

use crate::ALONE;

/// Kinds of Kubernetes that controllers or pods of tenants create.
const KINDS: &str = "namespaces,secrets,configmaps,serviceaccounts,rolebindings,persistentvolumes,persistentvolumeclaims,\
                     deployments,statefulsets,services,cronjobs,jobs,poddisruptionbudgets,networkpolicies,resourcequotas,limitranges";

/// Returns the names of all objects, databases, roles (with whether they can log in), rows of ahoi.databases, keys of the Secrets of
/// the poolers, and routes of each process.
pub async fn world(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let format = "-o=jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    for kinds in [KINDS, "ahoi"] {
        names.extend(cluster.kubectl(&["get", kinds, "-A", format], "").await?.lines().map(ToOwned::to_owned));
    }
    for secret in ["ahoi-pooler-auth", "ahoi-verifiers-0"] {
        let keys = "-o=go-template={{range $key, $value := .data}}{{$key}}\n{{end}}";
        let found = cluster.kubectl(&["get", "secret", "-n", SYSTEM, "--ignore-not-found", secret, keys], "").await?;
        names.extend(found.lines().map(|key| format!("key of {secret}: {key}")));
    }
    for pod in ["global-0", "global-1"] {
        let read = "cat /run/pgbouncer/databases.ini";
        let found = cluster.kubectl(&["exec", "-n", SYSTEM, pod, "--", "sh", "-c", read], "").await?;
        let routes = found.lines().filter(|line| line.contains(" host=")).filter_map(|line| line.split(' ').next());
        names.extend(routes.map(|route| format!("route in {pod}: {route}")));
    }
    let admin = cluster.admin("postgres").await?;
    for (what, query) in [
        ("database", "SELECT datname FROM pg_database"),
        ("role", "SELECT rolname || CASE WHEN rolcanlogin THEN ' (login)' ELSE '' END FROM pg_roles"),
        ("row of ahoi.databases", "SELECT database || ' ' || state FROM ahoi.databases"),
    ] {
        let found = admin.query(query, &[]).await?;
        names.extend(found.iter().map(|row| format!("{what} {}", row.get::<_, String>(0))));
    }
    Ok(names)
}

/// Waits until the names are the same as `before`, except for `kept`.
pub async fn is_as_before(cluster: &Cluster, before: &BTreeSet<String>, kept: &[String]) -> Result<()> {
    let mut difference = Vec::new();
    // The garbage collector and the agents are slightly delayed.
    for _ in 0..20 {
        let now = world(cluster).await?;
        difference = before
            .symmetric_difference(&now)
            .filter(|name| !kept.iter().any(|kept| *name == kept))
            .cloned()
            .collect::<Vec<_>>();
        if difference.is_empty() {
            let missing: Vec<_> = kept.iter().filter(|kept| !now.contains(*kept)).collect();
            ensure!(missing.is_empty(), "not kept: {missing:?}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("differences: {difference:#?}")
}

/// Returns the name of the database of the customer.
pub async fn database_of(cluster: &Cluster, customer: &str) -> Result<String> {
    use anyhow::Context as _;
    let object = cluster.of::<ahoi_api::Database>(&ahoi_api::namespace_of(customer)).get(customer).await?;
    object.status.and_then(|status| status.database_name).context("a Database without a name")
}

/// Returns the names in [`world`] that the policy keeps of a database.
pub async fn kept_by(cluster: &Cluster, policy: &str, database: &str) -> Result<Vec<String>> {
    let roles = [format!("role {database}_owner"), format!("role {database}_a")];
    Ok(match policy {
        "Retain" => {
            let kept = [format!("database {database}"), format!("row of ahoi.databases {database} retained")];
            kept.into_iter().chain(roles).collect()
        }
        "Archive" => {
            let admin = cluster.admin("postgres").await?;
            let query = "SELECT datname FROM pg_database WHERE starts_with(datname, $1)";
            let archived: String = admin.query_one(query, &[&format!("zz_{database}_")]).await?.get(0);
            let kept = [format!("database {archived}"), format!("row of ahoi.databases {archived} archived")];
            kept.into_iter().chain(roles).collect()
        }
        _ => Vec::new(),
    })
}

/// Drops what the policy kept.
pub async fn purge(cluster: &Cluster, kept: &[String]) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    let databases: Vec<_> = kept.iter().filter_map(|name| name.strip_prefix("database ")).collect();
    for database in databases {
        admin.batch_execute(&format!("DROP DATABASE \"{database}\" WITH (FORCE)")).await?;
        admin.execute("DELETE FROM ahoi.databases WHERE database = $1", &[&database]).await?;
    }
    for role in kept.iter().filter_map(|name| name.strip_prefix("role ")) {
        admin.batch_execute(&format!("DROP ROLE \"{role}\"")).await?;
    }
    Ok(())
}

/// A customer with all features is deleted with each policy.
#[tokio::test]
async fn deletion_leaves_only_what_the_policy_keeps() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    for policy in ["Delete", "Retain", "Archive"] {
        let name = format!("end-world-{}", policy.to_lowercase());
        cluster.delete_customer(&name).await?;
        let before = world(&cluster).await?;
        let features = json!({
            "database": {"enabled": true}, "connectionPool": {"enabled": true},
            "scheduler": {"enabled": true, "workers": 2, "jobs": [{"name": "nightly", "schedule": "0 3 * * *", "command": ["true"]}]},
        });
        let groups = json!([{"group": "end-team", "role": "Edit"}]);
        let spec = json!({"deletionPolicy": policy, "groups": groups, "features": features});
        cluster.create_customer_with(&name, spec).await?;
        cluster.ready(&name).await?;
        let (database, session) = (database_of(&cluster, &name).await?, cluster.direct(&name).await?.connect().await?);
        let pooled = cluster.pooled(&name).await?.connect().await?;
        pooled.batch_execute("CREATE TABLE kept AS SELECT 1 AS n").await?;
        cluster.delete_customer(&name).await?;
        ensure!(session.simple_query("SELECT 1").await.is_err(), "{policy}: a session outlived its customer");
        let kept = kept_by(&cluster, policy, &database).await?;
        is_as_before(&cluster, &before, &kept).await?;
        println!("ending: {policy} keeps {kept:?}");
        purge(&cluster, &kept).await?;
        is_as_before(&cluster, &before, &[]).await?;
    }
    Ok(())
}
