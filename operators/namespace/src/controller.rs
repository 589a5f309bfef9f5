//! The reconcile of a CustomerNamespace.

use ahoi_api::{
    CUSTOMER_LABEL, CustomerNamespace, CustomerNamespaceStatus, DatabaseServer, NAMESPACE_OWNER_LABEL,
    NamespaceDeletionPolicy, finalizers, namespace_of,
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
use crate::network::{Servers, Surroundings};
use crate::ownership::{Claim, Reason, claim, customer_of, remaining};

/// The options of this operator alone.
#[derive(clap::Args, Debug)]
pub struct NamespaceOptions {
    /// Address ranges of PostgreSQL servers whose host is a name outside of the cluster, such as 192.0.2.0/24; customers with a
    /// database reach them on the servers' ports
    #[arg(long, env = "DATABASE_CIDRS", value_delimiter = ',')]
    database_cidrs: Vec<String>,
    /// Address ranges of DNS servers that are not the pods k8s-app=kube-dns in kube-system, such as a cache on each node
    #[arg(long, env = "DNS_CIDRS", value_delimiter = ',')]
    dns_cidrs: Vec<String>,
}

/// Reconciles CustomerNamespaces.
pub struct NamespaceController {
    platform: Platform,
    around: Surroundings,
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

        // What takes rights away comes first, and nothing that fails keeps the rest from being put right: a tenant can see
        // to it that one of them fails.
        let servers = Servers::of(self.servers.all().iter().map(AsRef::as_ref), &self.around.databases);
        let rails = guard_rails(owner, &self.around, &servers);
        let outcomes = [
            self.converge(&self.bindings, owner, BINDINGS, rails.bindings).await,
            self.close_default_account(&namespace.name_any()).await,
            self.converge(&self.policies, owner, POLICIES, rails.policies).await,
            self.converge(&self.quotas, owner, QUOTAS, rails.quota).await,
            self.converge(&self.limits, owner, LIMITS, rails.limits).await,
        ];
        first_error(outcomes)?;

        Ok(Progress::new(status(owner, &namespace)))
    }

    /// The policy of the object itself decides, and says Retain unless the Customer was deleted on purpose.
    async fn cleanup(&self, owner: &CustomerNamespace) -> Result<(), Error> {
        if owner.spec.deletion_policy == NamespaceDeletionPolicy::Retain {
            return Ok(());
        }
        let name = namespace_of(&owner.name_any());
        if let Some(live) = self.namespaces.cache().get(&name)
            && claim(owner, &live, |_| None) == Claim::Ours
            && live.metadata.deletion_timestamp.is_none()
        {
            self.namespaces.delete(&live).await?;
        }
        match self.namespaces.cache().get(&name) {
            Some(live) if claim(owner, &live, |_| None) == Claim::Ours => {
                Err(Error::waiting("NamespaceTerminating", remaining(&live)))
            }
            _ => Ok(()),
        }
    }
}

