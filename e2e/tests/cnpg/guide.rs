//! Properties of a cluster that was installed as the guide describes.

use ahoi_api::{DatabaseServer, Passwords};
use ahoi_e2e::agents::metrics;
use ahoi_e2e::refusal::{NO_PRIVILEGE, all, refused};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::conditions::find;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Duration, sleep, timeout};

use crate::ONE_AT_A_TIME;
use crate::engine::{Engine, NAME, NAMESPACE, REGION, script};
use crate::row::features;

#[tokio::test]
async fn the_guide_produces_a_ready_server() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    server_is_ready(&engine.cluster).await?;
    only_the_certificate_is_copied(&engine.cluster).await?;
    metrics_are_exported(&engine).await?;
    let name = "cnpg-guide";
    let spec = json!({"deletionPolicy": "Delete", "features": features(REGION)});
    engine.cluster.create_customer_with(name, spec).await?;
    engine.cluster.ready(name).await?;
    customers_are_isolated(&engine.cluster, name).await?;
    memberships_stay(&engine).await?;
    the_password_is_replaced(&engine, name).await?;
    engine.cluster.delete_customer(name).await
}

async fn server_is_ready(cluster: &Cluster) -> Result<()> {
    let server = cluster.all::<DatabaseServer>().get(NAME).await?;
    let status = server.status.context("no status")?;
    ensure!(status.passwords == Some(Passwords::File), "{:?}", status.passwords);
    for condition in ["DefaultDatabasesClosed", "TemporaryFilesLimited", "DiskOk"] {
        let found = find(&status.conditions, condition);
        ensure!(found.is_some_and(|found| found.status == "True"), "{condition}: {found:?}");
    }
    Ok(())
}

/// The private key of the CA is not copied, and an up-to-date copy is not written.
async fn only_the_certificate_is_copied(cluster: &Cluster) -> Result<()> {
    let secrets = cluster.of::<Secret>(SYSTEM);
    let copied = secrets.get("pg-eu-1-ca").await?;
    let keys: Vec<_> = copied.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
    ensure!(keys == ["ca.crt"], "the copy has {keys:?}");
    script("copy-ca").await?;
    let again = secrets.get("pg-eu-1-ca").await?;
    ensure!(again.metadata.resource_version == copied.metadata.resource_version, "written although nothing changed");
    Ok(())
}

/// The REVOKE statements do not affect the metrics of CloudNativePG.
async fn metrics_are_exported(engine: &Engine) -> Result<()> {
    let pod = engine.cluster.of::<Pod>(NAMESPACE).get(&engine.primary().await?).await?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the primary has no address")?;
    let exported = metrics(&address, 9187).await?;
    for line in ["cnpg_last_error 0", "cnpg_pg_database_size_bytes{datname=\"ahoi\"}"] {
        ensure!(exported.contains(line), "the metrics have no {line}");
    }
    Ok(())
}

async fn customers_are_isolated(cluster: &Cluster, name: &str) -> Result<()> {
    let login = cluster.direct(name).await?;
    ensure!(login.get("sslmode") == "verify-full", "the sslmode of the binding is {}", login.get("sslmode"));
    let mut outcomes = Vec::new();
    for target in ["postgres", "template1", "ahoi"] {
        let session = login.clone().to_database(target).connect().await;
        outcomes.push(refused(session, NO_PRIVILEGE, "permission denied for database", target));
    }
    all(outcomes)
}

/// CloudNativePG revokes memberships of roles that it manages, and the admin role needs its memberships.
async fn memberships_stay(engine: &Engine) -> Result<()> {
    let missing = "SELECT count(*) FROM pg_roles owner WHERE rolname ~ '^c_[0-9a-f]+_owner$' AND NOT EXISTS \
        (SELECT FROM pg_auth_members WHERE roleid = owner.oid AND member = 'ahoi'::regrole);";
    ensure!(engine.psql(missing).await?.trim() == "0", "the admin role lost a membership");
    let managed =
        ["get", "cluster.postgresql.cnpg.io", NAME, "-n", NAMESPACE, "-o=jsonpath={.status.managedRolesStatus}"];
    let managed = engine.cluster.kubectl(&managed, "").await?;
    ensure!(!managed.contains("cannotReconcile"), "CloudNativePG manages roles: {managed}");
    Ok(())
}

/// The password of the admin role is changed in the Secret that CloudNativePG reads, and copied from there.
async fn the_password_is_replaced(engine: &Engine, customer: &str) -> Result<()> {
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'ahoi';";
    let former = engine.psql(verifier).await?;
    let password = json!({"stringData": {"password": format!("e2e-{:?}", std::time::SystemTime::now())}});
    let secrets = engine.cluster.of::<Secret>(NAMESPACE);
    secrets.patch("ahoi-admin", &PatchParams::default(), &Patch::Merge(&password)).await?;
    script("prepare").await?;
    let replaced = async {
        while engine.psql(verifier).await? == former {
            // PostgreSQL has no watch. The time-out around this loop bounds it.
            sleep(Duration::from_millis(500)).await;
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(60), replaced).await.context("CloudNativePG has not set the password")??;
    engine.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ahoi';").await?;
    engine.cluster.change(customer, json!({"features": {"database": {"connectionLimit": 7}}})).await?;
    let limited = "SELECT count(*) FROM pg_database WHERE datconnlimit = 7;";
    ensure!(engine.psql(limited).await?.trim() == "1", "the change did not reach the server");
    Ok(())
}
