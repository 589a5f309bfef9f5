//! What the two controllers share: caches, pools, and the way from a name to a server that can be used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{ConnectionPool, Database, DatabaseServer, PgBouncer};
use ahoi_reconcile::conditions::{READY, find};
use ahoi_reconcile::{Cache, Error, ObjectRef, Owned, Platform, Trigger, is_ready, watcher};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use tracing::warn;

use crate::Options;
use crate::metrics::Metrics;
use crate::outage::{Outages, is_reported as is_outage_reported};
use crate::placement::Placements;
use crate::postgres::ownership::Cluster;
use crate::postgres::read_only::{READ_ONLY, waits as read_only};
use crate::postgres::server::{Login, Pools, ServerPool, unreachable};
use crate::postgres::tls::{AUTHORITIES_BYTES, authorities};
use crate::remembered::Remembered;
use crate::secret;
use crate::server::UNREACHABLE;

/// What the two controllers share.
pub struct Context {
    /// Client, events, namespace.
    pub platform: Platform,
    /// What there is.
    pub caches: Caches,
    /// Which cluster this is.
    pub cluster: Cluster,
    /// Connections to every server.
    pub pools: Pools,
    /// Databases that are woken to report that their server is unreachable, or is back.
    pub outages: Outages,
    /// Taken by whoever changes which removals wait for a server.
    pub removals: tokio::sync::Mutex<()>,
    /// Passwords that no Secret holds yet.
    pub remembered: Remembered,
    /// Places given away a moment ago.
    pub placements: Placements,
    /// What is counted.
    pub metrics: Metrics,
    /// Has a Database looked at.
    pub trigger: Trigger<Database>,
}

/// The caches, which exist before the controllers do.
pub struct Caches {
    /// Every DatabaseServer.
    pub servers: Cache<DatabaseServer>,
    /// Every Database.
    pub databases: Cache<Database>,
    /// Every PgBouncer, for what its agents say of servers.
    pub fleets: Cache<PgBouncer>,
    /// Every ConnectionPool: they say when a former login is used no more.
    pub pools: Cache<ConnectionPool>,
    /// The binding Secrets of Databases.
    pub bindings: Owned<Secret>,
    /// The Secrets in the suite's own namespace.
    pub secrets: Cache<Secret>,
}

impl Caches {
    /// Starts to watch.
    pub fn new(platform: &Platform) -> Self {
        let client = || platform.client.clone();
        let everything = watcher::Config::default;
        let bindings = everything().labels(&format!("{}=direct", ahoi_api::BINDING_LABEL));
        let databases = platform.cache(Api::all(client()), everything());
        let bindings = platform.cache_secrets(bindings, &databases, secret::SUFFIX, drop_what_is_no_binding);
        Caches {
            servers: platform.cache(Api::all(client()), everything()),
            databases,
            fleets: platform.cache(Api::all(client()), everything()),
            pools: platform.cache(Api::all(client()), everything()),
            bindings: Owned::new(platform, &bindings).recreated_if(secret::must_be_made_anew).recreated_if_refused(),
            secrets: platform.cache(Api::namespaced(client(), platform.namespace()), everything()),
        }
    }

    /// The DatabaseServers that a Secret is about.
    pub fn servers_of_secret(&self) -> impl Fn(&Secret) -> Vec<ObjectRef<DatabaseServer>> + Send + Sync + 'static {
        let servers = self.servers.clone();
        move |secret| {
            let mut found = servers.all();
            found.retain(|server| {
                server.spec.admin_secret_ref.name == secret.name_any() || names_authorities(server, secret)
            });
            found.iter().map(|server| ObjectRef::from_obj(&**server)).collect()
        }
    }

    /// The Databases on the servers whose authorities are in a Secret: they are in the binding Secrets, too.
    pub fn databases_of_secret(&self) -> impl Fn(&Secret) -> Vec<ObjectRef<Database>> + Send + Sync + 'static {
        let (servers, databases) = (self.servers.clone(), self.databases.clone());
        move |secret| {
            let mut named = servers.all();
            named.retain(|server| names_authorities(server, secret));
            if named.is_empty() {
                return Vec::new();
            }
            let mut affected = databases.all();
            affected.retain(|database| {
                let on = database.status.as_ref().and_then(|status| status.server.as_deref());
                named.iter().any(|server| on == Some(&server.name_any()))
            });
            affected.iter().map(|database| ObjectRef::from_obj(&**database)).collect()
        }
    }

    /// The Databases to wake for what matters to them about a server; most of its changes are only counts. Whether it can be
    /// used is told by the server itself, once: of its databases only those that wait for it are woken.
    pub fn databases_of_server(&self) -> impl Fn(&DatabaseServer) -> Vec<ObjectRef<Database>> + Send + Sync + 'static {
        let (servers, databases) = (self.servers.clone(), self.databases.clone());
        let known: Mutex<HashMap<String, [String; 2]>> = Mutex::default();
        move |server| {
            let name = server.name_any();
            let now = servers.get(&name).map(|server| what_matters(&server)).unwrap_or_default();
            let before = known.lock().insert(name.clone(), now.clone());
            if before.as_ref() == Some(&now) {
                return Vec::new();
            }
            let moved = before.is_none_or(|[address, _]| address != now[0]);
            let mut affected = databases.all();
            affected.retain(|database| {
                let on = database.status.as_ref().and_then(|status| status.server.as_ref());
                // Those that report an outage are woken by the server, one after the other.
                let waits = || !is_ready(&**database) && (on.is_none() || !is_outage_reported(database));
                on.is_none_or(|on| *on == name) && (moved || waits())
            });
            affected.iter().map(|database| ObjectRef::from_obj(&**database)).collect()
        }
    }
}

