//! Invalid and hostile objects: denied at admission with the name of the field, without a controller, or Stalled with a reason.

use ahoi_api::finalizers;
use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Texts that break careless code: SQL, INI files, YAML, shells, paths, terminals, parsers.
const HOSTILE: [&str; 12] = [
    "'; DROP DATABASE postgres; --",
    "\" ; DROP ROLE postgres; --",
    "x\n[pgbouncer]\nadmin_users = *",
    "$(reboot)",
    "`reboot`",
    "../../etc/passwd",
    "%s%n%x",
    "{{ .Values.password }}",
    "\u{202e}gnp.exe",
    "a\u{0}b",
    "host=evil port=1",
    " ",
];

fn customer(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "internal.example.com/v1", "kind": "Customer", "metadata": {"name": name}, "spec": spec})
}

fn features(features: Value) -> Value {
    customer("hostile", json!({ "features": features }))
}

/// Objects that are denied, and the field that the message must name.
fn refused() -> Vec<(Value, String)> {
    let mut table = vec![
        (customer(&"a".repeat(41), json!({})), "metadata.name".to_owned()),
        (customer("dots.are.not.labels", json!({})), "metadata.name".to_owned()),
        (customer("hostile", json!({"plan": "Not A Name"})), "spec.plan".to_owned()),
        (customer("hostile", json!({"plan": ""})), "spec.plan".to_owned()),
        (customer("hostile", json!({"displayName": "x".repeat(129)})), "spec.displayName".to_owned()),
        (customer("hostile", json!({"runPolicy": "Sometimes"})), "spec.runPolicy".to_owned()),
        (customer("hostile", json!({"deletionPolicy": "delete"})), "spec.deletionPolicy".to_owned()),
        (customer("hostile", json!({"reconcilePolicy": true})), "spec.reconcilePolicy".to_owned()),
        (customer("hostile", json!({"groups": [{"group": "a"}, {"group": "a"}]})), "spec.groups".to_owned()),
        (customer("hostile", json!({"groups": [{"group": "a", "role": "ClusterAdmin"}]})), "spec.groups".to_owned()),
        (customer("hostile", json!({"groups": [{"group": ""}]})), "spec.groups".to_owned()),
        (features(json!({"database": {"enabled": "yes"}})), "spec.features.database.enabled".to_owned()),
        (features(json!({"database": {"connectionLimit": 0}})), "spec.features.database.connectionLimit".to_owned()),
        (features(json!({"database": {"connectionLimit": 1.5}})), "spec.features.database.connectionLimit".to_owned()),
        (
            features(json!({"database": {"credentials": {"rotationInterval": "30m"}}})),
            "rotationInterval must be at least 1h".to_owned(),
        ),
        (
            features(json!({"database": {"extensions": ["plpython3u; DROP"]}})),
            "spec.features.database.extensions".to_owned(),
        ),
        (features(json!({"scheduler": {"workers": -1}})), "spec.features.scheduler.workers".to_owned()),
        (features(json!({"scheduler": {"workers": 1001}})), "spec.features.scheduler.workers".to_owned()),
        (features(json!({"scheduler": {"workers": "four"}})), "spec.features.scheduler.workers".to_owned()),
        (features(json!({"scheduler": {"image": ""}})), "spec.features.scheduler.image".to_owned()),
        (features(json!({"connectionPool": {"poolSize": 0}})), "spec.features.connectionPool.poolSize".to_owned()),
        (
            features(json!({"connectionPool": {"poolMode": "Chaos"}})),
            "spec.features.connectionPool.poolMode".to_owned(),
        ),
        (
            features(json!({"connectionPool": {"maxClientConnections": 100_001}})),
            "spec.features.connectionPool.maxClientConnections".to_owned(),
        ),
        (
            features(json!({"database": {"enabled": false}, "connectionPool": {"enabled": true}})),
            "connectionPool.enabled".to_owned(),
        ),
        (
            features(json!({"scheduler": {"jobs": [{"name": "a", "schedule": "* * * * *", "command": []}]}})),
            "command".to_owned(),
        ),
        (
            features(json!({"scheduler": {"jobs": [{"name": "Upper", "schedule": "* * * * *", "command": ["a"]}]}})),
            "spec.features.scheduler.jobs[0].name".to_owned(),
        ),
        (
            features(json!({"scheduler": {"jobs": [{"name": "a", "schedule": "", "command": ["a"]}]}})),
            "spec.features.scheduler.jobs[0].schedule".to_owned(),
        ),
        (
            features(json!({"scheduler": {"jobs": [
            {"name": "a", "schedule": "* * * * *", "command": ["a"]}, {"name": "a", "schedule": "* * * * *", "command": ["a"]}]}})),
            "spec.features.scheduler.jobs[1]".to_owned(),
        ),
        (
            features(json!({"scheduler": {"migration": {"command": []}}})),
            "spec.features.scheduler.migration.command".to_owned(),
        ),
    ];
    // Almost larger than etcd stores: such a Customer could not be deleted.
    let env: Vec<Value> = (0..100).map(|n| json!({"name": format!("E{n}"), "value": "x".repeat(15_600)})).collect();
    table.push((features(json!({"scheduler": {"env": env}})), "spec.features.scheduler.env".to_owned()));
    let jobs: Vec<Value> = (0..50)
        .map(|n| json!({"name": format!("j{n}"), "schedule": "@daily", "command": ["x".repeat(6_000)]}))
        .collect();
    table.push((features(json!({"scheduler": {"jobs": jobs}})), "spec.features.scheduler.jobs".to_owned()));
    let parameters = json!({"application_name": "x".repeat(5_000)});
    table.push((
        features(json!({"database": {"parameters": parameters}})),
        "spec.features.database.parameters".to_owned(),
    ));
    let plan = |spec: Value| json!({"apiVersion": "internal.example.com/v1", "kind": "Plan", "metadata": {"name": "hostile"}, "spec": spec});
    for quantity in ["4x", "1 Gi", "many", ""] {
        table.push((
            plan(json!({"guardrails": {"quota": {"requests.memory": quantity}}})),
            "spec.guardrails.quota.requests.memory".to_owned(),
        ));
        let limits = json!([{"type": "Container", "max": {"memory": quantity}}]);
        table
            .push((plan(json!({"guardrails": {"limits": limits}})), "spec.guardrails.limits[0].max.memory".to_owned()));
        let resources = json!({"limits": {"memory": quantity}});
        let field = "spec.features.scheduler.resources.limits.memory";
        table.push((features(json!({"scheduler": {"resources": resources}})), field.to_owned()));
    }
    for size in ["0gb", "-1gb", "256", "gb", "1e3gb", "12kb", "1,5tb", "99999999999gb", "1.gb", "256 gb"] {
        table.push((features(json!({"database": {"storage": size}})), "spec.features.database.storage".to_owned()));
    }
    for text in HOSTILE {
        table.push((customer("hostile", json!({ "plan": text })), "spec.plan".to_owned()));
        table.push((features(json!({"database": {"storage": text}})), "spec.features.database.storage".to_owned()));
        table.push((
            features(json!({"database": {"extensions": [text]}})),
            "spec.features.database.extensions".to_owned(),
        ));
        let job = json!({"name": text, "schedule": "* * * * *", "command": ["a"]});
        table
            .push((features(json!({"scheduler": {"jobs": [job]}})), "spec.features.scheduler.jobs[0].name".to_owned()));
    }
    table
}

