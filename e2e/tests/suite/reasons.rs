//! Reasons of a Customer: each is in condition Ready, and so in the STATUS column, within 30 seconds, with the object, the field,
//! the value and a remedy that works.

use std::time::{Duration, Instant};

use ahoi_api::{Customer, Database, DatabaseServer, DatabaseServerSpec, Placement, Plan, PlanSpec, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::has_condition;
use ahoi_e2e::messages::contains_all;
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// Seconds until a reason is in the status.
const SOON: u64 = 30;

/// Remedy that the message names.
enum Remedy {
    Customer(Value),
    CreatePlan,
    Plan(Value),
    Server(Value),
    /// Labels that hand over a namespace.
    Labels,
}

struct Case {
    name: &'static str,
    spec: Value,
    condition: [&'static str; 3],
    words: &'static [&'static str],
    remedy: Remedy,
}

fn case(
    name: &'static str,
    spec: Value,
    condition: [&'static str; 3],
    words: &'static [&'static str],
    remedy: Remedy,
) -> Case {
    Case { name, spec, condition, words, remedy }
}

fn message(customer: &Customer, type_: &str) -> String {
    let conditions = customer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, type_).map(|c| c.message.clone()).unwrap_or_default()
}

fn cases() -> Vec<Case> {
    let database = |rest: Value| {
        let mut database = json!({"enabled": true});
        database.as_object_mut().into_iter().for_each(|d| d.extend(rest.as_object().cloned().unwrap_or_default()));
        json!({"plan": "reasons", "features": {"database": database}})
    };
    let scheduler = |scheduler: Value| json!({"plan": "reasons", "features": {"scheduler": scheduler}});
    let features = |features: Value| Remedy::Customer(json!({ "features": features }));
    vec![
        case(
            "reasons-plan",
            json!({"plan": "reasons-none"}),
            ["Stalled", "True", "PlanNotFound"],
            &["spec.plan names the Plan reasons-none", "does not exist", "create it or name another"],
            Remedy::CreatePlan,
        ),
        case(
            "reasons-limit",
            scheduler(json!({"enabled": true, "workers": 9})),
            ["Stalled", "True", "ExceedsPlan"],
            &[
                "spec.features.scheduler.workers is 9",
                "Plan reasons",
                "set it to at most 3",
                "name another Plan in spec.plan",
            ],
            features(json!({"scheduler": {"workers": 0}})),
        ),
        case(
            "reasons-image",
            json!({"plan": "reasons-bare", "features": {"scheduler": {"enabled": true, "workers": 0}}}),
            ["SchedulerReady", "False", "NoImage"],
            &["set spec.features.scheduler.image of the Customer reasons-image or of the Plan reasons-bare"],
            Remedy::Plan(json!({"features": {"scheduler": {"image": "localhost/any:1"}}})),
        ),
        case(
            "reasons-namespace",
            json!({"plan": "reasons"}),
            ["NamespaceReady", "False", "NameConflict"],
            &["namespace customer-reasons-namespace exists", "Delete it", "hand it over with the labels"],
            Remedy::Labels,
        ),
        case(
            "reasons-quota",
            json!({"plan": "reasons-quota"}),
            ["NamespaceReady", "False", "Refused"],
            &["ResourceQuota", "spec.hard[cpuu]", "correct", "spec.guardrails of the Plan reasons-quota"],
            Remedy::Plan(json!({"guardrails": {"quota": {"cpuu": null}}})),
        ),
        case(
            "reasons-server",
            database(json!({"serverSelector": {"reasons": "none"}})),
            ["DatabaseReady", "False", "NoMatchingDatabaseServer"],
            &["reasons=none", "spec.features.database.serverSelector", "correct it, or label a DatabaseServer"],
            features(json!({"database": {"serverSelector": null}})),
        ),
        case(
            "reasons-room",
            database(json!({"serverSelector": {"reasons": "full"}})),
            ["DatabaseReady", "False", "NoFreeCapacity"],
            &["is full", "raise spec.maxDatabases or spec.maxStorage"],
            Remedy::Server(json!({"maxDatabases": 1000})),
        ),
        case(
            "reasons-away",
            database(json!({"serverSelector": {"reasons": "away"}})),
            ["DatabaseReady", "False", "WaitingForDatabaseServer"],
            &["DatabaseServer reasons-away is not Ready"],
            features(json!({"database": {"serverSelector": null}})),
        ),
        case(
            "reasons-parameter",
            database(json!({"parameters": {"work_mem": "a lot"}})),
            ["DatabaseReady", "False", "InvalidParameter"],
            &["spec.features.database.parameters[work_mem]", "a lot", "Correct or remove it"],
            features(json!({"database": {"parameters": {"work_mem": "8MB"}}})),
        ),
        case(
            "reasons-extension",
            database(json!({"extensions": ["no_such_extension"]})),
            ["DatabaseReady", "False", "ExtensionRefused"],
            &["spec.features.database.extensions", "no_such_extension", "Remove it, or install it"],
            features(json!({"database": {"extensions": []}})),
        ),
        case(
            "reasons-fleet",
            json!({"plan": "reasons", "features": {"database": {"enabled": true},
                "connectionPool": {"pgBouncerRef": {"namespace": "ahoi-system", "name": "reasons-none"}}}}),
            ["ConnectionPoolReady", "False", "PgBouncerNotFound"],
            &["spec.features.connectionPool.pgBouncerRef", "ahoi-system/reasons-none", "Create it or point to another"],
            features(json!({"connectionPool": {"pgBouncerRef": null}})),
        ),
        case(
            "reasons-job",
            scheduler(json!({"enabled": true, "workers": 0,
                "jobs": [{"name": "report", "schedule": "every day", "command": ["true"]}]})),
            ["SchedulerReady", "False", "JobRefused"],
            &["job report", "spec.schedule", "every day", "correct it in the Customer or its Plan"],
            features(json!({"scheduler": {"jobs": [{"name": "report", "schedule": "@daily", "command": ["true"]}]}})),
        ),
        case(
            "reasons-webhooks",
            json!({"plan": "reasons", "features": {"webhooks": {"enabled": true}}}),
            ["WebhooksReady", "False", "NotAvailable"],
            &["spec.features.webhooks is not available in this release", "set spec.features.webhooks.enabled to false"],
            features(json!({"webhooks": {"enabled": false}})),
        ),
        case(
            "reasons-paused",
            json!({"plan": "reasons", "reconcilePolicy": "Paused"}),
            ["Paused", "True", "ReconcilePolicy"],
            &["spec.reconcilePolicy is Paused", "set it to Normal"],
            Remedy::Customer(json!({"reconcilePolicy": "Normal"})),
        ),
    ]
}

