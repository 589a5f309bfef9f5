use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use proptest::prelude::*;

use super::*;

fn object(name: &str, uid: u64, version: u64) -> ConfigMap {
    let owner = OwnerReference { uid: format!("owner-of-{name}"), controller: Some(true), ..OwnerReference::default() };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(uid.to_string()),
        resource_version: Some(version.to_string()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    ConfigMap { metadata, ..ConfigMap::default() }
}

fn listed(objects: impl IntoIterator<Item = ConfigMap>) -> View<ConfigMap> {
    let mut view = View::new(true);
    list(&mut view, objects);
    view
}

fn list(view: &mut View<ConfigMap>, objects: impl IntoIterator<Item = ConfigMap>) -> Vec<Change<ConfigMap>> {
    view.observe(Event::Init);
    let mut changes: Vec<_> = objects.into_iter().flat_map(|object| view.observe(Event::InitApply(object))).collect();
    changes.extend(view.observe(Event::InitDone));
    changes
}

fn version_of(view: &View<ConfigMap>, name: &str) -> Option<u64> {
    view.get(&Key::new(None, name)).map(|object| version(&*object))
}

#[test]
fn a_write_is_visible_until_the_watch_has_caught_up() {
    let mut view = listed([object("a", 1, 10)]);
    view.written(object("a", 1, 20));
    assert_eq!(version_of(&view, "a"), Some(20));
    // An older change by another client, before our write.
    assert!(view.observe(Event::Apply(object("a", 1, 15))).is_empty());
    assert_eq!(version_of(&view, "a"), Some(20));
    let changes = view.observe(Event::Apply(object("a", 1, 20)));
    assert!(changes.len() == 1 && changes[0].echo, "our own write is an echo");
    let changes = view.observe(Event::Apply(object("a", 1, 21)));
    assert!(changes.len() == 1 && !changes[0].echo, "a later one is news");
    assert_eq!(version_of(&view, "a"), Some(21));
}

#[test]
fn an_answer_after_its_event_changes_nothing() {
    let mut view = listed([]);
    assert_eq!(view.observe(Event::Apply(object("a", 1, 10))).len(), 1);
    view.written(object("a", 1, 10));
    view.observe(Event::Delete(object("a", 1, 11)));
    assert_eq!(version_of(&view, "a"), None);
    // Also if the object was deleted by then: it must not come back.
    view.written(object("a", 1, 10));
    assert_eq!(version_of(&view, "a"), None);
}

#[test]
fn a_delete_is_visible_at_once() {
    let mut view = listed([object("a", 1, 10)]);
    view.deleted(&object("a", 1, 10));
    assert_eq!(version_of(&view, "a"), None);
    assert!(view.observe(Event::Apply(object("a", 1, 11))).is_empty(), "a change from before our delete");
    assert_eq!(version_of(&view, "a"), None);
    let changes = view.observe(Event::Delete(object("a", 1, 12)));
    assert!(changes.len() == 1 && changes[0].gone && changes[0].echo);
    assert!(view.slots.is_empty(), "no tombstone is left");
}

#[test]
fn a_recreated_object_survives_the_delete_event_of_the_old_one() {
    let mut view = listed([object("a", 1, 10)]);
    view.deleted(&object("a", 1, 10));
    view.written(object("a", 2, 20));
    assert_eq!(version_of(&view, "a"), Some(20));
    assert!(view.observe(Event::Delete(object("a", 1, 19))).is_empty());
    assert_eq!(version_of(&view, "a"), Some(20));
}

#[test]
fn a_list_that_began_after_a_write_includes_it() {
    let mut view = listed([]);
    view.written(object("a", 1, 10));
    let changes = list(&mut view, [object("b", 2, 5)]);
    assert_eq!(changes.iter().filter(|change| change.gone).count(), 1);
    assert_eq!(version_of(&view, "a"), None);
}

#[test]
fn a_write_during_a_list_stays() {
    let mut view = listed([]);
    view.observe(Event::Init);
    view.written(object("a", 1, 10));
    view.observe(Event::InitApply(object("b", 2, 5)));
    view.observe(Event::InitDone);
    assert_eq!(version_of(&view, "a"), Some(10));
}

#[test]
fn a_list_reports_deleted_objects_and_no_unchanged_ones() {
    let mut view = listed([object("a", 1, 10), object("b", 2, 11)]);
    let changes = list(&mut view, [object("b", 2, 11)]);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].gone && changes[0].object.metadata.name.as_deref() == Some("a"));
}

