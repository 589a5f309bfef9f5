//! Manual changes in PostgreSQL, and their reversal.

use std::time::Duration;

use ahoi_e2e::Cluster;
use ahoi_e2e::postgres::Login;
use ahoi_e2e::refusal::{WRONG_PASSWORD, refused};
use anyhow::{Context as _, Result};

/// Changes a customer's database and roles, and waits until sweeps have reverted the changes. `grantor` granted the membership of
/// the login in the owner role, if not the administrator.
pub async fn is_repaired(cluster: &Cluster, login: &Login, grantor: Option<&str>, seconds: u64) -> Result<()> {
    let (database, role) = (login.get("database").to_owned(), login.get("username").to_owned());
    let granted_by = grantor.map(|grantor| format!(" GRANTED BY {grantor}")).unwrap_or_default();
    let admin = cluster.admin("postgres").await?;
    for statement in [
        format!("ALTER ROLE {role} PASSWORD 'manual'"),
        format!("GRANT CONNECT ON DATABASE {database} TO PUBLIC"),
        format!("ALTER DATABASE {database} CONNECTION LIMIT -1"),
        format!("REVOKE {database}_owner FROM {role}{granted_by}"),
        format!("ALTER ROLE {role} CREATEDB"),
    ] {
        admin.batch_execute(&statement).await.with_context(|| statement.clone())?;
    }
    refused(
        login.connect().await,
        WRONG_PASSWORD,
        "password authentication failed",
        "a login with a changed password",
    )?;
    let repaired = "SELECT d.datconnlimit > 0 AND NOT has_database_privilege('pg_monitor', d.oid, 'CONNECT') \
         AND NOT r.rolcreatedb AND pg_has_role(r.oid, $2::text, 'MEMBER') \
         FROM pg_database d, pg_roles r WHERE d.datname = $1 AND r.rolname = $3";
    let owner = format!("{database}_owner");
    let until = async {
        loop {
            let row = admin.query_one(repaired, &[&database, &owner, &role]).await?;
            if row.get::<_, bool>(0) && login.connect().await.is_ok() {
                return anyhow::Ok(());
            }
            // PostgreSQL has no watch. The time-out around this loop bounds it.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), until).await.context("not reverted within two sweeps")?
}
