use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{Ship, ShipSpec, ShipStatus, ship};
use crate::attempt::{Attempt, WithStatus};
use crate::cache::{Cache, Key};
use crate::conditions::{Verdict, find, set_verdict};
use crate::error::{Class, Error};
use crate::partitions::Partitions;
use crate::queue::Queue;
use crate::reconciler::{Progress, Reconciler};
use crate::testing::{self, ApiServer};
use crate::{is_ready, not_ready_message};

/// Returns the errors of a script, and Ready when there is none left.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Error>>,
    cleanups: Mutex<VecDeque<Error>>,
    seen: Mutex<Vec<Ship>>,
    /// Has nothing to say, and hands the status back as it is.
    silent: AtomicBool,
}

impl Reconciler for Script {
    type Kind = Ship;
    const NAME: &'static str = "ship";
    const FINALIZER: Option<&'static str> = Some("example.com/ship");

    async fn reconcile(&self, ship: &Ship) -> Result<Progress<ShipStatus>, Error> {
        self.seen.lock().push(ship.clone());
        if let Some(error) = self.answers.lock().pop_front() {
            return Err(error);
        }
        if self.silent.load(Ordering::SeqCst) {
            return Ok(Progress::new(ship.status.clone().unwrap_or_default()));
        }
        // Conditions built from nothing, as careless people do.
        let mut status = ShipStatus { sails: ship.spec.sails, ..ShipStatus::default() };
        set_verdict(&mut status.conditions, ship.metadata.generation, Verdict::ready("all sails set"));
        Ok(Progress::new(status))
    }

    async fn cleanup(&self, _: &Ship) -> Result<(), Error> {
        self.cleanups.lock().pop_front().map_or(Ok(()), Err)
    }
}

struct Deck {
    server: ApiServer,
    attempt: WithStatus<Script>,
}

impl Deck {
    fn new(server: ApiServer, seen: impl IntoIterator<Item = Ship>) -> Self {
        let platform = server.platform();
        let cache: Cache<Ship> = testing::cache(seen);
        let queue = Queue::new(&Partitions::whole());
        let objects = platform.objects();
        let reconciler = Script::default();
        let attempt =
            WithStatus { platform, cache, queue: Arc::new(queue), objects, reconciler, unready: Arc::default() };
        Deck { server, attempt }
    }

    /// Reconciles once, and reports an error as the controller does.
    async fn reconcile(&self, again: bool) -> Result<Duration, Error> {
        let ship = self.attempt.cache.lookup(&Key::new(None, "a")).unwrap();
        let outcome = self.attempt.reconcile(ship.clone()).await;
        if let Err(error) = &outcome {
            self.attempt.report(&ship, error, again).await;
        }
        outcome
    }

    fn ship(&self) -> Ship {
        self.server.get(&Ship::new("a", ShipSpec::default())).unwrap()
    }

    fn condition(&self, type_: &str) -> Option<(String, String, String)> {
        let status = self.ship().status.unwrap_or_default();
        find(&status.conditions, type_).map(|it| (it.status.clone(), it.reason.clone(), it.message.clone()))
    }

    fn fails(&self, errors: impl IntoIterator<Item = Error>) {
        self.attempt.reconciler.answers.lock().extend(errors);
    }
}

/// A ship with our finalizer, so that the tests below do not see it being added.
fn deck() -> Deck {
    let server = ApiServer::new();
    let mut ship = ship(&server, "a");
    ship.finalizers_mut().push("example.com/ship".into());
    let ship = server.put(&ship);
    Deck::new(server, [ship])
}

fn condition(status: &str, reason: &str, message: &str) -> Option<(String, String, String)> {
    Some((status.to_owned(), reason.to_owned(), message.to_owned()))
}

const STATUS: &str = "PATCH /apis/example.com/v1/ships/a/status";
const METADATA: &str = "PATCH /apis/example.com/v1/ships/a";

#[tokio::test]
async fn the_first_reconcile_writes_finalizer_and_status_and_the_second_nothing() {
    let server = ApiServer::new();
    let seen = ship(&server, "a");
    let deck = Deck::new(server, [seen]);
    let delay = deck.reconcile(false).await.unwrap();
    assert!((Duration::from_secs(2400)..=Duration::from_secs(3600)).contains(&delay));
    assert_eq!(deck.server.take_writes(), [METADATA, STATUS]);
    assert_eq!(
        deck.attempt.reconciler.seen.lock()[0].finalizers(),
        ["example.com/ship"],
        "the same reconcile continues"
    );
    assert!(is_ready(&deck.ship()));
    deck.reconcile(false).await.unwrap();
    assert!(deck.server.take_writes().is_empty());
}