#[test]
fn older_versions_after_a_restore_are_accepted() {
    let mut view = listed([object("a", 1, 1000)]);
    list(&mut view, [object("a", 1, 10)]);
    assert_eq!(version_of(&view, "a"), Some(10));
    view.observe(Event::Apply(object("a", 1, 11)));
    assert_eq!(version_of(&view, "a"), Some(11));
    // Even against a write of our own from before.
    view.written(object("a", 1, 2000));
    list(&mut view, [object("a", 1, 12)]);
    assert_eq!(version_of(&view, "a"), Some(12));
}

#[test]
fn an_agreement_survives_a_change_of_the_status_only() {
    let with = |version: u64, generation: i64, label: &str| {
        let mut object = object("a", 1, version);
        object.metadata.generation = Some(generation);
        object.metadata.labels = Some([("label".to_owned(), label.to_owned())].into());
        object
    };
    let mut view = listed([with(10, 1, "x")]);
    view.agree(&with(10, 1, "x"), "hash");
    assert!(view.agrees(&with(10, 1, "x"), "hash"));
    assert!(!view.agrees(&with(10, 1, "x"), "another wish"));
    view.observe(Event::Apply(with(11, 1, "x")));
    assert!(view.agrees(&with(11, 1, "x"), "hash"), "only the status has changed");
    view.observe(Event::Apply(with(12, 1, "y")));
    assert!(!view.agrees(&with(12, 1, "y"), "hash"), "a label has changed");
    view.agree(&with(12, 1, "y"), "hash");
    let mut annotated = with(13, 1, "y");
    annotated.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    view.observe(Event::Apply(annotated.clone()));
    assert!(!view.agrees(&annotated, "hash"), "an annotation has changed");
    view.agree(&annotated, "hash");
    annotated.metadata.resource_version = Some("14".to_owned());
    annotated.metadata.generation = Some(2);
    view.observe(Event::Apply(annotated.clone()));
    assert!(!view.agrees(&annotated, "hash"), "the spec has changed");
}

#[derive(Clone, Debug)]
enum Step {
    /// Another client creates or changes an object...
    Theirs(usize),
    /// ...or deletes it.
    TheirDelete(usize),
    Ours(usize),
    OurDelete(usize),
    /// The oldest answer to a write of ours arrives.
    Answer,
    /// The next event of the watch arrives.
    Deliver,
    /// The watch breaks; a list begins and the server answers it...
    List,
    /// ...and the answer arrives.
    Listed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..3_usize;
    let step = prop_oneof![
        2 => key.clone().prop_map(Step::Theirs),
        1 => key.clone().prop_map(Step::TheirDelete),
        3 => key.clone().prop_map(Step::Ours),
        1 => key.prop_map(Step::OurDelete),
        4 => Just(Step::Answer),
        6 => Just(Step::Deliver),
        1 => Just(Step::List),
        1 => Just(Step::Listed),
    ];
    proptest::collection::vec(step, 0..60)
}

enum Answer {
    Written(ConfigMap),
    Deleted(ConfigMap),
}

