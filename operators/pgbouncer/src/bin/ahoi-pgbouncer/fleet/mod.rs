//! PgBouncer: a fleet's pods, its address, and how it is.

mod certificates;
mod desired;
mod faults;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ahoi_api::{ConnectionPool, PgBouncer, PgBouncerStatus, Place};
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

use crate::placement;
use crate::shared::{FLEET_LABEL, INSTANCE_LABEL, Shared};

/// What the controller is told at its start.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Image with pgbouncer and its agent, for fleets that name none
    #[arg(long, env = "PGBOUNCER_IMAGE")]
    pgbouncer_image: Option<String>,
    /// The ServiceAccount of the agents, in the namespace of each fleet
    #[arg(long, env = "AGENT_SERVICE_ACCOUNT", default_value = "ahoi-pgbouncer-agent")]
    agent_service_account: String,
    /// How many customers have metrics of their own in each pooler; 20 where this says nothing
    #[arg(long, env = "TOP_CUSTOMERS")]
    top_customers: Option<usize>,
}

struct FleetController {
    platform: Platform,
    options: Options,
    shared: Shared,
    stateful_sets: Owned<StatefulSet>,
    services: Owned<Service>,
    budgets: Owned<PodDisruptionBudget>,
    policies: Owned<NetworkPolicy>,
}

/// Starts the caches; what comes back is to be run.
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

impl Reconciler for FleetController {
    type Kind = PgBouncer;
    const NAME: &'static str = "pgbouncer";

    async fn reconcile(&self, fleet: &PgBouncer) -> Result<Progress<PgBouncerStatus>, Error> {
        let image = self.validate(fleet)?;
        let pools = self.shared.pools_of(fleet);
        let running = placement::running(&fleet.spec, &pools);
        let trouble = certificates::converge(&self.platform, &self.shared, fleet, running).await?;
        self.policies.apply(fleet, desired::network_policy(fleet)).await?;
        for shard in 0..running {
            let service_account = &self.options.agent_service_account;
            let mut stateful_set = desired::stateful_set(fleet, shard, image, service_account);
            if let Some(top) = self.options.top_customers {
                desired::tell_agents(&mut stateful_set, "TOP_CUSTOMERS", &top.to_string());
            }
            self.stateful_sets.apply(fleet, stateful_set).await?;
            self.services.apply(fleet, desired::service(fleet, shard)).await?;
            self.services.apply(fleet, desired::peers(fleet, shard)).await?;
            self.budgets.apply(fleet, desired::budget(fleet, shard)).await?;
        }
        self.remove_shards(fleet, running).await?;
        self.forget_former_processes(fleet, running).await?;
        let serving: Vec<_> = (0..running).flat_map(|shard| self.shared.serving(fleet, shard)).collect();
        let faults = faults::faults(fleet, &self.shared.pods_of(fleet, running));
        Ok(Progress::new(status::status(fleet, &serving, &pools, trouble, faults)))
    }
}

impl FleetController {
    /// What a fleet needs before anything is made for it; the answer is its image.
    fn validate<'a>(&'a self, fleet: &'a PgBouncer) -> Result<&'a str, Error> {
        let problems = config::check_parameters(&fleet.spec.parameters);
        if !problems.is_empty() {
            return Err(Error::terminal("InvalidParameter", format!("spec.parameters: {}", problems.join("; "))));
        }
        fleet.spec.image.as_deref().or(self.options.pgbouncer_image.as_deref()).ok_or_else(|| {
            Error::structural(
                "NoImage",
                "spec.image is not set, and the controller was not told of an image (PGBOUNCER_IMAGE)",
            )
        })
    }

    /// Removes the shards that nobody wants and in which there is no pool.
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
        // Who does not know every pool does not know which shards are empty.
        if !self.shared.pools.is_synced() {
            return Err(Error::waiting("CacheNotSynced", "the list of connectionpools is not complete"));
        }
        self.budgets.prune(fleet, |budget| is_wanted(budget.labels())).await?;
        self.services.prune(fleet, |service| is_wanted(service.labels())).await?;
        self.stateful_sets.prune(fleet, |set| is_wanted(set.labels())).await?;
        Ok(())
    }

    /// Removes the reports of processes that the fleet no longer has. Each report is the field of an agent of its own, so
    /// it is taken away in that agent's name: what the others write at the same time is not touched.
    async fn forget_former_processes(&self, fleet: &PgBouncer, running: i32) -> Result<(), Error> {
        let (name, namespace) = (fleet.name_any(), fleet.namespace().unwrap_or_default());
        for pod in status::former(fleet, running) {
            if self.shared.pods.get_in(&namespace, pod).is_some() {
                continue;
            }
            info!(pod, "forgetting the report of a process that is no more");
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

/// A pool concerns its fleet when it keeps a shard running that is to go, or makes room in one.
fn fleet_of_pool(fleets: &Cache<PgBouncer>, pool: &ConnectionPool) -> Option<ObjectRef<PgBouncer>> {
    let Place { fleet, shard } = place(pool);
    let known = fleets.get_in(&fleet.namespace, &fleet.name)?;
    let concerns = shard >= known.spec.shards || (known.spec.shards > 1 && pool.metadata.deletion_timestamp.is_some());
    concerns.then(|| ObjectRef::new(&fleet.name).within(&fleet.namespace))
}