async fn plan(cluster: &Cluster, name: &str, spec: Value) -> Result<()> {
    let spec: PlanSpec = serde_json::from_value(spec)?;
    cluster.all::<Plan>().create(&PostParams::default(), &Plan::new(name, spec)).await?;
    Ok(())
}

async fn server(cluster: &Cluster, value: &str, change: impl FnOnce(&mut DatabaseServerSpec)) -> Result<()> {
    let servers = cluster.all::<DatabaseServer>();
    let mut spec = DatabaseServerSpec { placement: Placement::Selected, ..servers.get("demo").await?.spec };
    change(&mut spec);
    let mut server = DatabaseServer::new(&format!("reasons-{value}"), spec);
    server.metadata.labels = Some([("reasons".to_owned(), value.to_owned())].into());
    servers.create(&PostParams::default(), &server).await?;
    Ok(())
}

async fn clean_up(cluster: &Cluster, cases: &[Case]) -> Result<()> {
    for deleted in join_all(cases.iter().map(|case| cluster.delete_customer(case.name))).await {
        deleted?;
    }
    for plan in ["reasons", "reasons-none", "reasons-bare", "reasons-quota"] {
        cluster.delete(&cluster.all::<Plan>(), plan, 60).await?;
    }
    for server in ["reasons-full", "reasons-away"] {
        cluster.delete(&cluster.all::<DatabaseServer>(), server, 150).await?;
    }
    cluster.delete(&cluster.all::<Namespace>(), &namespace_of("reasons-namespace"), 60).await
}

/// Checks the condition and its words, and that the remedy works.
async fn walk(cluster: &Cluster, case: &Case) -> Result<()> {
    let Case { name, condition: [type_, status, reason], words, .. } = case;
    let mut spec = case.spec.clone();
    spec["deletionPolicy"] = json!("Delete");
    let started = Instant::now();
    cluster.create_customer_with(name, spec).await?;
    let says = |customer: &Customer| {
        let ready = message(customer, "Ready");
        has_condition(customer, type_, status, reason) && words.iter().all(|word| ready.contains(word))
    };
    let waited =
        cluster.until(&cluster.customers(), name, reason, SOON, |c: Option<&Customer>| c.is_some_and(says)).await;
    let took = started.elapsed();
    let now = cluster.customers().get(name).await?;
    let found = waited.with_context(|| format!("{reason}: Ready reports {:?}", message(&now, "Ready")))?;
    println!("reasons: {reason} after {:.1} s: {}", took.as_secs_f32(), message(&found.context("deleted")?, "Ready"));
    match &case.remedy {
        Remedy::Customer(patch) => drop(cluster.patch_spec(&cluster.customers(), name, patch.clone()).await?),
        Remedy::CreatePlan => plan(cluster, "reasons-none", json!({})).await?,
        Remedy::Plan(patch) => {
            let plan = case.spec["plan"].as_str().context("no Plan")?;
            cluster.patch_spec(&cluster.all::<Plan>(), plan, patch.clone()).await?;
        }
        Remedy::Server(patch) => {
            drop(cluster.patch_spec(&cluster.all::<DatabaseServer>(), "reasons-full", patch.clone()).await?);
        }
        Remedy::Labels => {
            let owner = cluster.all::<ahoi_api::CustomerNamespace>().get(name).await?.uid().context("no uid")?;
            let labels = json!({ahoi_api::CUSTOMER_LABEL: name, ahoi_api::NAMESPACE_OWNER_LABEL: owner});
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            cluster.all::<Namespace>().patch(&namespace_of(name), &PatchParams::default(), &patch).await?;
        }
    }
    cluster.ready(name).await.with_context(|| format!("{reason}: the remedy does not work")).map(drop)
}

