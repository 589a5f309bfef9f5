//! A rotation copies settings and memberships of the login, and a search_path can be declared.

use ahoi_api::namespace_of;
use ahoi_e2e::Cluster;
use ahoi_e2e::postgres::Login;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

const NAME: &str = "logins";

#[tokio::test]
async fn the_next_login_has_the_settings_and_memberships_of_the_current() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}, "connectionPool": {"poolSize": 1}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    let former = cluster.direct(NAME).await?;
    let (database, login) = (former.get("database"), former.get("username"));
    let next = format!("{database}_b");
    ensure!(login == format!("{database}_a"), "{login}");
    former.connect().await?.batch_execute("CREATE SCHEMA \"App\"; CREATE TABLE \"App\".t (n int)").await?;
    let admin = cluster.admin("postgres").await?;
    // The next login exists since an earlier rotation, with settings that the current login no longer has.
    for statement in [
        format!("ALTER ROLE {login} SET search_path = \"App\", public"),
        format!("ALTER ROLE {login} SET app.tenant = 'it''s acme'"),
        format!("GRANT pg_monitor TO {login}"),
        format!("CREATE ROLE {next} NOLOGIN"),
        format!("ALTER ROLE {next} SET jit = off"),
        format!("GRANT pg_read_all_settings TO {next}"),
    ] {
        admin.batch_execute(&statement).await.context(statement)?;
    }
    let before = state(&former.connect().await?).await?;
    ensure!(before == ["\"App\", public", "it's acme", "on", "true", "true", "0"], "{before:?}");

    let features = json!({"database": {"credentials": {"rotationRequest": "1"}}});
    cluster.patch_spec(&cluster.customers(), NAME, json!({"features": features})).await?;
    let secrets = cluster.of::<Secret>(&namespace_of(NAME));
    let has_next = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("username")).is_some_and(|name| name.0 == next.as_bytes())
    };
    cluster.until(&secrets, "logins-pool", "the Secret has the next login", 60, has_next).await?;
    for login in [cluster.direct(NAME).await?, cluster.pooled(NAME).await?] {
        let after = state(&login.connect().await?).await?;
        ensure!(after == before, "port {}: {after:?} instead of {before:?}", login.get("port"));
    }
    let own = "SELECT array_to_string(array_agg(x ORDER BY x), ';') FROM pg_db_role_setting, unnest(setconfig) x \
               WHERE setdatabase = 0 AND setrole = $1::text::regrole";
    let settings: String = admin.query_one(own, &[&next]).await?.get(0);
    ensure!(settings == "app.tenant=it's acme;search_path=\"App\", public", "{settings}");

    declared(&cluster).await?;
    cluster.delete_customer(NAME).await
}

/// Returns parameters of the session, its membership in pg_monitor, which includes pg_read_all_settings, and the rows of t.
async fn state(client: &Client) -> Result<Vec<String>> {
    let row = client
        .query_one(
            "SELECT array[current_setting('search_path'), current_setting('app.tenant'), current_setting('jit'), \
             pg_has_role(session_user, 'pg_monitor', 'usage')::text, \
             pg_has_role(session_user, 'pg_read_all_settings', 'usage')::text, (SELECT count(*) FROM t)::text]",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// A declared search_path applies to both logins, and to each client of the pool that requests no other.
async fn declared(cluster: &Cluster) -> Result<()> {
    let parameters = json!({"search_path": "app, \"$user\", PUBLIC"});
    cluster.change(NAME, json!({"features": {"database": {"parameters": parameters}}})).await?;
    let expected = "app, \"$user\", public";
    let direct = cluster.direct(NAME).await?;
    let path = async |client: &Client| anyhow::Ok(client.query_one("SHOW search_path", &[]).await?.get::<_, String>(0));
    ensure!(path(&direct.connect().await?).await? == expected);
    let admin = cluster.admin("postgres").await?;
    let settings = "SELECT count(*) FROM pg_db_role_setting s, unnest(setconfig) x WHERE setdatabase = \
                    (SELECT oid FROM pg_database WHERE datname = $1) AND x = 'search_path=' || $2";
    let count: i64 = admin.query_one(settings, &[&direct.get("database"), &expected]).await?.get(0);
    ensure!(count == 2, "{count} of 2 logins have it");

    // Existing server connections keep their settings.
    let features = json!({"features": {"connectionPool": {"reconnectRequest": "1"}}});
    cluster.change(NAME, features).await?;
    let pooled = cluster.pooled(NAME).await?;
    for options in ["", "-c search_path=other", "", "-c search_path=other"] {
        let client = with_options(&pooled, options).await?;
        let found = path(&client).await?;
        let wanted = if options.is_empty() { expected } else { "other" };
        ensure!(found == wanted, "{options:?}: {found}");
    }
    cluster
        .patch_spec(
            &cluster.customers(),
            NAME,
            json!({"features": {"database": {"parameters": {"search_path": "a b"}}}}),
        )
        .await?;
    let stalled = cluster.condition(NAME, "DatabaseReady", "False", "InvalidParameter").await?;
    let message = &ahoi_reconcile::conditions::find(&stalled.status.context("a status")?.conditions, "DatabaseReady")
        .context("DatabaseReady")?
        .message
        .clone();
    ensure!(message.contains("spec.features.database.parameters[search_path]"), "{message}");
    Ok(())
}

async fn with_options(login: &Login, options: &str) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(login.address()).port(login.get("port").parse()?).dbname(login.get("database"));
    config.user(login.get("username")).password(login.get("password"));
    let (client, connection) = config.options(options).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
