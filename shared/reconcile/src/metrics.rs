//! Metrics of the process. Labels are few and bounded: never an object's name, never an error's text.

use std::collections::BTreeMap;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use tower::{Layer, Service};

use crate::unready::Counts;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What the crate itself counts.
pub(crate) struct Metrics {
    pub(crate) registry: Mutex<Registry>,
    reconciles: Family<Labels<2>, Counter>,
    errors: Family<Labels<2>, Counter>,
    duration: Family<Labels<1>, Histogram>,
    in_flight: Family<Labels<1>, Gauge>,
    queued: Family<Labels<1>, Gauge>,
    pub(crate) leader: Gauge,
    pub(crate) partitions_held: Gauge,
    pub(crate) partition_takeovers: Family<Labels<1>, Counter>,
    unreadable: Family<[(&'static str, String); 1], Gauge>,
    first_list_overdue: Family<[(&'static str, String); 1], Gauge>,
    not_ready: Family<Labels<2>, Gauge>,
    longest_not_ready: Family<Labels<1>, Gauge>,
}

impl Metrics {
    pub(crate) fn new(requests: Requests) -> Self {
        let mut registry = Registry::with_prefix("ahoi");
        let to = &mut registry;
        // 1 ms to 65 s
        let duration: Family<_, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 9)));
        to.register("reconcile_duration_seconds", "Duration of reconciles", duration.clone());
        to.register("api_requests", "Requests to the API server", requests.0);
        Metrics {
            reconciles: metric(to, "reconciles", "Reconciles by outcome"),
            errors: metric(to, "reconcile_errors", "Failed reconciles by class of the error"),
            duration,
            in_flight: metric(to, "reconciles_in_flight", "Reconciles that are running"),
            queued: metric(to, "queue_depth", "Objects that are due and wait for a reconcile"),
            leader: metric(to, "leader", "1 while this process holds the Lease of the controller or of a partition"),
            partitions_held: metric(to, "partitions_held", "Partitions that this process holds"),
            partition_takeovers: metric(
                to,
                "partition_takeovers",
                "Partitions that this process took, by whether they were free or the Lease of their holder had expired",
            ),
            unreadable: metric(
                to,
                "unreadable_objects",
                "Objects of a kind that this release cannot decode and does not change",
            ),
            first_list_overdue: metric(
                to,
                "first_list_overdue",
                "1 while the first list of a kind is missing for more than 45 seconds",
            ),
            not_ready: metric(
                to,
                "objects_not_ready",
                "Objects whose condition Ready is False, by whether they are Stalled or Reconciling",
            ),
            longest_not_ready: metric(
                to,
                "longest_not_ready_seconds",
                "Seconds since Ready became False, of the object for which that is longest ago; 0 if all are ready",
            ),
            registry: Mutex::new(registry),
        }
    }

    pub(crate) fn begun(&self, controller: &'static str, still_queued: usize) {
        self.in_flight.get_or_create(&[("controller", controller)]).inc();
        let queued = i64::try_from(still_queued).unwrap_or(i64::MAX);
        self.queued.get_or_create(&[("controller", controller)]).set(queued);
    }

    pub(crate) fn ended(&self, controller: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&[("controller", controller), ("outcome", outcome)]).inc();
        self.duration.get_or_create(&[("controller", controller)]).observe(took.as_secs_f64());
        self.in_flight.get_or_create(&[("controller", controller)]).dec();
    }

    pub(crate) fn failed(&self, controller: &'static str, class: &'static str) {
        self.errors.get_or_create(&[("controller", controller), ("class", class)]).inc();
    }

    /// How many objects of each kind cannot be decoded, and whether its list is overdue.
    pub(crate) fn observe_caches(&self, kinds: BTreeMap<String, (usize, bool)>) {
        for (kind, (unreadable, overdue)) in kinds {
            let labels = [("kind", kind)];
            self.unreadable.get_or_create(&labels).set(i64::try_from(unreadable).unwrap_or(i64::MAX));
            self.first_list_overdue.get_or_create(&labels).set(i64::from(overdue));
        }
    }

    /// How many objects of a controller are not ready.
    pub(crate) fn observe_unready(&self, controller: &'static str, counts: Counts) {
        for (state, count) in [("stalled", counts.stalled), ("reconciling", counts.reconciling)] {
            self.not_ready.get_or_create(&[("controller", controller), ("state", state)]).set(count);
        }
        self.longest_not_ready.get_or_create(&[("controller", controller)]).set(counts.longest);
    }

    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

fn metric<M: Metric + Default + Clone>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// A tower layer that counts the client's requests by verb and status code.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Family<[(&'static str, String); 2], Counter>);

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    requests: Family<[(&'static str, String); 2], Counter>,
}

impl<S, Body, Answer> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Answer>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (verb, requests) = (verb(&request), self.requests.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            // 0: no answer at all
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            requests.get_or_create(&[("verb", verb.to_owned()), ("code", code.to_string())]).inc();
            answer
        })
    }
}

fn verb<Body>(request: &Request<Body>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    match request.method().as_str() {
        "GET" if query.contains("watch=true") => "watch",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    }
}
