//! Limits repairs of a child: the first few happen at once, later ones after growing delays.
//!
//! A repair writes what was written before. A client that undoes each of them, such as another controller of the same object,
//! costs two writes each time; the delays limit that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::{Hash, Key};

/// Repairs in a row that happen at once.
const AT_ONCE: u32 = 5;
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(300);
/// A child that needs no repair for this long, or for twice its last delay, starts again without a delay.
const CALM: Duration = Duration::from_secs(60);

/// Recent writes, by child.
#[derive(Default)]
pub(crate) struct Repairs(Mutex<Written>);

#[derive(Default)]
struct Written {
    children: HashMap<Key, Child>,
    cleaned: Option<Instant>,
}

struct Child {
    hash: Hash,
    at: Instant,
    in_a_row: u32,
}

impl Child {
    fn delay(&self) -> Duration {
        match self.in_a_row.checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => Duration::from_secs(1 << more.min(9)).min(LONGEST),
        }
    }

    fn is_calm(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > CALM.max(self.delay() * 2)
    }
}

impl Repairs {
    /// Whether the child may be written now with the desired state of this hash. If so, it counts as written.
    pub(crate) fn admit(&self, key: &Key, hash: &Hash, now: Instant) -> bool {
        let mut written = self.0.lock();
        if written.cleaned.is_none_or(|cleaned| now.saturating_duration_since(cleaned) > CALM) {
            written.children.retain(|_, child| !child.is_calm(now));
            written.cleaned = Some(now);
        }
        let Some(child) = written.children.get_mut(key).filter(|child| child.hash == *hash && !child.is_calm(now))
        else {
            written.children.insert(key.clone(), Child { hash: hash.clone(), at: now, in_a_row: 0 });
            return true;
        };
        if now.saturating_duration_since(child.at) < child.delay() {
            return false;
        }
        child.at = now;
        child.in_a_row = child.in_a_row.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_slow_down_and_a_change_is_no_repair() {
        let (repairs, key, start) = (Repairs::default(), Key::new(Some("a"), "b"), Instant::now());
        let hash = "one".to_owned();
        // Undone each tenth of a second for an hour.
        let tenths = |tenths: u64| start + Duration::from_millis(tenths * 100);
        let admitted: Vec<u64> = (0..36_000).filter(|time| repairs.admit(&key, &hash, tenths(*time))).collect();
        assert_eq!(admitted[..6], [0, 1, 2, 3, 4, 5]);
        assert!(admitted.len() < 30, "{} writes in an hour", admitted.len());
        let last = admitted.last().unwrap();
        assert!(repairs.admit(&key, &"two".to_owned(), tenths(last + 1)), "another desired state is no repair");
        assert!(repairs.admit(&Key::new(Some("a"), "c"), &hash, tenths(last + 1)), "another child is not concerned");
    }

    #[test]
    fn a_child_without_repairs_starts_again_and_is_forgotten() {
        let (repairs, key, start) = (Repairs::default(), Key::new(Some("a"), "b"), Instant::now());
        let hash = "one".to_owned();
        (0..9).for_each(|second| _ = repairs.admit(&key, &hash, start + Duration::from_secs(second)));
        let later = start + Duration::from_secs(1000);
        assert!((0..5).all(|_| repairs.admit(&key, &hash, later)));
        repairs.admit(&Key::new(None, "c"), &hash, later + Duration::from_secs(1000));
        assert_eq!(repairs.0.lock().children.len(), 1);
    }
}