#[tokio::test]
async fn each_reason_names_a_remedy_that_works() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let cases = cases();
    clean_up(&cluster, &cases).await?;
    let default = cluster.all::<Plan>().get("default").await?;
    let image = default.spec.features.scheduler.and_then(|s| s.image).context("the default Plan has no image")?;
    let limits = json!({"maxWorkers": 3, "maxStorage": "20Gi"});
    plan(&cluster, "reasons", json!({"features": {"scheduler": {"image": image}}, "limits": limits})).await?;
    plan(&cluster, "reasons-bare", json!({})).await?;
    plan(&cluster, "reasons-quota", json!({"guardrails": {"quota": {"cpuu": "1"}}})).await?;
    server(&cluster, "full", |spec| spec.max_databases = Some(0)).await?;
    server(&cluster, "away", |spec| spec.port = 1).await?;
    let mut foreign = Namespace::default();
    foreign.metadata.name = Some(namespace_of("reasons-namespace"));
    cluster.all::<Namespace>().create(&PostParams::default(), &foreign).await?;

    let outcomes = join_all(cases.iter().map(|case| walk(&cluster, case))).await;
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    clean_up(&cluster, &cases).await
}

/// A database that was dropped in PostgreSQL is not recreated until its Database is deleted.
#[tokio::test]
async fn a_database_that_was_dropped_is_missing_until_its_object_is_deleted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "reasons-dropped";
    cluster.create_customer(name, json!({"database": {"enabled": true}, "connectionPool": {"enabled": false}})).await?;
    cluster.ready(name).await?;
    let databases = cluster.of::<Database>(&namespace_of(name));
    let lost = databases.get(name).await?.status.and_then(|status| status.database_name).context("no name")?;
    cluster.admin("postgres").await?.batch_execute(&format!("DROP DATABASE {lost} WITH (FORCE)")).await?;
    // A sweep detects it within a minute, a change of the spec at once.
    cluster.patch_spec(&cluster.customers(), name, json!({"features": {"database": {"connectionLimit": 7}}})).await?;
    let stalled = cluster.condition(name, "DatabaseReady", "False", "DatabaseMissing").await?;
    let ready = message(&stalled, "Ready");
    contains_all(
        &ready,
        &[&lost, "does not exist any more", "delete Database customer-reasons-dropped/reasons-dropped"],
    )?;
    databases.delete(name, &kube::api::DeleteParams::default()).await?;
    let other = |d: Option<&Database>| {
        let now = d.and_then(|d| d.status.as_ref()?.database_name.clone());
        d.is_some_and(ahoi_reconcile::is_ready) && now.is_some_and(|now| now != lost)
    };
    cluster.until(&databases, name, "Ready with an empty database", 120, other).await?;
    cluster.ready(name).await?;
    cluster.delete_customer(name).await
}

/// A name of 40 characters, the maximum, is valid for each child.
#[tokio::test]
async fn a_name_of_maximum_length_is_valid_for_every_child() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "reasons-forty-characters-are-allowed-40c";
    ensure!(name.len() == 40);
    let job = "a-job-of-forty-characters-is-the-longest";
    ensure!(job.len() == 40);
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1,
        "jobs": [{"name": job, "schedule": "@daily", "command": ["true"]}],
        "migration": {"command": ["true"]}}});
    let spec = json!({"deletionPolicy": "Delete", "features": features});
    cluster.create_customer_with(name, spec).await?;
    // The command may not exist in the image. Only the names of the children are tested.
    let namespace = namespace_of(name);
    cluster.condition(name, "ConnectionPoolReady", "True", "Ready").await?;
    let exists = |job: Option<&k8s_openapi::api::batch::v1::CronJob>| job.is_some();
    let without = json!({"features": {"scheduler": {"migration": null}}});
    cluster.patch_spec(&cluster.customers(), name, without).await?;
    cluster.until(&cluster.of(&namespace), job, "there", 60, exists).await?;
    let workers = cluster.of::<Deployment>(&namespace);
    cluster.until(&workers, &format!("{name}-worker"), "there", 60, |d: Option<&Deployment>| d.is_some()).await?;
    cluster.ready(name).await?;
    let longer = cluster.create_customer(&format!("{name}x"), json!({})).await.err().map(|e| format!("{e:#}"));
    let longer = longer.context("a name of 41 characters is accepted")?;
    ensure!(longer.contains("metadata.name") && longer.contains("40"), "{longer}");
    tokio::time::timeout(Duration::from_secs(120), cluster.delete_customer(name)).await?
}