#[tokio::test]
async fn invalid_customers_are_denied_with_the_name_of_the_field() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let table = refused();
    ensure!(table.len() >= 40, "{} objects in the table", table.len());
    let mut wrong = Vec::new();
    for (object, field) in &table {
        match cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], &object.to_string()).await {
            Ok(_) => wrong.push(format!("accepted: {object}")),
            Err(error) if !error.to_string().contains(field.as_str()) => {
                wrong.push(format!("{field} is not named for {object}: {error}"))
            }
            Err(_) => {}
        }
    }
    println!("{} invalid objects denied", table.len() - wrong.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A Customer that no controller has reconciled is not Ready and has its finalizer. Admission sets both.
#[tokio::test]
async fn customers_are_created_with_conditions_and_finalizer() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "hostile-born";
    let mut object = customer(name, json!({"features": {"database": {"enabled": false}}}));
    let created = async |object: &Value| -> Result<Value> {
        let create = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        Ok(serde_json::from_str(&cluster.kubectl(&create, &object.to_string()).await?)?)
    };
    let alone = created(&object).await?;
    ensure!(alone["metadata"]["finalizers"] == json!([finalizers::CUSTOMER]), "{alone:#}");
    let ready = &alone["status"]["conditions"][0];
    ensure!(ready["type"] == "Ready" && ready["status"] == "Unknown", "{alone:#}");
    object["metadata"]["finalizers"] = json!(["example.com/theirs"]);
    let both = created(&object).await?;
    ensure!(both["metadata"]["finalizers"] == json!(["example.com/theirs", finalizers::CUSTOMER]), "{both:#}");

    // Applying a manifest without finalizers does not remove a finalizer that another manager set.
    object["metadata"] = json!({"name": name});
    for text in ["created", "applied again"] {
        object["spec"]["displayName"] = json!(text);
        let apply = ["apply", "--server-side", "-o", "json", "-f", "-"];
        let applied: Value = serde_json::from_str(&cluster.kubectl(&apply, &object.to_string()).await?)?;
        ensure!(applied["metadata"]["finalizers"] == json!([finalizers::CUSTOMER]), "{text}: {applied:#}");
    }
    cluster.ready(name).await?;
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn storage_in_force_grows_and_never_shrinks() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "hostile-storage";
    cluster.create_customer(name, json!({"database": {"enabled": false, "storage": "256gb"}})).await?;
    let storage = |size: &str| json!({"features": {"database": {"storage": size}}});
    // Without a database, the storage may shrink.
    cluster.patch_spec(&cluster.customers(), name, storage("1gb")).await?;
    let enabled = json!({"features": {"database": {"enabled": true, "storage": "256gb"}}});
    cluster.change(name, enabled).await?;
    for refused in ["128GB", "255.9gb", "0.2tb", "238Gi"] {
        let error = cluster.patch_spec(&cluster.customers(), name, storage(refused)).await.err();
        let message = error.map(|e| e.to_string()).unwrap_or_default();
        ensure!(
            message.contains(&format!("spec.features.database.storage is {refused}")) && message.contains("shrink"),
            "{refused}: {message:?}"
        );
    }
    for accepted in ["256GB", "256Gi", "1.5tb"] {
        cluster.change(name, storage(accepted)).await.with_context(|| accepted.to_owned())?;
    }
    cluster.delete_customer(name).await
}

