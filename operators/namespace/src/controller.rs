//! The reconcile of a CustomerNamespace.

use ahoi_api::{
    CUSTOMER_LABEL, CustomerNamespace, CustomerNamespaceStatus, DatabaseServer, NAMESPACE_OWNER_LABEL,
    NamespaceDeletionPolicy, Reason, finalizers, namespace_of,
};
use ahoi_reconcile::conditions::{Verdict, set_verdict};
use ahoi_reconcile::{
    Cache, Controller, Error, Object, ObjectRef, Owned, Platform, Progress, Reconciler, Runnable, watcher,
};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::desired::{BINDINGS, LIMITS, POLICIES, QUOTAS, guard_rails, namespace};
use crate::guard_rail::GUARD_RAIL_LABEL;
use crate::network::{Endpoints, Servers};
use crate::ownership::{Mismatch, Ownership, customer_of, ownership, remaining};

/// Options of this controller.
#[derive(clap::Args, Debug)]
pub struct NamespaceOptions {
    /// Address ranges of PostgreSQL servers whose host name is outside of the cluster, such as 192.0.2.0/24. Customers with a
    /// database may connect to them on the ports of the servers
    #[arg(long, env = "DATABASE_CIDRS", value_delimiter = ',')]
    database_cidrs: Vec<String>,
    /// Address ranges of DNS servers other than the pods k8s-app=kube-dns in kube-system, such as a cache on each node
    #[arg(long, env = "DNS_CIDRS", value_delimiter = ',')]
    dns_cidrs: Vec<String>,
}

/// Reconciles CustomerNamespaces.
pub struct NamespaceController {
    platform: Platform,
    endpoints: Endpoints,
    servers: Cache<DatabaseServer>,
    owners: Cache<CustomerNamespace>,
    namespaces: Owned<Namespace>,
    accounts: Cache<ServiceAccount>,
    quotas: Owned<ResourceQuota>,
    limits: Owned<LimitRange>,
    policies: Owned<NetworkPolicy>,
    bindings: Owned<RoleBinding>,
}

impl Reconciler for NamespaceController {
    type Kind = CustomerNamespace;
    const NAME: &'static str = "namespace";
    const FINALIZER: Option<&'static str> = Some(finalizers::CUSTOMER_NAMESPACE);

    async fn reconcile(&self, owner: &CustomerNamespace) -> Result<Progress<CustomerNamespaceStatus>, Error> {
        self.check(owner)?;
        let namespace = self.namespaces.apply(owner, namespace(owner)).await?;

        // Rights are revoked first. A failure blocks nothing else, because a tenant could cause one.
        let servers = Servers::of(self.servers.all().iter().map(AsRef::as_ref), &self.endpoints.databases);
        let rails = guard_rails(owner, &self.endpoints, &servers);
        let outcomes = [
            self.apply(&self.bindings, owner, BINDINGS, rails.bindings).await,
            self.disable_default_token(&namespace.name_any()).await,
            self.apply(&self.policies, owner, POLICIES, rails.policies).await,
            self.apply(&self.quotas, owner, QUOTAS, rails.quota).await,
            self.apply(&self.limits, owner, LIMITS, rails.limits).await,
        ];
        first_error(outcomes)?;

        Ok(Progress::new(status(owner, &namespace)))
    }

    /// The policy is Retain unless the Customer was deleted.
    async fn cleanup(&self, owner: &CustomerNamespace) -> Result<(), Error> {
        if owner.spec.deletion_policy == NamespaceDeletionPolicy::Retain {
            return Ok(());
        }
        let name = namespace_of(&owner.name_any());
        let is_ours = |live: &Namespace| ownership(owner, live, |_| None) == Ownership::Ours;
        if let Some(live) = self.namespaces.cache().get(&name)
            && is_ours(&live)
            && live.metadata.deletion_timestamp.is_none()
        {
            self.namespaces.delete(&live).await?;
        }
        match self.namespaces.cache().get(&name) {
            Some(live) if is_ours(&live) => Err(Error::waiting(Reason::NamespaceTerminating, remaining(&live))),
            _ => Ok(()),
        }
    }
}

