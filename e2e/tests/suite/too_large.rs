//! An object that is larger than etcd stores.

use ahoi_api::{Plan, PlanSpec, Scheduler, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::audit::Audit;
use ahoi_e2e::messages::contains_all;
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use kube::api::PostParams;
use serde_json::{Value, json};

const NAME: &str = "too-large";
/// Prefixes of variables and jobs. Those of the Plan and of the Customer are merged.
const PREFIXES: [&str; 2] = ["PLAN", "CUSTOMER"];

/// Half a MiB of variables and half a MiB of commands. The limits of the schema count characters, not bytes.
fn scheduler(prefix: &str) -> Value {
    let text = |characters: usize| "🐘".repeat(characters);
    let env: Vec<_> = (0..40).map(|n| json!({"name": format!("{prefix}_{n}"), "value": text(3200)})).collect();
    let jobs: Vec<_> = (0..20)
        .map(|n| {
            let name = format!("{}-{n}", prefix.to_lowercase());
            json!({"name": name, "schedule": "@yearly", "command": [text(6000)]})
        })
        .collect();
    json!({"env": env, "jobs": jobs})
}

fn stalled(customer: &ahoi_api::Customer) -> String {
    let conditions = customer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, "Stalled").map(|stalled| stalled.message.clone()).unwrap_or_default()
}

#[tokio::test]
async fn an_object_that_etcd_does_not_store_stalls_its_feature() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.delete_customer(NAME).await?;
    let plans = cluster.all::<Plan>();
    cluster.delete(&plans, NAME, 60).await?;
    let default = plans.get("default").await?;
    let image = default.spec.features.scheduler.and_then(|s| s.image).context("the default Plan has no image")?;
    let mut planned = scheduler(PREFIXES[0]);
    planned["image"] = json!(image);
    let plan: PlanSpec = serde_json::from_value(json!({"features": {"scheduler": planned}}))?;
    plans.create(&PostParams::default(), &Plan::new(NAME, plan)).await?;

    let audit = Audit::mark()?;
    let mut own = scheduler(PREFIXES[1]);
    own["enabled"] = json!(true);
    own["workers"] = json!(0);
    let spec = json!({"plan": NAME, "deletionPolicy": "Delete", "features": {"scheduler": own}});
    cluster.create_customer_with(NAME, spec).await?;
    let customer = cluster.condition(NAME, "SchedulerReady", "False", "TooLarge").await?;
    let customer = match stalled(&customer) {
        message if message.is_empty() => cluster.condition(NAME, "Stalled", "True", "TooLarge").await?,
        _ => customer,
    };
    let message = stalled(&customer);
    println!("too large: {message}");
    let words = [
        "Scheduler too-large has ",
        " KiB",
        "1.5 MiB",
        "spec.features.scheduler of the Customer",
        "spec.features.scheduler of the Plan too-large",
    ];
    contains_all(&message, &words)?;

    // No retry while another customer is created and deleted.
    let tried = || {
        let is_try = |request: &ahoi_e2e::audit::Request| {
            request.is_write()
                && request.object_ref.namespace == namespace_of(NAME)
                && request.object_ref.resource == "schedulers"
        };
        anyhow::Ok(audit.since()?.iter().filter(|request| is_try(request)).count())
    };
    let before = tried()?;
    ensure!((1..=6).contains(&before), "{before} requests for a Scheduler that is too large");
    cluster.create_customer("too-large-other", json!({"scheduler": {"enabled": false}})).await?;
    cluster.ready("too-large-other").await?;
    cluster.delete_customer("too-large-other").await?;
    let after = tried()?;
    ensure!(after <= before + 1, "{} requests for a Scheduler that is too large while nothing changed", after - before);

    // The remedy of the message.
    let corrected = json!({"features": {"scheduler": {"env": [], "jobs": []}}});
    cluster.change(NAME, corrected).await.context("the remedy of the message")?;
    cluster.of::<Scheduler>(&namespace_of(NAME)).get(NAME).await?;

    // A customer that is too large again, with an existing child, can be deleted.
    cluster.patch_spec(&cluster.customers(), NAME, json!({"features": {"scheduler": scheduler(PREFIXES[1])}})).await?;
    cluster.condition(NAME, "Stalled", "True", "TooLarge").await?;
    cluster.delete_customer(NAME).await?;
    cluster.delete(&plans, NAME, 60).await
}