/// What admission cannot check is Stalled with a remedy, and running workloads stay unchanged.
#[tokio::test]
async fn what_admission_cannot_check_is_stalled() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "hostile-stalled";
    let stalled = async |spec: Value, reason: &str, word: &str| -> Result<()> {
        cluster.patch_spec(&cluster.customers(), name, spec).await?;
        let customer = cluster.condition(name, "Stalled", "True", reason).await?;
        let conditions = customer.status.context("no status")?.conditions;
        let ready = conditions.iter().find(|c| c.type_ == "Ready").context("no Ready")?;
        ensure!(ready.status == "False" && ready.message.contains(word), "{reason}: {word:?} is not in {ready:?}");
        Ok(())
    };
    cluster.create_customer(name, json!({"database": {"enabled": true, "storage": "2gb"}})).await?;
    cluster.ready(name).await?;
    let uid = cluster.direct(name).await?.get("database").to_owned();

    stalled(json!({"plan": "no-such-plan"}), "PlanNotFound", "no-such-plan").await?;
    cluster.patch_spec(&cluster.customers(), name, json!({"plan": null})).await?;
    cluster.ready(name).await?;
    stalled(json!({"features": {"database": {"storage": "20tb"}}}), "ExceedsPlan", "database.storage").await?;
    let running = cluster.direct(name).await?;
    running.connect().await?.query_one("SELECT 1", &[]).await.context("a refused change changed the database")?;
    ensure!(running.get("database") == uid);
    cluster.delete_customer(name).await
}

/// Hostile values of free-text fields reach PostgreSQL and pgbouncer as text.
#[tokio::test]
async fn injected_sql_is_not_executed() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "hostile-texts";
    cluster.delete_customer(name).await?;
    for (n, text) in HOSTILE.iter().enumerate().filter(|(_, text)| !text.contains('\u{0}')) {
        let parameters = json!({"application_name": text, "search_path": text});
        let spec = json!({"displayName": text, "features": {"database": {"enabled": true, "parameters": parameters}}});
        if n == 0 {
            cluster.create_customer_with(name, spec).await?;
        } else {
            cluster.patch_spec(&cluster.customers(), name, spec).await?;
        }
        // PostgreSQL accepts or refuses the value of a parameter.
        let settled = |c: Option<&ahoi_api::Customer>| {
            c.is_some_and(|c| {
                let conditions = c.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
                ahoi_reconcile::is_ready(c)
                    || ahoi_reconcile::conditions::find_observed(conditions, "Stalled", c.metadata.generation).is_some()
            })
        };
        cluster.until(&cluster.customers(), name, "Ready or Stalled", 60, settled).await?;
    }
    let admin = cluster.admin("postgres").await?;
    let there: i64 = admin.query_one("SELECT count(*) FROM pg_roles WHERE rolname = 'postgres'", &[]).await?.get(0);
    ensure!(there == 1);
    // The name of a parameter is an identifier in SQL.
    let evil = json!({"features": {"database": {"parameters": {"work_mem; DROP TABLE x": "1MB", "application_name": "fine", "search_path": null}}}});
    cluster.patch_spec(&cluster.customers(), name, evil).await?;
    let stalled = |c: Option<&ahoi_api::Customer>| {
        c.and_then(|c| c.status.as_ref()).is_some_and(|s| s.conditions.iter().any(|k| k.type_ == "Stalled"))
    };
    cluster.until(&cluster.customers(), name, "Stalled", 60, stalled).await?;
    cluster.delete_customer(name).await
}
