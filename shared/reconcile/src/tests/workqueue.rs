use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Ship, ship};
use crate::cache::{Change, Key};
use crate::partitions::Partitions;
use crate::queue::Queue;
use crate::testing::{self, ApiServer};
use crate::workqueue::{Entry, Workqueue};

fn key(number: usize) -> Key {
    Key::new(Some("port"), &format!("ship-{number}"))
}

#[test]
fn an_object_has_one_entry_however_often_it_is_triggered() {
    let (mut queue, start) = (Workqueue::default(), Instant::now());
    for millis in 0..40 {
        queue.add(key(1), Entry::event(start + Duration::from_millis(millis)));
    }
    queue.add(key(1), Entry::routine(start + Duration::from_secs(60)));
    assert_eq!(queue.take(start + Duration::from_millis(49)), None);
    assert_eq!(queue.next_due(), Some(start + Duration::from_millis(50)), "counted from the first waking");
    assert_eq!(queue.take(start + Duration::from_millis(50)), Some(key(1)));
    assert_eq!(queue.next_due(), None);
}

#[test]
fn a_trigger_during_a_reconcile_adds_another() {
    let (mut queue, start) = (Workqueue::default(), Instant::now());
    let later = start + Duration::from_secs(1);
    queue.add(key(1), Entry::routine(start));
    assert_eq!(queue.take(start), Some(key(1)));
    queue.add(key(1), Entry::event(start));
    assert_eq!(queue.take(later), None, "it is being looked at");
    queue.done(key(1), Some(Entry::routine(start + Duration::from_secs(3600))));
    assert_eq!(queue.take(later), Some(key(1)));
    queue.done(key(1), None);
    assert_eq!(queue.next_due(), None);
}

#[test]
fn events_overtake_routine_reconciles_for_a_while() {
    let (mut queue, start) = (Workqueue::default(), Instant::now());
    queue.add(key(1), Entry::routine(start));
    queue.add(key(2), Entry::event(start + Duration::from_secs(9)));
    queue.add(key(3), Entry::event(start + Duration::from_secs(11)));
    let now = start + Duration::from_secs(12);
    assert_eq!([(); 4].map(|()| queue.take(now)), [Some(key(2)), Some(key(1)), Some(key(3)), None]);
}

#[test]
fn a_changed_object_does_not_wait_for_the_debounce_of_its_children() {
    let (mut queue, start) = (Workqueue::default(), Instant::now());
    queue.add(key(1), Entry::event(start));
    queue.add(key(2), Entry::event(start));
    queue.add(key(2), Entry::change(start));
    assert_eq!([(); 2].map(|()| queue.take(start)), [Some(key(2)), None]);
}

#[tokio::test(start_paused = true)]
async fn a_new_object_waits_for_its_dependencies_and_a_changed_one_does_not() {
    let (server, queue) = (ApiServer::new(), Queue::new(&Partitions::whole()));
    queue.start::<Ship>(&testing::cache([]));
    let mut ship = ship(&server, "a");
    let until_its_turn = async |ship: &Ship| {
        let triggered = Instant::now();
        queue.primary(&Change { object: Arc::new(ship.clone()), gone: false, echo: false, before: None });
        queue.done(queue.next().await, None);
        triggered.elapsed()
    };
    assert!(until_its_turn(&ship).await >= Duration::from_millis(50));
    ship.metadata.generation = Some(2);
    assert_eq!(until_its_turn(&ship).await, Duration::ZERO);
}

#[test]
fn a_deleted_object_has_no_entry() {
    let (mut queue, start) = (Workqueue::default(), Instant::now());
    queue.add(key(1), Entry::routine(start));
    queue.forget(&key(1));
    assert_eq!((queue.take(start), queue.next_due()), (None, None));
}

#[derive(Clone, Debug)]
enum Step {
    News(usize),
    Change(usize),
    Routine(usize, u64),
    Take,
    Done(usize, Option<u64>),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (object, millis) = (0..6_usize, 0..20_000_u64);
    prop_oneof![
        object.clone().prop_map(Step::News),
        object.clone().prop_map(Step::Change),
        (object.clone(), millis.clone()).prop_map(|(object, delay)| Step::Routine(object, delay)),
        Just(Step::Take),
        (object, prop::option::of(millis.clone())).prop_map(|(object, delay)| Step::Done(object, delay)),
        millis.prop_map(Step::Pass),
    ]
}

proptest! {
    /// Against a model that is nothing but the definition: for each object its earliest due and rank, and whether it runs.
    #[test]
    fn the_object_that_has_waited_longest_is_next(steps in prop::collection::vec(step(), 0..200)) {
        let (mut queue, start) = (Workqueue::default(), Instant::now());
        let mut now = 0;
        let mut model: HashMap<usize, (u64, u64)> = HashMap::new();
        let mut running = Vec::new();
        let at = |millis| start + Duration::from_millis(millis);
        let earlier = |model: &mut HashMap<usize, (u64, u64)>, object, due: u64, rank: u64| {
            let turn = model.entry(object).or_insert((due, rank));
            *turn = (turn.0.min(due), turn.1.min(rank));
        };
        for step in steps {
            match step {
                Step::News(object) => {
                    queue.add(key(object), Entry::event(at(now)));
                    earlier(&mut model, object, now + 50, now + 50);
                }
                Step::Change(object) => {
                    queue.add(key(object), Entry::change(at(now)));
                    earlier(&mut model, object, now, now);
                }
                Step::Routine(object, delay) => {
                    queue.add(key(object), Entry::routine(at(now + delay)));
                    earlier(&mut model, object, now + delay, now + delay + 10_000);
                }
                Step::Take => {
                    let due = |object: &usize, turn: &(u64, u64)| turn.0 <= now && !running.contains(object);
                    let next = model.iter().filter(|(object, turn)| due(object, turn)).map(|(object, turn)| (turn.1, *object));
                    let next = next.min().map(|(_, object)| object);
                    prop_assert_eq!(queue.take(at(now)), next.map(key));
                    if let Some(object) = next {
                        model.remove(&object);
                        running.push(object);
                    }
                }
                Step::Done(object, again) => {
                    if let Some(place) = running.iter().position(|other| *other == object) {
                        running.remove(place);
                        queue.done(key(object), again.map(|delay| Entry::routine(at(now + delay))));
                        if let Some(delay) = again {
                            earlier(&mut model, object, now + delay, now + delay + 10_000);
                        }
                    }
                }
                Step::Pass(millis) => now += millis,
            }
        }
    }
}
