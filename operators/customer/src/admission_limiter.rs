//! Limits how many new customers are created at the same time.
//!
//! The first object of a customer is the cheapest. Without a limit, a thousand customers that arrive together would all be started
//! within seconds, then wait a minute for their other objects and report each step. With it they are finished as fast, each is
//! Ready soon after it was started, and a waiting customer costs nothing. What takes long for other reasons, such as pods that
//! start, delays no other customer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use ahoi_api::Customer;
use ahoi_reconcile::ObjectRef;
use kube::ResourceExt;
use parking_lot::Mutex;

/// More than the API server can create at once, and few enough to be finished within seconds.
const MAX_CONCURRENT: usize = 32;
/// A customer that takes longer no longer counts.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits how many new customers are created at the same time.
#[derive(Default)]
pub struct AdmissionLimiter(Mutex<State>);

#[derive(Default)]
struct State {
    /// When each customer that is being created was admitted, by uid.
    admitted: HashMap<String, Instant>,
    /// Those that wait, first come first. One that was deleted meanwhile is triggered once in vain.
    waiting: VecDeque<(String, ObjectRef<Customer>)>,
    /// The uids in `waiting` that have not been admitted since.
    known: HashSet<String>,
}

impl AdmissionLimiter {
    /// Whether a new customer may be created now. If not, it is reconciled again when [`done`](Self::done) returns it, or after
    /// [`ADMISSION_TIMEOUT`].
    pub fn admits(&self, customer: &Customer, now: Instant) -> bool {
        let state = &mut *self.0.lock();
        let uid = customer.uid().unwrap_or_default();
        state.admitted.retain(|_, since| now.duration_since(*since) < ADMISSION_TIMEOUT);
        if state.admitted.len() < MAX_CONCURRENT || state.admitted.contains_key(&uid) {
            state.known.remove(&uid);
            // A customer whose creation fails repeatedly keeps its first time.
            state.admitted.entry(uid).or_insert(now);
            return true;
        }
        if state.known.insert(uid.clone()) {
            state.waiting.push_back((uid, ObjectRef::from_obj(customer)));
        }
        false
    }

    /// The customer is created, or waits for something else. Returns the next customer to admit.
    pub fn done(&self, customer: &Customer) -> Option<ObjectRef<Customer>> {
        let state = &mut *self.0.lock();
        state.admitted.remove(&customer.uid()?)?;
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

    fn full(now: Instant) -> AdmissionLimiter {
        let limiter = AdmissionLimiter::default();
        assert!((0..MAX_CONCURRENT).all(|number| limiter.admits(&customer(number), now)));
        limiter
    }

    #[test]
    fn the_longest_waiting_is_admitted_next() {
        let now = Instant::now();
        let limiter = full(now);
        for number in [100, 101, 100] {
            assert!(!limiter.admits(&customer(number), now));
        }
        assert!(limiter.admits(&customer(0), now), "it was admitted before");
        assert_eq!(limiter.done(&customer(0)).map(|next| next.name), Some("c100".into()));
        assert_eq!(limiter.done(&customer(0)), None, "it was done already");
        assert!(limiter.admits(&customer(100), now));
        assert!(!limiter.admits(&customer(102), now));
        assert_eq!(limiter.done(&customer(100)).map(|next| next.name), Some("c101".into()), "each waits once");
    }

    #[test]
    fn a_slow_customer_delays_no_other() {
        let now = Instant::now();
        let limiter = full(now);
        assert!(!limiter.admits(&customer(100), now + ADMISSION_TIMEOUT / 2));
        assert!(!limiter.admits(&customer(101), now + ADMISSION_TIMEOUT / 2));
        let again = (0..MAX_CONCURRENT).all(|number| limiter.admits(&customer(number), now + ADMISSION_TIMEOUT / 2));
        assert!(again, "a retry does not restart the timeout");
        assert!(limiter.admits(&customer(100), now + ADMISSION_TIMEOUT));
        assert_eq!(limiter.done(&customer(100)).map(|next| next.name), Some("c101".into()), "c100 waits no longer");
    }
}