#[tokio::test]
async fn a_finalizer_does_not_overwrite_a_concurrent_write() {
    let server = ApiServer::new();
    let seen = ship(&server, "a");
    let mut changed = seen.clone();
    changed.finalizers_mut().push("their/finalizer".into());
    server.put(&changed);
    let deck = Deck::new(server, [seen]);
    assert_eq!(deck.reconcile(false).await.unwrap_err().class(), Class::Conflict);
    assert_eq!(deck.ship().finalizers(), ["their/finalizer"]);
}

#[tokio::test]
async fn an_unchanged_status_does_not_update_the_observed_generation() {
    let deck = deck();
    deck.reconcile(false).await.unwrap();
    let mut ship = deck.ship();
    ship.metadata.generation = Some(2);
    let deck = Deck::new(deck.server, [ship]);
    deck.server.take_writes();
    deck.attempt.reconciler.silent.store(true, Ordering::SeqCst);
    deck.reconcile(false).await.unwrap();
    assert!(deck.server.take_writes().is_empty(), "Ready of generation 1 would become Ready of generation 2");
}

#[tokio::test]
async fn an_object_created_with_its_finalizer_saves_a_write() {
    let deck = deck();
    deck.reconcile(false).await.unwrap();
    assert_eq!(deck.server.take_writes(), [STATUS]);
}

#[tokio::test]
async fn transition_times_are_kept_for_reconcilers_that_start_from_nothing() {
    let deck = deck();
    deck.reconcile(false).await.unwrap();
    let long_ago = Time("2020-01-01T00:00:00Z".parse().unwrap());
    let mut ship = deck.ship();
    ship.status.as_mut().unwrap().conditions[0].last_transition_time = long_ago.clone();
    let ship = deck.server.put(&ship);
    let deck = Deck::new(deck.server, [ship]);
    deck.server.take_writes();
    deck.reconcile(false).await.unwrap();
    assert!(deck.server.take_writes().is_empty());
    assert_eq!(deck.ship().status.unwrap().conditions[0].last_transition_time, long_ago);
}

#[tokio::test]
async fn waiting_is_written_once_and_keeps_the_rest_of_the_status() {
    let deck = deck();
    deck.reconcile(false).await.unwrap();
    deck.server.take_writes();
    deck.fails((0..3).map(|_| Error::waiting("WaitingForTide", "the water is low")));
    for again in [false, true, true] {
        assert_eq!(deck.reconcile(again).await.unwrap_err().class(), Class::Waiting);
    }
    assert_eq!(deck.server.take_writes(), [STATUS]);
    assert_eq!(deck.condition("Ready"), condition("False", "WaitingForTide", "the water is low"));
    assert_eq!(deck.condition("Reconciling"), condition("True", "WaitingForTide", "the water is low"));
    assert_eq!(deck.condition("Stalled"), None);
    assert_eq!(deck.ship().status.unwrap().sails, 3);
    assert_eq!(not_ready_message(&deck.ship()), "Ship a: the water is low");
}

#[tokio::test]
async fn an_error_that_a_person_must_resolve_is_stalled_until_then() {
    let deck = deck();
    deck.fails([
        Error::terminal("NoSuchSail", "spec.sails is negative"),
        Error::structural("NoMast", "Mast b is missing"),
    ]);
    assert_eq!(deck.reconcile(false).await.unwrap_err().class(), Class::Terminal);
    assert_eq!(deck.condition("Stalled"), condition("True", "NoSuchSail", "spec.sails is negative"));
    assert_eq!(deck.reconcile(false).await.unwrap_err().class(), Class::Structural);
    assert_eq!(deck.condition("Stalled"), condition("True", "NoMast", "Mast b is missing"));
    assert_eq!(deck.condition("Reconciling"), None);
    deck.reconcile(false).await.unwrap();
    assert_eq!(deck.condition("Stalled"), None);
    assert_eq!(deck.condition("Ready"), condition("True", "Ready", "all sails set"));
}

