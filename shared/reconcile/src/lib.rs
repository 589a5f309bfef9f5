//! What every controller of Ahoi shares: caches, the work queue, apply, status, finalizers, events, retries, leader election,
//! metrics and options. A new controller consists of its kind and its desired state.
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
//!         set_verdict(&mut status.conditions, greeting.metadata.generation, Verdict::ready("the card is up to date"));
//!         Ok(Progress::new(status))
//!     }
//! }
//!
//! /// The desired state: a pure function, tested without a cluster.
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
//! `examples/` has complete operators.
//!
//! # What a reconcile does
//!
//! 1. Adds [`Reconciler::FINALIZER`] if there is one and it is missing, and continues in the same reconcile.
//! 2. Calls [`Reconciler::reconcile`], which reads [`Cache`]s, computes the desired state and applies it through [`Owned`].
//! 3. Writes the status if it differs, with `observedGeneration`, and publishes an event if the object became Stalled or
//!    recovered.
//! 4. After an [`Error`]: sets the conditions from the error, keeps the rest of the status, and retries after the delay of
//!    [`requeue::after_error`].
//!
//! While an object is being deleted, [`Reconciler::cleanup`] is called instead, until it returns `Ok`.
//!
//! # When an object is reconciled again
//!
//! [`requeue`] has the delays after an error and the interval of the periodic reconcile. Everything else is an event, with two
//! exceptions: a reconciler can ask for an earlier reconcile with [`Progress::requeue_in`], for what no watch reports, and
//! [`StatusThrottle`] does so for a status that it withholds.
//!
//! # What it costs
//!
//! The API server is the bottleneck of a busy cluster, so a reconcile that changes nothing sends nothing: reads come from
//! caches, objects that are as desired are not written, and caches remember our own writes until the watch confirms them. An
//! object costs the creation of its children and one status. The events of a fan-out cause one reconcile.
//!
//! # Which error
//!
//! | error | who can resolve it | conditions | next reconcile |
//! |---|---|---|---|
//! | [`Error::Waiting`] | another controller | Reconciling | on its event, within 30 s |
//! | [`Error::Terminal`] | the author of the spec | Stalled | 30 min |
//! | [`Error::Structural`] | a person, by changing another object | Stalled | 5 min |
//! | [`Error::Conflict`] | a retry | unchanged | 50 to 250 ms, growing |
//! | transient: 5xx, 429, no connection, [`Error::Timeout`], [`Error::Other`] | a retry | Reconciling, from the second failure | 1 s, 2 s, 4 s … 5 min |
//!
//! # Permissions
//!
//! Besides the kinds an operator works with: `get`, `create`, `update` of `leases.coordination.k8s.io` in its own namespace,
//! with `--partitions` also `list` and `delete`; `create`, `patch` of `events.events.k8s.io` everywhere; `patch` of the status
//! subresource and, with a finalizer, of the objects of its own kind.
//!
//! # Several replicas
//!
//! With `--partitions=N`, objects are divided by namespace (cluster-scoped ones by name) into N partitions, which the replicas
//! share. A replica reconciles only objects in its own partitions. Its caches hold all objects, and see the writes of other
//! replicas through the watch. A replica that takes a partition waits two seconds for the last writes of the former holder, and
//! then reconciles each object in it. Whatever a reconciler keeps in memory exists in one replica only.
//!
//! # Rules that the types do not enforce
//!
//! - Messages are stable: no counters of attempts, no times. Each change of a message is a write.
//! - Requests that do not go through [`Owned`] or [`Platform::write_status`] are unknown to the caches until the watch
//!   delivers them.
//! - Delete data only if the object's own policy says so and the object itself is being deleted.
//!
//! [`why_not_kube_controller`] compares this crate with libraries, and has the measurements.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod age;
mod attempt;
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
#[doc = include_str!("../docs/why-not-kube-controller.md")]
pub mod why_not_kube_controller {}
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
