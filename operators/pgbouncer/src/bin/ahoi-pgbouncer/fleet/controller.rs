//! The reconcile of a PgBouncer: validate → dereference → desired → apply → status.

use std::collections::BTreeMap;

use ahoi_api::{ConnectionPool, PgBouncer, PgBouncerStatus, Place, Reason};
use ahoi_pgbouncer::pool::place;
use ahoi_pgbouncer::{config, fleet};
use ahoi_reconcile::{
    Cache, Controller, Error, Object, ObjectRef, Owned, Platform, Progress, Reconciler, Runnable, is_controlled_by,
    watcher,
};
use clap::Args;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tracing::info;

use super::desired::{Desired, desired};
use super::{certificates, faults, status};
use crate::placement;
use crate::shared::{FLEET_LABEL, INSTANCE_LABEL, Shared};

/// Command line and environment of the controller.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Image with pgbouncer and its agent, for fleets without spec.image
    #[arg(long, env = "PGBOUNCER_IMAGE")]
    pub(super) pgbouncer_image: Option<String>,
    /// The ServiceAccount of the agents, in the namespace of each fleet
    #[arg(long, env = "AGENT_SERVICE_ACCOUNT", default_value = "ahoi-pgbouncer-agent")]
    pub(super) agent_service_account: String,
    /// Number of customers with metrics of their own in each pgbouncer process, 20 by default
    #[arg(long, env = "TOP_CUSTOMERS")]
    pub(super) top_customers: Option<usize>,
}

/// The controller of PgBouncers.
pub struct FleetController {
    pub(super) platform: Platform,
    pub(super) options: Options,
    pub(super) shared: Shared,
    pub(super) stateful_sets: Owned<StatefulSet>,
    pub(super) services: Owned<Service>,
    pub(super) budgets: Owned<PodDisruptionBudget>,
    pub(super) policies: Owned<NetworkPolicy>,
}

impl FleetController {
    /// Starts the caches and returns the controller, to be run.
    pub fn start(platform: &Platform, shared: &Shared, options: Options) -> Runnable {
        let controller = FleetController {
            platform: platform.clone(),
            options,
            shared: shared.clone(),
            stateful_sets: owned(platform),
            services: owned(platform),
            budgets: owned(platform),
            policies: owned(platform),
        };
        let fleets = shared.fleets.clone();
        Controller::new(platform, &shared.fleets)
            .owns(&controller.stateful_sets)
            .owns(&controller.services)
            .owns(&controller.budgets)
            .owns(&controller.policies)
            .watches(&shared.secrets, certificates::fleets_of_secret(shared))
            .watches(&shared.servers, certificates::fleets_of_server(shared))
            .watches(&shared.pods, |pod: &Pod| fleet_of(pod))
            .watches(&shared.pools, move |pool: &ConnectionPool| fleet_of_pool(&fleets, pool))
            // The agents' reports.
            .watches(&shared.fleets, |fleet: &PgBouncer| [ObjectRef::from_obj(fleet)])
            .run(controller)
    }
}

impl Reconciler for FleetController {
    type Kind = PgBouncer;
    const NAME: &'static str = "pgbouncer";

    async fn reconcile(&self, fleet: &PgBouncer) -> Result<Progress<PgBouncerStatus>, Error> {
        let image = self.validate(fleet)?;
        let pools = self.shared.pools_of(fleet);
        let running = placement::running(&fleet.spec, &pools);
        let desired = desired(fleet, running, image, &self.options.agent_service_account, self.options.top_customers);
        let refused = certificates::converge(&self.platform, &self.shared, fleet, running).await?;
        self.apply(fleet, desired).await?;
        self.remove_shards(fleet, running).await?;
        self.remove_former_reports(fleet, running).await?;
        let serving: Vec<_> = (0..running).flat_map(|shard| self.shared.serving(fleet, shard)).collect();
        let faults = faults::faults(fleet, &self.shared.pods_of(fleet, running));
        Ok(Progress::new(status::status(fleet, &serving, &pools, refused, faults)))
    }
}

impl FleetController {
    async fn apply(&self, fleet: &PgBouncer, desired: Desired) -> Result<(), Error> {
        self.policies.apply(fleet, desired.network_policy).await?;
        for shard in desired.shards {
            self.stateful_sets.apply(fleet, shard.stateful_set).await?;
            self.services.apply(fleet, shard.service).await?;
            self.services.apply(fleet, shard.peers).await?;
            self.budgets.apply(fleet, shard.budget).await?;
        }
        Ok(())
    }

