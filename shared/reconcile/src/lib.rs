//! Everything that is the same for every controller, so that a new one is its kind, its wishes and little else.
//!
//! # A controller
//!
//! ```no_run
//! use ahoi_reconcile::conditions::{Condition, set_verdict};
//! use ahoi_reconcile::{
//!     Controller, Error, Owned, Platform, Progress, Reconciler, Runnable, Verdict, conditioned,
//! };
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::CustomResource;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(CustomResource, Serialize, Deserialize, Clone, Debug, JsonSchema)]
//! #[kube(group = "example.com", version = "v1", kind = "Greeting", namespaced, status = "GreetingStatus")]
//! struct GreetingSpec {
//!     text: String,
//! }
//!
//! #[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
//! #[serde(rename_all = "camelCase")]
//! struct GreetingStatus {
//!     observed_generation: Option<i64>,
//!     #[serde(default)]
//!     conditions: Vec<Condition>,
//! }
//!
//! conditioned!(Greeting: GreetingStatus);
//!
//! struct Greeter {
//!     cards: Owned<ConfigMap>,
//! }
//!
//! impl Reconciler for Greeter {
//!     type Kind = Greeting;
//!     const NAME: &'static str = "greeting";
//!
//!     async fn reconcile(&self, greeting: &Greeting) -> Result<Progress<GreetingStatus>, Error> {
//!         if greeting.spec.text.is_empty() {
//!             return Err(Error::terminal("NoText", "spec.text is empty"));
//!         }
//!         self.cards.apply(greeting, card(greeting)).await?;
//!         let mut status = greeting.status.clone().unwrap_or_default();
//!         set_verdict(&mut status.conditions, greeting.metadata.generation, Verdict::ready("said"));
//!         Ok(Progress::new(status))
//!     }
//! }
//!
//! /// What is desired: pure, and so tested without a cluster.
//! fn card(greeting: &Greeting) -> ConfigMap {
//!     let data = [("text".to_owned(), greeting.spec.text.clone())];
//!     let mut card = ConfigMap { data: Some(data.into()), ..ConfigMap::default() };
//!     card.metadata.name = greeting.metadata.name.clone();
//!     card
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     ahoi_reconcile::run("greeter", async |platform: Platform| -> anyhow::Result<Vec<Runnable>> {
//!         let greetings = platform.watch_all::<Greeting>();
//!         let cards = platform.watch_all::<ConfigMap>();
//!         let cards = Owned::new(&platform, &cards);
//!         Ok(vec![Controller::new(&platform, &greetings).owns(&cards).run(Greeter { cards })])
//!     })
//!     .await
//! }
//! ```
//!
//! Whole operators of this kind are in `examples/`.
//!
//! # What a pass does
//!
//! 1. Adds [`Reconciler::FINALIZER`] if there is one and it is missing, and goes on in the same pass.
//! 2. Calls [`Reconciler::reconcile`], which reads [`Cache`]s, works out what should be, and applies it through [`Owned`].
//! 3. Writes the status if it differs, with `observedGeneration`; publishes an event if the object has become ready or
//!    stalled.
//! 4. After an [`Error`]: keeps the rest of the status and sets its conditions from the error; looks again when
//!    [`requeue::after_error`] says so. There is no other place where a delay is chosen.
//!
//! An object that is being deleted gets [`Reconciler::cleanup`] instead, until that says `Ok`.
//!
//! # What it costs
//!
//! The API server is the bottleneck of any busy cluster, so a pass that changes nothing sends nothing: reads come from
//! caches, writes are left out when the object is as desired, and caches remember our own writes until the watch confirms
//! them. An object costs the creation of its children and one status. The events of a fan-out become one pass.
//!
//! # Which error
//!
//! | | who can help | conditions | next look |
//! |---|---|---|---|
//! | [`Error::Waiting`] | another controller | Reconciling | when it has; 30 s at the latest |
//! | [`Error::Terminal`] | the author of the spec | Stalled | 30 min |
//! | [`Error::Structural`] | somebody, elsewhere | Stalled | 5 min |
//! | [`Error::Conflict`] | nobody needs to | as they were | 50 to 250 ms, growing |
//! | transient: 5xx, 429, no connection, [`Error::Timeout`], [`Error::Other`] | nobody needs to | Reconciling, from the second time | 1 s, 2 s, 4 s … 5 min |
//!
//! # What it must be allowed
//!
//! Besides the kinds an operator works with: `get`, `create`, `update` of `leases.coordination.k8s.io` in its own namespace,
//! with `--partitions` also `list` and `delete`;
//! `create`, `patch` of `events.events.k8s.io` everywhere; `patch` of the status subresource and, with a finalizer, of the
//! objects of its own kind.
//!
//! # Several replicas at work
//!
//! With `--partitions=N` the objects are divided by namespace (cluster-scoped ones by name) into N partitions, which the replicas
//! share; each looks only at objects of its own. All of them have everything in their caches, and learn what others write from
//! their watches, as from anybody else. Whoever takes a partition waits two seconds before the first pass, for what the one before wrote
//! last to arrive, and looks at everybody on it. What a reconciler keeps in memory besides is one replica's.
//!
//! # Rules that the types do not enforce
//!
//! - Messages are stable: no counters of attempts, no times. Each change of a message is a write.
//! - Requests that do not go through [`Owned`] or [`Platform::write_status`] are unknown to the caches until the watch
//!   brings them.
//! - Destroy data only on positive evidence: the object's own policy says so and the object itself is being deleted.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod age;
mod bounded;
mod cache;
pub mod conditions;
mod controller;
mod decode;
mod desired;
mod error;
mod http;
mod logging;
mod metrics;
mod objects;
mod owned;
mod partitions;
mod pass;
mod platform;
pub mod pods;
mod queue;
mod reconciler;
mod repairs;
pub mod requeue;
mod run;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
mod throttle;
mod unready;
mod workqueue;

pub use age::age;
pub use ahoi_api::{Conditioned, GROUP, Object, conditioned};
pub use bounded::BoundedGauges;
pub use cache::Cache;
pub use conditions::{Verdict, is_ready, not_ready_message};
pub use controller::{Controller, Runnable, Trigger};
pub use desired::{APPLIED_HASH, APPLIED_KEYS};
pub use error::{Class, Error};
pub use kube::runtime::reflector::ObjectRef;
pub use kube::runtime::watcher;
pub use owned::{Owned, Ownership, is_controlled_by};
pub use partitions::partition_of;
pub use platform::{EventType, Platform};
pub use reconciler::{PlainReconciler, Progress, Reconciler, Transition};
pub use run::{run, run_with};
pub use throttle::StatusThrottle;

#[cfg(test)]
mod tests;