/// An API server, the connection to it, and the view of a client.
#[derive(Default)]
struct World {
    now: HashMap<usize, ConfigMap>,
    clock: u64,
    log: Vec<Event<ConfigMap>>,
    delivered: usize,
    answers: std::collections::VecDeque<Answer>,
    list: Option<Vec<ConfigMap>>,
    view: View<ConfigMap>,
    /// The answers to our writes: the newest version, and the uids of deleted objects.
    answered: HashMap<String, u64>,
    gone: HashSet<String>,
    /// Deletes during a list, which may have been made before or after them.
    unclear: usize,
}

impl Default for View<ConfigMap> {
    fn default() -> Self {
        View::new(false)
    }
}

impl World {
    fn change(&mut self, key: usize) -> ConfigMap {
        self.clock += 1;
        let uid = self.now.get(&key).and_then(|object| object.metadata.uid.clone());
        let uid = uid.map_or(self.clock, |uid| uid.parse().unwrap());
        let object = object(&key.to_string(), uid, self.clock);
        self.now.insert(key, object.clone());
        self.log.push(Event::Apply(object.clone()));
        object
    }

    fn delete(&mut self, key: usize) -> Option<ConfigMap> {
        let before = self.now.remove(&key)?;
        self.clock += 1;
        let mut last = before.clone();
        last.metadata.resource_version = Some(self.clock.to_string());
        self.log.push(Event::Delete(last));
        Some(before)
    }

