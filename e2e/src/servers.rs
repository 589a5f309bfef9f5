//! DatabaseServers of tests. Each has its own admin role on the demo's PostgreSQL, so that tests can change the role without
//! side effects.

use ahoi_api::{DatabaseServer, DatabaseServerSpec, NamespacedRef, Placement};
use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::json;

use crate::cluster::Cluster;
use crate::system::SYSTEM;

impl Cluster {
    /// Creates the DatabaseServer `name` with the label `for: <name>`, its Secret, and its admin role with these attributes, for
    /// example SUPERUSER. Only customers that select the server get databases there.
    pub async fn create_server(
        &self,
        name: &str,
        admin: &str,
        attributes: &str,
        database: &str,
    ) -> Result<DatabaseServer> {
        let demo = self.all::<DatabaseServer>().get("demo").await?;
        let password = format!("e2e-{:016x}", std::process::id());
        let session = self.admin("postgres").await?;
        session.batch_execute(&format!("CREATE ROLE {admin} {attributes} LOGIN PASSWORD '{password}'")).await?;
        // See docs/security.md: the demo's server logs statements.
        let logging = "log_statement, log_min_error_statement";
        session.batch_execute(&format!("GRANT SET ON PARAMETER {logging} TO {admin}")).await?;
        if database != demo.spec.admin_database {
            session.batch_execute(&format!("CREATE DATABASE {database} OWNER {admin}")).await?;
        }
        let secret = json!({"metadata": {"name": name}, "stringData": {"username": admin, "password": password}});
        self.of::<Secret>(SYSTEM).create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        let spec = DatabaseServerSpec {
            placement: Placement::Selected,
            admin_secret_ref: NamespacedRef { namespace: SYSTEM.into(), name: name.into() },
            admin_database: database.into(),
            ..demo.spec
        };
        let mut server = DatabaseServer::new(name, spec);
        server.metadata.labels = Some([("for".to_owned(), name.to_owned())].into());
        Ok(self.all().create(&PostParams::default(), &server).await?)
    }

    /// Deletes the DatabaseServer `name`, its Secret, its admin role and its admin database, except `postgres`.
    pub async fn delete_server(&self, name: &str, admin: &str, database: &str) -> Result<()> {
        self.delete(&self.all::<DatabaseServer>(), name, 150).await?;
        self.delete(&self.of::<Secret>(SYSTEM), name, 60).await?;
        let session = self.admin("postgres").await?;
        if database != "postgres" {
            session.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
        }
        let exists = "SELECT FROM pg_roles WHERE rolname = $1";
        if session.query_opt(exists, &[&admin]).await?.is_some() {
            session.batch_execute(&format!("DROP OWNED BY {admin}; DROP ROLE {admin}")).await?;
        }
        Ok(())
    }
}