impl NamespaceController {
    /// Starts the caches, and returns the controller.
    pub fn start(platform: &Platform, options: NamespaceOptions) -> Runnable {
        let controller = Self::new(platform, options);
        Controller::new(platform, &controller.owners)
            .owns(&controller.namespaces)
            .owns(&controller.quotas)
            .owns(&controller.limits)
            .owns(&controller.policies)
            .owns(&controller.bindings)
            .watches(controller.quotas.cache(), mislabelled)
            .watches(controller.limits.cache(), mislabelled)
            .watches(controller.policies.cache(), mislabelled)
            .watches(controller.bindings.cache(), mislabelled)
            // A foreign namespace of the name has no label. Its deletion unblocks the reconcile.
            .watches(controller.namespaces.cache(), |namespace: &Namespace| {
                let unmarked = !namespace.labels().contains_key(CUSTOMER_LABEL);
                customer_of(&namespace.name_any()).filter(|_| unmarked).map(ObjectRef::new)
            })
            .watches(&controller.servers, controller.on_moved_server())
            .watches(&controller.accounts, |account: &ServiceAccount| {
                account.metadata.namespace.as_deref().and_then(customer_of).map(ObjectRef::new)
            })
            .run(controller)
    }

    fn new(platform: &Platform, options: NamespaceOptions) -> Self {
        let owners = platform.watch_all_packed::<CustomerNamespace>();
        // All namespaces, so that a foreign one is found before the first write.
        let namespaces = platform.watch_all_packed::<Namespace>();
        let accounts = platform.cache_ours_trimmed(
            Api::all(platform.client.clone()),
            watcher::Config::default().fields("metadata.name=default"),
            |_| true,
            |account: &mut ServiceAccount| {
                (account.metadata.annotations, account.metadata.labels) = (None, None);
                (account.secrets, account.image_pull_secrets) = (None, None);
            },
        );
        Self {
            platform: platform.clone(),
            endpoints: Endpoints {
                fleets: platform.namespace().to_owned(),
                dns: options.dns_cidrs,
                databases: options.database_cidrs,
            },
            servers: platform.watch_all(),
            owners,
            namespaces: Owned::new(platform, &namespaces).linked_by(CUSTOMER_LABEL),
            accounts,
            quotas: guarded::<ResourceQuota>(platform, QUOTAS).recreated_if(|live, _| is_scoped(live)),
            limits: guarded(platform, LIMITS),
            // An additional rule would allow more.
            policies: guarded::<NetworkPolicy>(platform, POLICIES)
                .overwritten_if(|live, desired| live.spec != desired.spec),
            // The role of a binding is immutable.
            bindings: guarded::<RoleBinding>(platform, BINDINGS)
                .recreated_if(|live, desired| live.role_ref != desired.role_ref),
        }
    }

    /// Triggers every owner when the location of a DatabaseServer changes, and not when its status does.
    fn on_moved_server(&self) -> impl Fn(&DatabaseServer) -> Vec<ObjectRef<CustomerNamespace>> + Send + Sync + use<> {
        let (owners, servers, ranges) = (self.owners.clone(), self.servers.clone(), self.endpoints.databases.clone());
        let known = Mutex::new(Servers::default());
        move |_| {
            let now = Servers::of(servers.all().iter().map(AsRef::as_ref), &ranges);
            let before = std::mem::replace(&mut *known.lock(), now.clone());
            if before == now {
                return Vec::new();
            }
            owners.select(|owner| Some(ObjectRef::new(&owner.name_any())))
        }
    }

    /// Fails if the namespace belongs to another owner, and waits while it is being deleted.
    fn check(&self, owner: &CustomerNamespace) -> Result<(), Error> {
        let name = namespace_of(&owner.name_any());
        let Some(live) = self.namespaces.cache().get(&name) else { return Ok(()) };
        let find_owner = |uid: &str| {
            let named =
                |other: &CustomerNamespace| (other.metadata.uid.as_deref() == Some(uid)).then(|| other.name_any());
            self.owners.select(named).into_iter().next()
        };
        match ownership(owner, &live, find_owner) {
            Ownership::Ours | Ownership::Orphaned if live.metadata.deletion_timestamp.is_some() => Err(Error::waiting(
                Reason::NamespaceTerminating,
                format!("{}; it will be created again when it no longer exists", remaining(&live)),
            )),
            Ownership::Ours | Ownership::Orphaned => Ok(()),
            Ownership::Foreign(Mismatch::OwnedBy(other)) => Err(Error::structural(
                Reason::NameConflict,
                format!(
                    "namespace {name} belongs to CustomerNamespace {other} and is left unchanged: delete one of the two"
                ),
            )),
            Ownership::Foreign(Mismatch::NotMarked) => Err(Error::structural(
                Reason::NameConflict,
                format!(
                    "namespace {name} exists, was not created for this customer and is left unchanged. Delete it if it is not \
                     needed, or hand it over with the labels {CUSTOMER_LABEL}={} and {NAMESPACE_OWNER_LABEL}={}",
                    owner.name_any(),
                    owner.metadata.uid.as_deref().unwrap_or_default(),
                ),
            )),
        }
    }