    fn is_unanswered(&self, key: usize) -> bool {
        self.answers.iter().any(|answer| {
            let (Answer::Written(object) | Answer::Deleted(object)) = answer;
            object.metadata.name == Some(key.to_string())
        })
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Theirs(key) => drop(self.change(key)),
            Step::TheirDelete(key) => drop(self.delete(key)),
            // One reconcile at a time: the next write to an object comes after the answer to the last.
            Step::Ours(key) | Step::OurDelete(key) if self.is_unanswered(key) => {}
            Step::Ours(key) => {
                let object = self.change(key);
                self.answers.push_back(Answer::Written(object));
            }
            Step::OurDelete(key) => {
                // We delete only what we see, and the uid guards that.
                let seen = self.view.get(&Key::new(None, &key.to_string()));
                let there = self.now.get(&key);
                let same = seen.is_some_and(|seen| there.is_some_and(|there| seen.metadata.uid == there.metadata.uid));
                if same && let Some(object) = self.delete(key) {
                    self.answers.push_back(Answer::Deleted(object));
                }
            }
            Step::Answer => match self.answers.pop_front() {
                Some(Answer::Written(object)) => {
                    self.answered.insert(object.metadata.name.clone().unwrap(), version(&object));
                    self.view.written(object);
                }
                Some(Answer::Deleted(object)) => {
                    self.unclear += usize::from(self.list.is_some());
                    self.gone.insert(object.metadata.uid.clone().unwrap());
                    self.view.deleted(&object);
                }
                None => {}
            },
            Step::Deliver if self.list.is_none() => {
                if let Some(event) = self.log.get(self.delivered).cloned() {
                    self.delivered += 1;
                    self.view.observe(event);
                }
            }
            Step::Deliver => {}
            Step::List => {
                self.view.observe(Event::Init);
                self.list = Some(self.now.values().cloned().collect());
                self.delivered = self.log.len();
            }
            Step::Listed => {
                for object in self.list.take().into_iter().flatten() {
                    self.view.observe(Event::InitApply(object));
                }
                self.view.observe(Event::InitDone);
            }
        }
    }

    /// No answer to a write of ours is forgotten.
    fn check(&self) {
        for (name, written) in &self.answered {
            let deleted_since = self.log.iter().any(|event| {
                matches!(event, Event::Delete(object)
                    if object.metadata.name.as_ref() == Some(name) && version(object) > *written)
            });
            match version_of(&self.view, name) {
                Some(seen) => assert!(seen >= *written, "{name}: wrote {written}, sees {seen}"),
                None => assert!(deleted_since, "{name}: wrote {written}, sees nothing"),
            }
        }
        for object in self.view.all() {
            assert!(!self.gone.contains(object.metadata.uid.as_ref().unwrap()), "a deleted object is back");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_never_precede_own_writes_and_become_complete(
        steps in steps(),
        packed: bool,
    ) {
        let mut world = World { view: View::new(packed), ..World::default() };
        world.step(Step::List);
        world.step(Step::Listed);
        for step in steps {
            // An unfinished list is finished before another begins.
            if matches!(step, Step::Listed) == world.list.is_some() || !matches!(step, Step::List | Step::Listed) {
                world.step(step);
            }
            world.check();
        }
        while !world.answers.is_empty() {
            world.step(Step::Answer);
            world.check();
        }
        if world.list.is_some() {
            world.step(Step::Listed);
        }
        // The watch is past everything once it has delivered something later.
        world.step(Step::Theirs(99));
        while world.delivered < world.log.len() {
            world.step(Step::Deliver);
            world.check();
        }
        let mut seen: Vec<_> = world.view.all().map(|object| (*object).clone()).collect();
        let mut there: Vec<_> = world.now.values().cloned().collect();
        seen.sort_by_key(|object| object.metadata.name.clone());
        there.sort_by_key(|object| object.metadata.name.clone());
        prop_assert_eq!(&seen, &there);
        prop_assert!(world.view.slots.len() <= there.len() + world.unclear, "no tombstones are left");
        prop_assert!(world.view.ahead.is_empty());
        prop_assert_eq!(world.view.owned.len(), there.len());
        for object in &there {
            let owner = format!("owner-of-{}", object.metadata.name.as_ref().unwrap());
            prop_assert_eq!(world.view.owned_by(&owner).len(), 1);
        }
    }
}

/// What happens to one object.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Write { readable: bool },
    Delete { readable: bool },
    List,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        3 => any::<bool>().prop_map(|readable| Turn::Write { readable }),
        1 => any::<bool>().prop_map(|readable| Turn::Delete { readable }),
        1 => Just(Turn::List),
    ];
    prop::collection::vec(turn, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_object_is_deleted_only_by_its_deletion_whether_readable_or_not(turns in turns(), packed: bool) {
        let mut view = View::new(packed);
        list(&mut view, []);
        let (mut clock, mut uid) = (0, 0);
        // The object as it is, whether that is readable, and the last version that was.
        let mut now: Option<(ConfigMap, bool)> = None;
        let mut last: Option<u64> = None;
        for turn in turns {
            clock += 1;
            let changes = match turn {
                Turn::Write { readable } => {
                    uid = if now.is_some() { uid } else { clock };
                    let object = object("a", uid, clock);
                    now = Some((object.clone(), readable));
                    last = if readable { Some(clock) } else { last };
                    if readable { view.observe(Event::Apply(object)) } else { view.unreadable(&object.metadata, false).1 }
                }
                Turn::Delete { readable } => {
                    (now, last) = (None, None);
                    let object = object("a", uid, clock);
                    if readable { view.observe(Event::Delete(object)) } else { view.deleted_unread(&object.metadata) }
                }
                Turn::List => {
                    let mut changes = view.observe(Event::Init);
                    match now.clone() {
                        Some((object, true)) => changes.extend(view.observe(Event::InitApply(object))),
                        Some((object, false)) => changes.extend(view.unreadable(&object.metadata, true).1),
                        None => {}
                    }
                    changes.extend(view.observe(Event::InitDone));
                    changes
                }
            };
            let is_gone = changes.iter().any(|change| change.gone);
            prop_assert!(!is_gone || now.is_none(), "an object that exists was reported as gone");
            prop_assert_eq!(version_of(&view, "a"), last);
            let unreadable = now.as_ref().is_some_and(|(_, readable)| !readable);
            prop_assert_eq!(view.is_unreadable(&Key::new(None, "a")), unreadable);
            prop_assert_eq!(view.count_unreadable(), usize::from(unreadable));
        }
    }
}