    /// Checks the spec and returns the image of the fleet.
    fn validate<'a>(&'a self, fleet: &'a PgBouncer) -> Result<&'a str, Error> {
        let problems = config::check_parameters(&fleet.spec.parameters);
        if !problems.is_empty() {
            return Err(Error::terminal(Reason::InvalidParameter, format!("spec.parameters: {}", problems.join("; "))));
        }
        fleet.spec.image.as_deref().or(self.options.pgbouncer_image.as_deref()).ok_or_else(|| {
            Error::structural(
                Reason::NoImage,
                "spec.image is not set, and the controller has no default image. Set spec.image, or PGBOUNCER_IMAGE of the \
                 Deployment ahoi-pgbouncer",
            )
        })
    }

    /// Removes the shards that are not in the spec and have no pool.
    async fn remove_shards(&self, fleet: &PgBouncer, running: i32) -> Result<(), Error> {
        let name = fleet.name_any();
        let wanted: Vec<String> = (0..running).map(|shard| fleet::shard(&name, shard)).collect();
        let is_wanted =
            |labels: &BTreeMap<String, String>| labels.get(FLEET_LABEL).is_none_or(|of| wanted.contains(of));
        if self.stateful_sets.children(fleet).iter().all(|set| is_wanted(set.labels()))
            && self.services.children(fleet).iter().all(|service| is_wanted(service.labels()))
            && self.budgets.children(fleet).iter().all(|budget| is_wanted(budget.labels()))
        {
            return Ok(());
        }
        // An incomplete list of pools does not show which shards are empty.
        if !self.shared.pools.is_synced() {
            return Err(Error::waiting(Reason::CacheNotSynced, "the list of connectionpools is not complete"));
        }
        self.budgets.prune(fleet, |budget| is_wanted(budget.labels())).await?;
        self.services.prune(fleet, |service| is_wanted(service.labels())).await?;
        self.stateful_sets.prune(fleet, |set| is_wanted(set.labels())).await?;
        Ok(())
    }

    /// Removes the reports of processes that the fleet no longer has. Each agent owns the field with its report, so this acts
    /// as that agent: what other agents write at the same time stays.
    async fn remove_former_reports(&self, fleet: &PgBouncer, running: i32) -> Result<(), Error> {
        let (name, namespace) = (fleet.name_any(), fleet.namespace().unwrap_or_default());
        for pod in status::former(fleet, running) {
            if self.shared.pods.get_in(&namespace, pod).is_some() {
                continue;
            }
            info!(pod, "removing the report of a former process");
            let api: Api<PgBouncer> = Api::namespaced(self.platform.client.clone(), &namespace);
            let nothing = json!({
                "apiVersion": PgBouncer::api_version(&()),
                "kind": PgBouncer::kind(&()),
                "metadata": {"name": name, "uid": fleet.metadata.uid},
                "status": {},
            });
            let params = PatchParams::apply(&fleet::field_manager(pod)).force();
            api.patch_status(&name, &params, &Patch::Apply(nothing)).await?;
        }
        Ok(())
    }
}

fn owned<K>(platform: &Platform) -> Owned<K>
where
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    let config = watcher::Config::default().labels(FLEET_LABEL);
    let cache = platform.cache_ours(Api::all(platform.client.clone()), config, is_controlled_by::<PgBouncer>);
    Owned::new(platform, &cache)
}

fn fleet_of(pod: &Pod) -> Option<ObjectRef<PgBouncer>> {
    let name = pod.labels().get(INSTANCE_LABEL)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

/// A pool concerns its fleet if it keeps a shard running that is not in the spec, or frees capacity in one.
fn fleet_of_pool(fleets: &Cache<PgBouncer>, pool: &ConnectionPool) -> Option<ObjectRef<PgBouncer>> {
    let Place { fleet, shard } = place(pool);
    let known = fleets.get_in(&fleet.namespace, &fleet.name)?;
    let concerns = shard >= known.spec.shards || (known.spec.shards > 1 && pool.metadata.deletion_timestamp.is_some());
    concerns.then(|| ObjectRef::new(&fleet.name).within(&fleet.namespace))
}