    /// Pods get no token of the default ServiceAccount unless they request one. Server-side apply creates or updates in one request:
    /// kube-controller-manager creates the same account, possibly first.
    async fn disable_default_token(&self, namespace: &str) -> Result<(), Error> {
        let account = self.accounts.get_in(namespace, "default");
        if account.is_some_and(|account| account.automount_service_account_token == Some(false)) {
            return Ok(());
        }
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default"},
            "automountServiceAccountToken": false,
        });
        self.platform.server_side_apply(&self.accounts, Some(namespace), "default", &account).await?;
        Ok(())
    }

    /// Applies the guard rails of one kind, and deletes obsolete ones. A failure of one does not block the others.
    async fn apply<K: Object>(
        &self,
        owned: &Owned<K>,
        owner: &CustomerNamespace,
        names: &[&str],
        desired: impl IntoIterator<Item = K>,
    ) -> Result<(), Error> {
        let desired: Vec<K> = desired.into_iter().collect();
        let mut outcomes = Vec::new();
        for name in names {
            if desired.iter().all(|rail| rail.name_any() != *name) {
                outcomes.push(self.remove(owned, owner, name).await);
            }
        }
        for rail in desired {
            outcomes.push(owned.apply(owner, rail).await.map(drop));
        }
        first_error(outcomes)
    }

    /// Deletes an obsolete guard rail, regardless of the value of its label.
    async fn remove<K: Object>(&self, owned: &Owned<K>, owner: &CustomerNamespace, name: &str) -> Result<(), Error> {
        match owned.cache().get_in(&namespace_of(&owner.name_any()), name) {
            Some(rail) if rail.meta().deletion_timestamp.is_none() => owned.delete(&rail).await,
            _ => Ok(()),
        }
    }
}

/// The guard rails of one kind. A label links them to their owner, so that they stay in a retained namespace. Tenants may change
/// the labels of some of them, so they are recognised by their names, which are reserved in a customer's namespace.
fn guarded<K: Object>(platform: &Platform, names: &'static [&'static str]) -> Owned<K> {
    let config = watcher::Config::default().labels(GUARD_RAIL_LABEL);
    let ours = move |head: &ObjectMeta| head.name.as_deref().is_some_and(|name| names.contains(&name));
    Owned::new(platform, &platform.cache_ours(Api::all(platform.client.clone()), config, ours))
        .linked_by(GUARD_RAIL_LABEL)
        .adopting_unowned()
        .recreated_if_refused()
}

/// The owner of the namespace of a guard rail, if the label names another one, which it would trigger instead.
fn mislabelled<K: Object>(rail: &K) -> Option<ObjectRef<CustomerNamespace>> {
    let customer = customer_of(rail.meta().namespace.as_deref()?)?;
    let labelled = rail.labels().get(GUARD_RAIL_LABEL).is_some_and(|label| label == customer);
    (!labelled).then(|| ObjectRef::new(customer))
}

/// A quota with a scope counts fewer pods, and scopes are immutable.
fn is_scoped(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some())
}

fn first_error(outcomes: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    outcomes.into_iter().collect()
}

/// The status when everything is applied: Ready if the namespace is active.
fn status(owner: &CustomerNamespace, namespace: &Namespace) -> CustomerNamespaceStatus {
    let name = namespace.name_any();
    let active = namespace.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Active");
    let verdict = if active {
        Verdict::ready(format!("applied namespace {name} and its guard rails"))
    } else {
        Verdict::progressing(Reason::WaitingForNamespace, format!("waiting for namespace {name} to become active"))
    };
    let mut status = CustomerNamespaceStatus { namespace: Some(name), ..CustomerNamespaceStatus::default() };
    set_verdict(&mut status.conditions, owner.metadata.generation, verdict);
    status
}

#[cfg(test)]
mod tests;