#[tokio::test]
async fn a_transient_error_is_reported_when_it_repeats() {
    let deck = deck();
    deck.reconcile(false).await.unwrap();
    deck.server.take_writes();
    deck.fails((0..3).map(|_| Error::Other(anyhow::anyhow!("the wind has died"))));
    deck.reconcile(false).await.unwrap_err();
    assert!(deck.server.take_writes().is_empty());
    deck.reconcile(true).await.unwrap_err();
    deck.reconcile(true).await.unwrap_err();
    assert_eq!(deck.server.take_writes(), [STATUS]);
    assert_eq!(deck.condition("Ready"), condition("False", "Retrying", "the wind has died"));
    deck.fails([Error::Conflict("x".to_owned())]);
    deck.reconcile(true).await.unwrap_err();
    assert!(deck.server.take_writes().is_empty(), "a conflict never is");
}

#[tokio::test]
async fn events_are_published_for_transitions_only() {
    let deck = deck();
    deck.fails([Error::structural("NoMast", "Mast b is missing"), Error::structural("NoMast", "Mast c is missing")]);
    for _ in 0..2 {
        deck.reconcile(false).await.unwrap_err();
    }
    for _ in 0..2 {
        deck.reconcile(false).await.unwrap();
    }
    // They are published in the background.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let events = deck.server.take_requests().into_iter().filter(|request| request.path.ends_with("/events"));
    let events: Vec<_> = events.map(|event| (event.body["type"].clone(), event.body["reason"].clone())).collect();
    assert_eq!(events, [("Warning".into(), "NoMast".into()), ("Normal".into(), "Ready".into())]);
}

#[tokio::test]
async fn a_status_is_not_written_to_a_recreated_object() {
    let deck = deck();
    deck.server.remove(&deck.ship());
    ship(&deck.server, "a");
    assert_eq!(deck.reconcile(false).await.unwrap_err().class(), Class::Conflict);
    assert_eq!(deck.ship().status, None);
    // One that is simply gone is no trouble at all.
    deck.server.remove(&deck.ship());
    deck.reconcile(false).await.unwrap();
}

#[tokio::test]
async fn an_error_is_not_reported_for_another_generation_or_object() {
    let deck = deck();
    deck.fails([Error::terminal("NoSuchSail", "spec.sails is negative")]);
    let seen = deck.attempt.cache.lookup(&Key::new(None, "a")).unwrap();
    let error = deck.attempt.reconcile(seen.clone()).await.unwrap_err();

    // Corrected during the reconcile.
    let mut mended = deck.ship();
    mended.spec.sails = 4;
    mended.metadata.generation = Some(2);
    testing::changed(&deck.attempt.cache, deck.server.put(&mended));
    deck.attempt.report(&seen, &error, false).await;
    assert!(deck.server.take_writes().is_empty(), "generation 2 would be stalled by what was wrong with generation 1");

    // Deleted and created again.
    deck.server.remove(&mended);
    let another = ship(&deck.server, "a");
    assert_eq!(another.metadata.generation, seen.metadata.generation);
    testing::changed(&deck.attempt.cache, another);
    deck.attempt.report(&seen, &error, false).await;
    assert!(deck.server.take_writes().is_empty());
}

#[tokio::test]
async fn cleanup_keeps_the_finalizer_while_it_waits_and_then_removes_only_ours() {
    let server = ApiServer::new();
    let mut ship = ship(&server, "a");
    ship.finalizers_mut().extend(["example.com/ship".to_owned(), "their/finalizer".to_owned()]);
    ship.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    let ship = server.put(&ship);
    let deck = Deck::new(server, [ship]);
    deck.attempt.reconciler.cleanups.lock().push_back(Error::waiting("WaitingForCrew", "2 are still aboard"));

    deck.reconcile(false).await.unwrap_err();
    assert_eq!(deck.ship().finalizers().len(), 2);
    assert_eq!(deck.condition("Ready"), condition("False", "WaitingForCrew", "2 are still aboard"));
    deck.server.take_writes();

    deck.reconcile(false).await.unwrap();
    assert_eq!(deck.ship().finalizers(), ["their/finalizer"]);
    deck.reconcile(false).await.unwrap();
    assert_eq!(deck.server.take_writes(), [METADATA], "what is left is not our business");
    assert!(deck.attempt.reconciler.seen.lock().is_empty(), "nothing is created while it is being deleted");
}

#[tokio::test]
async fn removing_the_last_finalizer_removes_the_object_from_the_cache() {
    let deck = deck();
    let mut ship = deck.ship();
    ship.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    let ship = deck.server.put(&ship);
    let deck = Deck::new(deck.server, [ship]);
    deck.reconcile(false).await.unwrap();
    assert!(deck.attempt.cache.get("a").is_none());
}