impl NamespaceController {
    /// Starts the caches and hands the controller to whoever runs it.
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
            // A namespace that stands in the way carries no label, and its going away is good news.
            .watches(controller.namespaces.cache(), |namespace: &Namespace| {
                let unmarked = !namespace.labels().contains_key(CUSTOMER_LABEL);
                customer_of(&namespace.name_any()).filter(|_| unmarked).map(ObjectRef::new)
            })
            .watches(&controller.servers, controller.isolated_from())
            .watches(&controller.accounts, |account: &ServiceAccount| {
                account.metadata.namespace.as_deref().and_then(customer_of).map(ObjectRef::new)
            })
            .run(controller)
    }

    fn new(platform: &Platform, options: NamespaceOptions) -> Self {
        let all = watcher::Config::default;
        let owners = platform.cache_packed(Api::<CustomerNamespace>::all(platform.client.clone()), all());
        // All of them: one that is not ours is to be seen before anything is written.
        let namespaces = platform.cache_packed(Api::<Namespace>::all(platform.client.clone()), all());
        let accounts = platform.cache_ours_trimmed(
            Api::all(platform.client.clone()),
            all().fields("metadata.name=default"),
            |_| true,
            |account: &mut ServiceAccount| {
                (account.metadata.annotations, account.metadata.labels) = (None, None);
                (account.secrets, account.image_pull_secrets) = (None, None);
            },
        );
        Self {
            platform: platform.clone(),
            around: Surroundings {
                fleets: platform.namespace().to_owned(),
                dns: options.dns_cidrs,
                databases: options.database_cidrs,
            },
            servers: platform.cache(Api::all(platform.client.clone()), all()),
            owners,
            namespaces: Owned::new(platform, &namespaces).linked_by(CUSTOMER_LABEL),
            accounts,
            quotas: guarded::<ResourceQuota>(platform, QUOTAS).recreated_if(|live, _| is_scoped(live)),
            limits: guarded(platform, LIMITS),
            // Another rule lets more through.
            policies: guarded::<NetworkPolicy>(platform, POLICIES)
                .overwritten_if(|live, desired| live.spec != desired.spec),
            // The role of a binding cannot be changed.
            bindings: guarded::<RoleBinding>(platform, BINDINGS)
                .recreated_if(|live, desired| live.role_ref != desired.role_ref),
        }
    }

    /// Names every owner when the DatabaseServers are elsewhere than before; their status changes more often.
    fn isolated_from(&self) -> impl Fn(&DatabaseServer) -> Vec<ObjectRef<CustomerNamespace>> + Send + Sync + use<> {
        let (owners, servers, ranges) = (self.owners.clone(), self.servers.clone(), self.around.databases.clone());
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

    /// Refuses a namespace that is somebody else's, and waits for one that is on its way out.
    fn check(&self, owner: &CustomerNamespace) -> Result<(), Error> {
        let name = namespace_of(&owner.name_any());
        let Some(live) = self.namespaces.cache().get(&name) else { return Ok(()) };
        let living = |uid: &str| {
            let named =
                |other: &CustomerNamespace| (other.metadata.uid.as_deref() == Some(uid)).then(|| other.name_any());
            self.owners.select(named).into_iter().next()
        };
        match claim(owner, &live, living) {
            Claim::Ours | Claim::Orphan if live.metadata.deletion_timestamp.is_some() => Err(Error::waiting(
                "NamespaceTerminating",
                format!("{}; it is made again when it is gone", remaining(&live)),
            )),
            Claim::Ours | Claim::Orphan => Ok(()),
            Claim::Foreign(Reason::OwnedBy(other)) => Err(Error::structural(
                "NameConflict",
                format!("namespace {name} belongs to CustomerNamespace {other}; it is left as it is"),
            )),
            Claim::Foreign(Reason::NotMarked) => Err(Error::structural(
                "NameConflict",
                format!(
                    "namespace {name} exists and was not made for this customer; it is left as it is. Delete it if nobody \
                     needs it, or hand it over with the labels {CUSTOMER_LABEL}={} and {NAMESPACE_OWNER_LABEL}={}",
                    owner.name_any(),
                    owner.metadata.uid.as_deref().unwrap_or_default(),
                ),
            )),
        }
    }

    /// Pods get no token of the default account unless they ask. By server-side apply, which creates or changes in one
    /// request: kube-controller-manager makes the same account, and either may come first.
    async fn close_default_account(&self, namespace: &str) -> Result<(), Error> {
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

    /// Makes the guard rails of one kind exactly these. One that fails does not keep the others from being put right.
    async fn converge<K: Object>(
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

    /// Removes a guard rail that is no longer wanted, whatever has become of the value of its label.
    async fn remove<K: Object>(&self, owned: &Owned<K>, owner: &CustomerNamespace, name: &str) -> Result<(), Error> {
        match owned.cache().get_in(&namespace_of(&owner.name_any()), name) {
            Some(rail) if rail.meta().deletion_timestamp.is_none() => owned.delete(&rail).await,
            _ => Ok(()),
        }
    }
}

/// Guard rails of one kind. They are linked by a label, so that they stay with a namespace that stays. Tenants may change
/// some of them, and so their labels: the names are ours in a namespace that is ours.
fn guarded<K: Object>(platform: &Platform, names: &'static [&'static str]) -> Owned<K> {
    let config = watcher::Config::default().labels(GUARD_RAIL_LABEL);
    let ours = move |head: &ObjectMeta| head.name.as_deref().is_some_and(|name| names.contains(&name));
    Owned::new(platform, &platform.cache_ours(Api::all(platform.client.clone()), config, ours))
        .linked_by(GUARD_RAIL_LABEL)
        .adopting_unowned()
        .recreated_if_refused()
}

/// Whose namespace a guard rail is in, if its label says something else: they are not told by the label.
fn mislabelled<K: Object>(rail: &K) -> Option<ObjectRef<CustomerNamespace>> {
    let customer = customer_of(rail.meta().namespace.as_deref()?)?;
    let labelled = rail.labels().get(GUARD_RAIL_LABEL).is_some_and(|label| label == customer);
    (!labelled).then(|| ObjectRef::new(customer))
}

/// A quota with a scope counts fewer pods, and scopes cannot be changed.
fn is_scoped(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some())
}

fn first_error(outcomes: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    outcomes.into_iter().collect()
}

/// Everything is applied; what is left to say is whether the namespace takes objects.
fn status(owner: &CustomerNamespace, namespace: &Namespace) -> CustomerNamespaceStatus {
    let name = namespace.name_any();
    let active = namespace.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Active");
    let verdict = if active {
        Verdict::ready(format!("namespace {name} and its guard rails are in place"))
    } else {
        Verdict::progressing("WaitingForNamespace", format!("namespace {name} is not active"))
    };
    let mut status = CustomerNamespaceStatus { namespace: Some(name), ..CustomerNamespaceStatus::default() };
    set_verdict(&mut status.conditions, owner.metadata.generation, verdict);
    status
}

#[cfg(test)]
mod tests;
