//! The work of a process, divided into partitions, and which of them this replica may work on.
//!
//! A partition is a part of the customers, by a hash. For each there is a Lease that names the replica that works on it; the
//! [coordinator] is who takes them and gives them back. Here is what the rest of the crate sees of
//! that: whether a pass may begin, and a permit that keeps the partition from being given away until the pass is over.

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

/// The most partitions that `--partitions` takes. More than replicas can ever make sense of.
pub(crate) const MOST: u32 = 64;

/// The partitions of this process. Clones are the same.
#[derive(Clone)]
pub(crate) struct Partitions(Arc<Inner>);

struct Inner {
    count: u32,
    fence: Fence,
    held: Mutex<BTreeMap<u32, Tenure>>,
    listeners: Mutex<Vec<Listener>>,
}

type Listener = Box<dyn Fn(u32) + Send + Sync>;

/// A partition while this replica has it.
#[derive(Default)]
struct Tenure {
    /// No more passes begin: it is to be given away.
    ending: bool,
    /// Passes that run.
    passes: usize,
}

impl Partitions {
    /// All the work, for a process that is the only one.
    pub(crate) fn whole() -> Self {
        let held = Mutex::new([(0, Tenure::default())].into());
        let inner = Inner { count: 1, fence: Fence::open_for_ever(), held, listeners: Mutex::default() };
        Partitions(Arc::new(inner))
    }

    /// So many, none of them ours yet; 1 for a single leader.
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

    /// Whether somebody who is woken now is ours to look at.
    pub(crate) fn has(&self, partition: u32) -> bool {
        self.0.held.lock().get(&partition).is_some_and(|tenure| !tenure.ending)
    }

    /// A permit to work on an object of this partition, if there may be one now.
    pub(crate) fn enter(&self, partition: u32) -> Option<Permit> {
        let mut held = self.0.held.lock();
        let tenure = held.get_mut(&partition).filter(|tenure| !tenure.ending && self.0.fence.is_open())?;
        tenure.passes += 1;
        Some(Permit { partitions: self.clone(), partition })
    }

    /// Calls `listener` with each partition that becomes ours, when it is.
    pub(crate) fn on_gain(&self, listener: impl Fn(u32) + Send + Sync + 'static) {
        self.0.listeners.lock().push(Box::new(listener));
    }

    /// From now on passes may begin. Whoever was woken before was not ours and was passed over: so everybody is
    /// woken, and after the partition is ours, not before.
    pub(crate) fn gain(&self, partition: u32) {
        self.0.held.lock().insert(partition, Tenure::default());
        self.0.listeners.lock().iter().for_each(|listener| listener(partition));
    }

    /// From now on no pass begins.
    pub(crate) fn end(&self, partition: u32) {
        if let Some(tenure) = self.0.held.lock().get_mut(&partition) {
            tenure.ending = true;
        }
    }

    /// Lets go of the partition, if no pass runs on it and none can begin.
    pub(crate) fn let_go(&self, partition: u32) -> bool {
        let mut held = self.0.held.lock();
        let over = held.get(&partition).is_none_or(|tenure| tenure.ending && tenure.passes == 0);
        if over {
            held.remove(&partition);
        }
        over
    }

    /// The partitions that are ours, those that are to be given away included.
    pub(crate) fn held(&self) -> Vec<u32> {
        self.0.held.lock().keys().copied().collect()
    }
}

/// While it lives, its partition is not given away.
pub(crate) struct Permit {
    partitions: Partitions,
    partition: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(tenure) = self.partitions.0.held.lock().get_mut(&self.partition) {
            tenure.passes -= 1;
        }
    }
}
