//! The partitions of a controller, and which of them this replica holds.
//!
//! A hash of its namespace assigns each object to a partition. Each partition has a Lease that names the replica that holds it;
//! the [coordinator] takes and releases them. The rest of the crate sees whether a reconcile may start, and holds a permit that
//! keeps the partition until the reconcile has ended.

pub(crate) mod coordinator;
pub(crate) mod fence;
mod hash;
mod leader;
mod share;
mod sightings;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

pub(crate) use fence::Fence;
pub use hash::partition_of;

/// The maximum of `--partitions`.
pub(crate) const MAX_PARTITIONS: u32 = 64;

/// The partitions of this process. Clones share their state.
#[derive(Clone)]
pub(crate) struct Partitions(Arc<Inner>);

struct Inner {
    count: u32,
    fence: Fence,
    held: Mutex<BTreeMap<u32, Tenure>>,
    listeners: Mutex<Vec<Listener>>,
}

type Listener = Box<dyn Fn(u32) + Send + Sync>;

/// A partition that this replica holds.
#[derive(Default)]
struct Tenure {
    /// No more reconciles start: it is going to be released.
    ending: bool,
    /// Reconciles that are running.
    running: usize,
}

impl Partitions {
    /// A single partition that is always held, for a process that is the only one.
    pub(crate) fn whole() -> Self {
        let held = Mutex::new([(0, Tenure::default())].into());
        let inner = Inner { count: 1, fence: Fence::open_for_ever(), held, listeners: Mutex::default() };
        Partitions(Arc::new(inner))
    }

    /// `count` partitions, none of which is held yet; 1 for a single leader.
    pub(crate) fn elected(count: u32) -> Self {
        Self::with_fence(count, Fence::closed())
    }

    pub(crate) fn with_fence(count: u32, fence: Fence) -> Self {
        let inner = Inner { count, fence, held: Mutex::default(), listeners: Mutex::default() };
        Partitions(Arc::new(inner))
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.count
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// Whether reconciles of objects in this partition may start.
    pub(crate) fn has(&self, partition: u32) -> bool {
        self.0.held.lock().get(&partition).is_some_and(|tenure| !tenure.ending)
    }

    /// A permit to reconcile an object of this partition, if reconciles may start.
    pub(crate) fn enter(&self, partition: u32) -> Option<Permit> {
        let mut held = self.0.held.lock();
        let tenure = held.get_mut(&partition).filter(|tenure| !tenure.ending && self.0.fence.is_open())?;
        tenure.running += 1;
        Some(Permit { partitions: self.clone(), partition })
    }

    /// Calls `listener` with each partition that this replica takes.
    pub(crate) fn on_gain(&self, listener: impl Fn(u32) + Send + Sync + 'static) {
        self.0.listeners.lock().push(Box::new(listener));
    }

    /// Allows reconciles to start. Triggers before this were dropped, so the listeners trigger every object, after the partition is
    /// held and not before.
    pub(crate) fn gain(&self, partition: u32) {
        self.0.held.lock().insert(partition, Tenure::default());
        self.0.listeners.lock().iter().for_each(|listener| listener(partition));
    }

    /// Lets no more reconciles start.
    pub(crate) fn end(&self, partition: u32) {
        if let Some(tenure) = self.0.held.lock().get_mut(&partition) {
            tenure.ending = true;
        }
    }

    /// Drops the partition if no reconcile runs and none can start.
    pub(crate) fn let_go(&self, partition: u32) -> bool {
        let mut held = self.0.held.lock();
        let over = held.get(&partition).is_none_or(|tenure| tenure.ending && tenure.running == 0);
        if over {
            held.remove(&partition);
        }
        over
    }

    /// The partitions that this replica holds, including those that are going to be released.
    pub(crate) fn held(&self) -> Vec<u32> {
        self.0.held.lock().keys().copied().collect()
    }
}

/// While it exists, its partition is not released.
pub(crate) struct Permit {
    partitions: Partitions,
    partition: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(tenure) = self.partitions.0.held.lock().get_mut(&self.partition) {
            tenure.running -= 1;
        }
    }
}