/// More than a binding Secret ever has, its authorities included, which are bounded for that.
const BINDING_BYTES: usize = 2 * AUTHORITIES_BYTES;

/// Tenants may change the Secret. Without data it is taken for lost, and another login takes its place.
fn drop_what_is_no_binding(secret: &mut Secret) {
    let bytes: usize = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
    if bytes > BINDING_BYTES || secret.type_.as_deref() != Some(ahoi_api::BINDING_SECRET_TYPE) {
        secret.data = None;
    }
}

fn names_authorities(server: &DatabaseServer, secret: &Secret) -> bool {
    server.spec.tls.ca_secret_ref.as_ref().is_some_and(|reference| reference.name == secret.name_any())
}

/// What matters to all databases on a server, and what only to those that wait for one.
fn what_matters(server: &DatabaseServer) -> [String; 2] {
    let spec = &server.spec;
    let passwords = server.status.as_ref().and_then(|status| status.passwords);
    let address = (server.uid(), &spec.host, spec.port, &spec.tls, passwords);
    let others = (&spec.adopt_from_cluster, &spec.shared_with_clusters);
    let room = (server.labels(), ready_reason(server), spec.placement, &spec.max_databases, &spec.capacity, others);
    [format!("{address:?}"), format!("{room:?}")]
}

/// How long to wait between attempts to tell which cluster this is.
const RETRY: Duration = Duration::from_secs(2);

impl Context {
    /// Looks up which cluster this is.
    pub async fn new(
        platform: Platform,
        caches: Caches,
        trigger: Trigger<Database>,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let namespaces: Api<Namespace> = Api::all(platform.client.clone());
        let uid = loop {
            match namespaces.get_metadata("kube-system").await {
                Ok(system) => break system.uid().unwrap_or_default(),
                // While the API server is away: a process that gives up is started ever less often, and comes late when
                // it is back.
                Err(error) => warn!(%error, "cannot tell which cluster this is; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = platform.shutdown().cancelled() => anyhow::bail!("told to stop before the cluster was known"),
            }
        };
        Ok(Context {
            cluster: Cluster::new(uid),
            metrics: Metrics::new(&platform, options.top_customers),
            pools: Pools::new(options.log_statements),
            outages: Outages::default(),
            removals: tokio::sync::Mutex::default(),
            remembered: Remembered::default(),
            placements: Placements::default(),
            caches,
            platform,
            trigger,
        })
    }

    /// The pool for a server, with the login of its admin Secret.
    pub fn pool(&self, server: &DatabaseServer) -> Result<Arc<ServerPool>, Error> {
        let (name, reference) = (server.name_any(), &server.spec.admin_secret_ref);
        let suite = self.platform.namespace();
        if reference.namespace != suite {
            return Err(Error::terminal(
                "SecretNamespaceNotAllowed",
                format!("spec.adminSecretRef.namespace must be {suite}"),
            ));
        }
        let which = format!("Secret {}/{}", reference.namespace, reference.name);
        let Some(admin) = self.caches.secrets.get_in(suite, &reference.name) else {
            return Err(Error::structural(
                "SecretNotFound",
                format!(
                    "{which} of DatabaseServer {name} does not exist: create it with username and password of the admin role"
                ),
            ));
        };
        let key = |key: &str| {
            secret::text(&admin, key).filter(|text| !text.is_empty()).ok_or_else(|| {
                Error::structural("SecretIncomplete", format!("{which} of DatabaseServer {name} has no {key}"))
            })
        };
        let login = Login { username: key("username")?, password: key("password")? };
        let ca = authorities(server, &self.caches.secrets, suite)?;
        Ok(self.pools.get(server, &login, ca.as_deref()))
    }

    /// The Databases on a server.
    pub fn placed_on(&self, server: &str) -> Vec<Arc<Database>> {
        let mut databases = self.caches.databases.all();
        databases
            .retain(|database| database.status.as_ref().is_some_and(|status| status.server.as_deref() == Some(server)));
        databases
    }

    /// A server that a Database is on, if it can be used now.
    pub fn usable(&self, name: &str) -> Result<(Arc<DatabaseServer>, Arc<ServerPool>), Error> {
        let Some(server) = self.caches.servers.find("", name)? else {
            return Err(Error::structural(
                "DatabaseServerNotFound",
                format!("DatabaseServer {name} does not exist: create it again with the spec that it had"),
            ));
        };
        if !is_usable(&server) {
            return Err(match ready_reason(&server) {
                Some(UNREACHABLE) => unreachable(name),
                Some(READ_ONLY) => read_only(name),
                _ => Error::waiting("WaitingForDatabaseServer", format!("DatabaseServer {name} is not Ready")),
            });
        }
        let pool = self.pool(&server)?;
        Ok((server, pool))
    }
}

/// Whether a server was Ready when it was last looked at; a change of its spec that nobody has looked at yet does not
/// take a working server from everybody on it.
pub fn is_usable(server: &DatabaseServer) -> bool {
    let conditions = server.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == READY && condition.status == "True")
}

