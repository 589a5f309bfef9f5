//! Until when a process may write, on the clock of its own machine.
//!
//! Others take a replica's partitions 15 seconds after they last observed a renewal of its Lease. A replica counts its own 10
//! seconds from before it sent the renewal, so it stops earlier, whether answers arrive or not. Requests that it had sent by then
//! have 5 seconds to arrive.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::BoxError;
use tower::filter::Predicate;

/// Until when this process may write. Clones share their state. As a filter of the client's requests, it refuses writes after
/// that: a process that was suspended continues in the middle of a reconcile.
#[derive(Clone, Debug)]
pub(crate) struct Fence(Arc<Mutex<Until>>);

#[derive(Clone, Copy, Debug)]
enum Until {
    Always,
    Never,
    Deadline(Instant),
}

impl Fence {
    /// For a process that is the only one.
    pub(crate) fn open_for_ever() -> Self {
        Fence(Arc::new(Mutex::new(Until::Always)))
    }

    /// Closed until the first call of [`Fence::extend`].
    pub(crate) fn closed() -> Self {
        Fence(Arc::new(Mutex::new(Until::Never)))
    }

    /// Never to an earlier time, and not after it has fallen: only a new process may write again.
    pub(crate) fn extend(&self, deadline: Instant) {
        let mut until = self.0.lock();
        match *until {
            Until::Never => *until = Until::Deadline(deadline),
            Until::Deadline(now) if Instant::now() < now && now < deadline => *until = Until::Deadline(deadline),
            _ => {}
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        match *self.0.lock() {
            Until::Always => true,
            Until::Never => false,
            Until::Deadline(deadline) => Instant::now() < deadline,
        }
    }

    /// Whether it was open and has closed.
    pub(crate) fn has_fallen(&self) -> bool {
        matches!(*self.0.lock(), Until::Deadline(deadline) if Instant::now() >= deadline)
    }

    /// Returns when it has fallen.
    pub(crate) async fn fallen(&self) {
        while !self.has_fallen() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl<B> Predicate<Request<B>> for Fence {
    type Request = Request<B>;

    fn check(&mut self, request: Request<B>) -> Result<Request<B>, BoxError> {
        let is_lease = request.uri().path().starts_with("/apis/coordination.k8s.io/");
        if request.method() == Method::GET || is_lease || self.is_open() {
            return Ok(request);
        }
        Err("this process must not write any more: its Lease was not renewed in time".into())
    }
}

#[cfg(test)]
mod tests {
    use tower::filter::FilterLayer;
    use tower::{Layer, Service};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fence_falls_by_itself_and_stays_closed() {
        let fence = Fence::closed();
        assert!(!fence.is_open() && !fence.has_fallen());
        let start = Instant::now();
        fence.extend(start + Duration::from_secs(10));
        fence.extend(start + Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(fence.is_open());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!fence.is_open() && fence.has_fallen());
        fence.extend(start + Duration::from_secs(100));
        assert!(!fence.is_open(), "a renewal that comes too late changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_fence_allows_reads_and_leases_only() {
        let fence = Fence::closed();
        let server = tower::service_fn(async |_: Request<()>| Ok::<_, BoxError>(()));
        let mut client = FilterLayer::new(fence.clone()).layer(server);
        let mut may = async |method: &str, path: &str| {
            client.call(Request::builder().method(method).uri(path).body(()).unwrap()).await.is_ok()
        };
        let (lease, pod) = ("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "/api/v1/namespaces/a/pods/b");
        assert!(may("GET", pod).await && may("PUT", lease).await);
        assert!(!may("PATCH", pod).await && !may("DELETE", pod).await);
        fence.extend(Instant::now() + Duration::from_secs(1));
        assert!(may("PATCH", pod).await);
    }
}
