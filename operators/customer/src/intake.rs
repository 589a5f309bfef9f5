//! How many new customers are being made at once.
//!
//! The first link of a customer's chain is the cheapest: of a thousand customers that arrive together each would be begun within
//! seconds, wait for a minute for the links behind it, and be told about meanwhile. A few at a time are made as fast, each of
//! them is ready soon after it was begun, and one that waits for its turn costs nothing. What makes one wait later, such as
//! pods that start, keeps nobody else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use ahoi_api::Customer;
use ahoi_reconcile::ObjectRef;
use kube::ResourceExt;
use parking_lot::Mutex;

/// More than the API server can do at once, and few enough to be made within seconds.
const AT_ONCE: usize = 32;
/// One that takes longer has its reasons, and they are not the others'.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Lets new customers in.
#[derive(Default)]
pub struct Intake(Mutex<State>);

#[derive(Default)]
struct State {
    /// Since when those are made that have been let in, by uid.
    begun: HashMap<String, Instant>,
    /// Whose turn it is next. Who is gone meanwhile is woken for nothing, once.
    waiting: VecDeque<(String, ObjectRef<Customer>)>,
    /// Those of them that have not been let in since.
    known: HashSet<String>,
}

impl Intake {
    /// Whether a new customer may be begun. If not, it is to ask again when its turn comes ([`done`](Self::done) tells), or
    /// after [`PATIENCE`].
    pub fn admits(&self, customer: &Customer, now: Instant) -> bool {
        let state = &mut *self.0.lock();
        let uid = customer.uid().unwrap_or_default();
        state.begun.retain(|_, since| now.duration_since(*since) < PATIENCE);
        if state.begun.len() < AT_ONCE || state.begun.contains_key(&uid) {
            state.known.remove(&uid);
            // One whose making fails again and again is not begun anew each time.
            state.begun.entry(uid).or_insert(now);
            return true;
        }
        if state.known.insert(uid.clone()) {
            state.waiting.push_back((uid, ObjectRef::from_obj(customer)));
        }
        false
    }

    /// The customer is made, or waits for something else. The answer is whose turn it is now.
    pub fn done(&self, customer: &Customer) -> Option<ObjectRef<Customer>> {
        let state = &mut *self.0.lock();
        state.begun.remove(&customer.uid()?)?;
        while let Some((uid, next)) = state.waiting.pop_front() {
            if state.known.remove(&uid) {
                return Some(next);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(number: usize) -> Customer {
        let mut customer = Customer::new(&format!("c{number}"), ahoi_api::CustomerSpec::default());
        customer.metadata.uid = Some(format!("uid-{number}"));
        customer
    }

    fn full(now: Instant) -> Intake {
        let intake = Intake::default();
        assert!((0..AT_ONCE).all(|number| intake.admits(&customer(number), now)));
        intake
    }

    #[test]
    fn who_is_done_makes_room_for_who_has_waited_longest() {
        let now = Instant::now();
        let intake = full(now);
        for number in [100, 101, 100] {
            assert!(!intake.admits(&customer(number), now));
        }
        assert!(intake.admits(&customer(0), now), "it is being made already");
        assert_eq!(intake.done(&customer(0)).map(|next| next.name), Some("c100".into()));
        assert_eq!(intake.done(&customer(0)), None, "it was done already");
        assert!(intake.admits(&customer(100), now));
        assert!(!intake.admits(&customer(102), now));
        assert_eq!(intake.done(&customer(100)).map(|next| next.name), Some("c101".into()), "each waits once");
    }

    #[test]
    fn who_takes_long_keeps_nobody() {
        let now = Instant::now();
        let intake = full(now);
        assert!(!intake.admits(&customer(100), now + PATIENCE / 2));
        assert!(!intake.admits(&customer(101), now + PATIENCE / 2));
        let again = (0..AT_ONCE).all(|number| intake.admits(&customer(number), now + PATIENCE / 2));
        assert!(again, "they try again, and are as late as before");
        assert!(intake.admits(&customer(100), now + PATIENCE));
        assert_eq!(intake.done(&customer(100)).map(|next| next.name), Some("c101".into()), "c100 waits no longer");
    }
}