fn ready_reason(server: &DatabaseServer) -> Option<&str> {
    find(&server.status.as_ref()?.conditions, READY).map(|ready| ready.reason.as_str())
}

#[cfg(test)]
pub mod tests {
    use ahoi_reconcile::testing::{ApiServer, cache, changed, ready, settled};
    use ahoi_reconcile::{Controller, Verdict};

    use super::*;

    /// A context with these objects in its caches.
    pub fn context(
        api: &ApiServer,
        servers: Vec<DatabaseServer>,
        databases: Vec<Database>,
        secrets: Vec<Secret>,
    ) -> Context {
        let platform = api.platform();
        let caches = Caches {
            servers: cache(servers),
            databases: cache(databases),
            fleets: cache([]),
            pools: cache([]),
            bindings: Owned::new(&platform, &cache([])),
            secrets: cache(secrets),
        };
        Context {
            cluster: Cluster::new("cluster"),
            metrics: Metrics::new(&platform, 20),
            pools: Pools::new(false),
            outages: Outages::default(),
            removals: tokio::sync::Mutex::default(),
            remembered: Remembered::default(),
            placements: Placements::default(),
            trigger: Controller::new(&platform, &caches.databases).trigger(),
            caches,
            platform,
        }
    }

    /// The Database `acme` of a customer, which is on the server `pg-1`.
    pub fn database() -> Database {
        serde_saphyr::from_str(
            "
            apiVersion: internal.example.com/v1
            kind: Database
            metadata: {name: acme, namespace: customer-acme, uid: u, generation: 1}
            spec: {storage: 1gb}
            status: {server: pg-1, databaseName: c_3f2504e04f89}
            ",
        )
        .unwrap()
    }

    /// The admin Secret of [`server`].
    pub fn admin() -> Secret {
        secret("admin", &[("username", "postgres"), ("password", "x")])
    }

    pub fn server(name: &str) -> DatabaseServer {
        serde_saphyr::from_str(&format!(
            "
            apiVersion: internal.example.com/v1
            kind: DatabaseServer
            metadata: {{name: {name}, uid: 11111111-2222-4333-8444-555555555555, generation: 1}}
            spec: {{host: db.example.com, adminSecretRef: {{namespace: ahoi-system, name: admin}}}}
            "
        ))
        .unwrap()
    }

