//! PgBouncer: a fleet's pods, its address, and how it is.

mod desired;
mod status;

use ahoi_api::{PgBouncer, PgBouncerStatus};
use ahoi_pgbouncer::{config, fleet};
use ahoi_reconcile::{
    Cache, Controller, Error, Object, ObjectRef, Owned, Platform, Progress, Reconciler, Runnable, watcher,
};
use clap::Args;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde_json::json;
use tracing::info;

use crate::shared::{FLEET_LABEL, Shared};

/// What the controller is told at its start.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Image with pgbouncer and its agent, for fleets that name none
    #[arg(long, env = "PGBOUNCER_IMAGE")]
    pgbouncer_image: Option<String>,
    /// The ServiceAccount of the agents, in the namespace of each fleet
    #[arg(long, env = "AGENT_SERVICE_ACCOUNT", default_value = "ahoi-pgbouncer-agent")]
    agent_service_account: String,
}

struct FleetController {
    platform: Platform,
    options: Options,
    shared: Shared,
    stateful_sets: Owned<StatefulSet>,
    services: Owned<Service>,
    budgets: Owned<PodDisruptionBudget>,
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
    };
    Controller::new(platform, &shared.fleets)
        .owns(&controller.stateful_sets)
        .owns(&controller.services)
        .owns(&controller.budgets)
        .watches(&shared.pods, |pod: &Pod| fleet_of(pod))
        // The agents' reports.
        .watches(&shared.fleets, |fleet: &PgBouncer| [ObjectRef::from_obj(fleet)])
        .run(controller)
}

impl Reconciler for FleetController {
    type Kind = PgBouncer;
    const NAME: &'static str = "pgbouncer";

    async fn reconcile(&self, fleet: &PgBouncer) -> Result<Progress<PgBouncerStatus>, Error> {
        let image = self.validate(fleet)?;
        self.stateful_sets
            .apply(fleet, desired::stateful_set(fleet, image, &self.options.agent_service_account))
            .await?;
        self.services.apply(fleet, desired::service(fleet)).await?;
        self.services.apply(fleet, desired::peers(fleet)).await?;
        self.budgets.apply(fleet, desired::budget(fleet)).await?;
        self.forget_former_processes(fleet).await?;
        Ok(Progress::new(status::status(fleet, &self.shared.serving(fleet))))
    }
}

impl FleetController {
    /// What a fleet needs before anything is made for it; the answer is its image.
    fn validate<'a>(&'a self, fleet: &'a PgBouncer) -> Result<&'a str, Error> {
        let problems = config::check_parameters(&fleet.spec.parameters);
        if !problems.is_empty() {
            return Err(Error::terminal("InvalidParameters", format!("spec.parameters: {}", problems.join("; "))));
        }
        fleet.spec.image.as_deref().or(self.options.pgbouncer_image.as_deref()).ok_or_else(|| {
            Error::structural(
                "NoImage",
                "spec.image is not set, and the controller was not told of an image (PGBOUNCER_IMAGE)",
            )
        })
    }

    /// Removes the reports of processes that the fleet no longer has. Each report is the field of an agent of its own, so
    /// it is taken away in that agent's name: what the others write at the same time is not touched.
    async fn forget_former_processes(&self, fleet: &PgBouncer) -> Result<(), Error> {
        let (name, namespace) = (fleet.name_any(), fleet.namespace().unwrap_or_default());
        for pod in status::former(fleet) {
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
    K: Object + Serialize + Resource<Scope = NamespaceResourceScope>,
{
    let cache: Cache<K> =
        platform.cache(Api::all(platform.client.clone()), watcher::Config::default().labels(FLEET_LABEL));
    Owned::new(platform, &cache)
}

fn fleet_of(pod: &Pod) -> Option<ObjectRef<PgBouncer>> {
    let name = pod.labels().get(FLEET_LABEL)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}