    pub fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
        let text = |(key, value): &(&str, &str)| (key.to_string(), k8s_openapi::ByteString(value.as_bytes().to_vec()));
        let mut secret = Secret { data: Some(data.iter().map(text).collect()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.namespace = Some("ahoi-system".to_owned());
        secret
    }

    #[tokio::test]
    async fn why_a_server_cannot_be_used() {
        let admin = || secret("admin", &[("username", "postgres"), ("password", "x")]);
        let why = |servers, secrets| {
            let context = context(&ApiServer::new(), servers, vec![], secrets);
            context.usable("pg-1").err().map(|error| (error.reason().to_owned(), error.to_string()))
        };
        let reason = |servers, secrets| why(servers, secrets).map(|(reason, _)| reason);
        assert_eq!(reason(vec![], vec![admin()]).as_deref(), Some("DatabaseServerNotFound"));
        assert_eq!(reason(vec![server("pg-1")], vec![admin()]).as_deref(), Some("WaitingForDatabaseServer"));
        assert_eq!(reason(vec![ready(server("pg-1"))], vec![]).as_deref(), Some("SecretNotFound"));
        assert_eq!(
            reason(vec![ready(server("pg-1"))], vec![secret("admin", &[])]).as_deref(),
            Some("SecretIncomplete")
        );
        assert_eq!(reason(vec![ready(server("pg-1"))], vec![admin()]), None);

        let mut elsewhere = ready(server("pg-1"));
        elsewhere.spec.admin_secret_ref.namespace = "customer-acme".into();
        assert_eq!(reason(vec![elsewhere], vec![admin()]).as_deref(), Some("SecretNamespaceNotAllowed"));

        // However it is found, a Database says the same, so that it is written once.
        let away = settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "away"));
        let found = why(vec![away], vec![admin()]).unwrap();
        assert_eq!(found, (unreachable("pg-1").reason().to_owned(), unreachable("pg-1").to_string()));
    }

    /// The administrator's password is changed: the next look uses it, without a restart, and the server is woken for it.
    #[tokio::test]
    async fn another_admin_secret_is_another_pool() {
        let admin = |password| secret("admin", &[("username", "postgres"), ("password", password)]);
        let context = context(&ApiServer::new(), vec![ready(server("pg-1"))], vec![], vec![admin("old")]);
        let (_, old) = context.usable("pg-1").unwrap();
        assert!(Arc::ptr_eq(&old, &context.usable("pg-1").unwrap().1), "one pool for one login");
        changed(&context.caches.secrets, admin("new"));
        let (_, new) = context.usable("pg-1").unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
        assert!(Arc::ptr_eq(&old.memory, &new.memory), "what was seen on the server is still true");
        let mut moved = ready(server("pg-1"));
        moved.spec.host = "elsewhere.example.com".into();
        changed(&context.caches.servers, moved);
        assert!(!Arc::ptr_eq(&new.memory, &context.usable("pg-1").unwrap().1.memory), "it is another server");
        let woken = context.caches.servers_of_secret()(&admin("new"));
        assert_eq!(woken.iter().map(|server| server.name.as_str()).collect::<Vec<_>>(), ["pg-1"]);
        assert!(context.caches.servers_of_secret()(&secret("other", &[])).is_empty());
    }

    #[test]
    fn secrets_that_are_no_bindings_take_no_room() {
        let binding = |type_: &str, bytes: usize| {
            let mut secret = secret("acme-database", &[("password", &"x".repeat(bytes))]);
            secret.type_ = Some(type_.to_owned());
            drop_what_is_no_binding(&mut secret);
            secret.data.is_some()
        };
        assert!(binding(ahoi_api::BINDING_SECRET_TYPE, 1000));
        assert!(!binding(ahoi_api::BINDING_SECRET_TYPE, 1_000_000) && !binding("Opaque", 1000));
    }

    #[test]
    fn counts_matter_to_nobody() {
        let before = ready(server("pg-1"));
        let mut counted = before.clone();
        counted.status.as_mut().unwrap().databases = Some(7);
        assert_eq!(what_matters(&before), what_matters(&counted));
        let mut moved = before.clone();
        moved.spec.host = "other.example.com".into();
        let away = settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "away"));
        assert_ne!(what_matters(&before)[0], what_matters(&moved)[0]);
        assert_eq!(what_matters(&before)[0], what_matters(&away)[0]);
        assert_ne!(what_matters(&before)[1], what_matters(&away)[1]);
    }

    #[tokio::test]
    async fn a_server_that_goes_and_comes_wakes_only_those_that_wait_for_it() {
        let database = |name: &str| -> Database {
            serde_saphyr::from_str(&format!(
                "
                apiVersion: internal.example.com/v1
                kind: Database
                metadata: {{name: {name}, namespace: customer-{name}, uid: {name}, generation: 1}}
                spec: {{storage: 1gb}}
                status: {{server: pg-1, databaseName: c_3f2504e04f89}}
                "
            ))
            .unwrap()
        };
        let names = |refs: Vec<ObjectRef<Database>>| {
            let mut names: Vec<String> = refs.into_iter().map(|reference| reference.name).collect();
            names.sort();
            names
        };
        let (there, away) = (ready(server("pg-1")), settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "away")));
        let mut moved = there.clone();
        moved.spec.port = 5433;
        let platform = ApiServer::new().platform();
        let caches = Caches {
            servers: cache([]),
            databases: cache([ready(database("settled")), database("waiting")]),
            fleets: cache([]),
            pools: cache([]),
            bindings: Owned::new(&platform, &cache([])),
            secrets: cache([]),
        };
        let wake = caches.databases_of_server();
        let see = |server: &DatabaseServer| {
            changed(&caches.servers, server.clone());
            names(wake(server))
        };
        assert_eq!(see(&there), ["settled", "waiting"], "nothing is known yet");
        assert_eq!(see(&away), ["waiting"]);
        assert_eq!(see(&there), ["waiting"]);
        assert_eq!(see(&moved), ["settled", "waiting"]);
    }
}
