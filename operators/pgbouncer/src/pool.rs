//! What controller and agents have to agree on about a pool: when a proof is needed, and what proves it.

use ahoi_api::{ConnectionPool, FormerPlace, FormerState, NamespacedRef, Place, PoolState, ProcessStatus, Route};
use ahoi_reconcile::conditions::{READY, is_true};
use kube::{Resource, ResourceExt};

/// The part of a ConnectionPool that an agent uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Namespace/name.
    pub key: String,
    /// resourceVersion; within one kind these are comparable numbers.
    pub version: i64,
    /// Creation time, in seconds.
    pub created: i64,
    /// Whether it is in the shard, or still leaving it.
    pub here: bool,
    /// Whether it is being deleted or moves to another fleet: its clients must not begin new transactions here.
    pub leaving: bool,
    /// Whether it is Ready.
    pub ready: bool,
    /// Its route, once the controller has resolved it.
    pub route: Option<Route>,
    /// The retiring login that is unused, as its controller has concluded.
    pub unused: Option<String>,
}

impl Pool {
    /// The part of `object` that an agent of this shard uses.
    #[must_use]
    pub fn of(object: &ConnectionPool, fleet: &NamespacedRef, shard: i32) -> Pool {
        let is_this = |place: &Place| place.shard == shard && place.fleet == *fleet;
        let status = object.status.as_ref();
        let settled = is_this(&place(object));
        // A pool that came back no longer leaves the shard.
        let former = former_places(object).iter().find(|former| !settled && is_this(&former.place));
        let here = settled || former.is_some();
        let drains = former.is_some_and(|former| former.state == FormerState::Draining);
        let mut route = status.filter(|_| here).and_then(|status| status.route.clone());
        if let Some(route) = route.as_mut().filter(|_| drains) {
            // The other fleet serves it. Here it ends like the route of a deleted pool.
            route.state = PoolState::Disabled;
        }
        Pool {
            key: key(object),
            version: version(object),
            created: object.meta().creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            here,
            leaving: !here || drains || object.meta().deletion_timestamp.is_some(),
            ready: status.is_some_and(|status| is_true(&status.conditions, READY)),
            route,
            unused: status.and_then(|status| status.unused_login.clone()),
        }
    }

    /// Whether its controller waits for the agents to prove this version.
    #[must_use]
    pub fn awaited(&self) -> bool {
        self.here
            && (self.leaving || (self.route.is_some() && !self.ready) || self.retiring() != self.unused.as_deref())
    }

    /// The previous login, whose clients the agents report.
    #[must_use]
    pub fn retiring(&self) -> Option<&str> {
        self.route.as_ref()?.retiring.as_deref()
    }
}

/// Drops what no agent needs: each has all pools of all fleets in memory.
pub fn forget_what_is_not_needed(pool: &mut ConnectionPool) {
    pool.metadata.annotations = None;
    pool.metadata.labels = None;
    pool.metadata.owner_references = None;
    if let Some(status) = &mut pool.status {
        status.conditions.retain(|condition| condition.type_ == "Ready");
    }
}

/// The shard that serves a pool, as its controller assigned it, whatever the spec contains by now.
#[must_use]
pub fn place(pool: &ConnectionPool) -> Place {
    let given = pool.status.as_ref().and_then(|status| status.place.clone());
    given.unwrap_or_else(|| Place { fleet: pool.spec.pg_bouncer_ref.clone(), shard: 0 })
}

/// The shards that a pool leaves, and that may still have clients of it.
#[must_use]
pub fn former_places(pool: &ConnectionPool) -> &[FormerPlace] {
    pool.status.as_ref().map(|status| status.former_places.as_slice()).unwrap_or_default()
}

/// Name of a pool in the reports of agents.
#[must_use]
pub fn key(pool: &ConnectionPool) -> String {
    format!("{}/{}", pool.namespace().unwrap_or_default(), pool.name_any())
}

/// The resourceVersion as a number.
#[must_use]
pub fn version(pool: &ConnectionPool) -> i64 {
    pool.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(i64::MAX)
}

/// A ready pod of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
}

/// What the agents report about one version of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every serving process has loaded the route, or its removal.
    Proved,
    /// Some processes have not yet.
    Pending {
        /// Number of processes that have.
        proved: usize,
        /// Number of serving processes.
        of: usize,
        /// The error of one of the others, if it reports one.
        error: Option<String>,
    },
    /// An agent refuses the route.
    Refused {
        /// Why.
        reason: String,
    },
    /// No process serves.
    NoProcesses,
}

/// Whether every serving process has proved `version` of the pool. Other pods count for nothing: each proves everything before
/// it becomes ready.
#[must_use]
pub fn proof(key: &str, version: i64, processes: &[ProcessStatus], serving: &[Serving]) -> Proof {
    if serving.is_empty() {
        return Proof::NoProcesses;
    }
    let mut proved = 0;
    let mut error = None;
    for pod in serving {
        let Some(process) = processes.iter().find(|process| process.pod == pod.pod && process.uid == pod.uid) else {
            continue;
        };
        let seen = process.proved_version >= version;
        if seen && let Some(refused) = process.refused.iter().find(|refused| refused.pool == key) {
            return Proof::Refused { reason: refused.reason.clone() };
        }
        if seen && !process.draining.iter().any(|draining| draining == key) {
            proved += 1;
        } else if let Some(why) = &process.error {
            error = Some(format!("{}: {why}", process.pod));
        }
    }
    if proved == serving.len() { Proof::Proved } else { Proof::Pending { proved, of: serving.len(), error } }
}

/// Why a serving process refuses the pool, in whichever version. For callers that know that the route is still the same.
#[must_use]
pub fn refusal<'a>(key: &str, processes: &'a [ProcessStatus], serving: &[Serving]) -> Option<&'a str> {
    let serves = |process: &&ProcessStatus| serving.iter().any(|pod| pod.pod == process.pod && pod.uid == process.uid);
    let mut refused = processes.iter().filter(serves).flat_map(|process| &process.refused);
    refused.find(|refused| refused.pool == key).map(|refused| refused.reason.as_str())
}

/// Whether no process has clients of a retiring login, by the reports on this `version` of the pool. Once concluded (`known`),
/// it holds until a process reports clients again.
#[must_use]
pub fn unused(login: &str, known: bool, version: i64, processes: &[ProcessStatus], serving: &[Serving]) -> bool {
    if processes.iter().any(|process| process.retiring.iter().any(|retiring| retiring == login)) {
        return false;
    }
    let has_reported = |pod: &Serving| {
        let mut reports = processes.iter().filter(|process| process.pod == pod.pod && process.uid == pod.uid);
        reports.next().is_some_and(|process| process.proved_version >= version)
    };
    // Without serving processes, all clients are about to reconnect.
    known || (!serving.is_empty() && serving.iter().all(has_reported))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{ConnectionPoolSpec, ConnectionPoolStatus, LocalRef, RefusedRoute};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn process(pod: &str, proved_version: i64) -> ProcessStatus {
        ProcessStatus { pod: pod.into(), uid: format!("uid-{pod}"), proved_version, ..ProcessStatus::default() }
    }

    fn serving(pods: &[&str]) -> Vec<Serving> {
        pods.iter().map(|pod| Serving { pod: (*pod).into(), uid: format!("uid-{pod}") }).collect()
    }

    #[test]
    fn every_serving_process_must_have_proved_this_version() {
        let both = serving(&["g-0", "g-1"]);
        let pending = |proved| Proof::Pending { proved, of: 2, error: None };
        assert_eq!(proof("a/b", 7, &[process("g-0", 7), process("g-1", 9)], &both), Proof::Proved);
        assert_eq!(proof("a/b", 8, &[process("g-0", 7), process("g-1", 9)], &both), pending(1));
        assert_eq!(proof("a/b", 7, &[process("g-0", 7)], &both), pending(1), "one has not reported yet");
        assert_eq!(proof("a/b", 7, &[process("g-0", 7)], &serving(&["g-0"])), Proof::Proved);
        assert_eq!(proof("a/b", 7, &[process("g-0", 7)], &[]), Proof::NoProcesses);
    }

    #[test]
    fn reports_of_a_former_pod_with_the_same_name_do_not_count() {
        let mut former = process("g-0", 7);
        former.uid = "before".into();
        let pending = Proof::Pending { proved: 0, of: 1, error: None };
        assert_eq!(proof("a/b", 7, &[former], &serving(&["g-0"])), pending);
    }

    #[test]
    fn a_login_is_unused_when_every_process_reports_so_for_this_version() {
        let both = serving(&["g-0", "g-1"]);
        let unused = |known, processes: &[ProcessStatus]| unused("c_a", known, 7, processes, &both);
        assert!(unused(false, &[process("g-0", 7), process("g-1", 9)]));
        assert!(!unused(false, &[process("g-0", 7), process("g-1", 6)]), "one has reported an older version");
        assert!(!unused(false, &[process("g-0", 7)]), "one has not reported");
        assert!(unused(true, &[process("g-0", 6), process("g-1", 6)]), "concluded before");
        assert!(!super::unused("c_a", false, 7, &[process("g-0", 7)], &[]), "no process serves at the moment");
        let mut busy = process("g-1", 9);
        busy.retiring = vec!["c_a".into(), "c_b".into()];
        assert!(!unused(false, &[process("g-0", 7), busy.clone()]));
        assert!(!unused(true, &[process("g-0", 7), busy.clone()]), "a process has clients again");
        assert!(
            !super::unused("c_a", false, 7, &[process("g-0", 7), busy], &serving(&["g-0"])),
            "the draining process has clients"
        );
    }

    #[test]
    fn a_route_that_drains_or_is_refused_is_not_proved() {
        let mut busy = process("g-0", 9);
        busy.draining.push("a/b".into());
        let pending = Proof::Pending { proved: 0, of: 1, error: None };
        assert_eq!(proof("a/b", 7, &[busy.clone()], &serving(&["g-0"])), pending);
        assert_eq!(proof("a/c", 7, &[busy], &serving(&["g-0"])), Proof::Proved);

        let mut picky = process("g-0", 9);
        picky.refused.push(RefusedRoute { pool: "a/b".into(), reason: "no".into() });
        assert_eq!(proof("a/b", 7, &[picky.clone()], &serving(&["g-0"])), Proof::Refused { reason: "no".into() });
        let version_10 = proof("a/b", 10, std::slice::from_ref(&picky), &serving(&["g-0"]));
        assert_eq!(version_10, pending, "another version was refused");

        let refusal = |key, pods: &[&str]| refusal(key, std::slice::from_ref(&picky), &serving(pods)).map(String::from);
        assert_eq!(refusal("a/b", &["g-0"]).as_deref(), Some("no"), "whatever version");
        assert_eq!((refusal("a/c", &["g-0"]), refusal("a/b", &["g-1"])), (None, None), "another pool, another process");
    }

    #[test]
    fn a_pool_is_in_its_assigned_shard_only() {
        let fleet = |name: &str| NamespacedRef { namespace: "ahoi-system".into(), name: name.into() };
        let spec = ConnectionPoolSpec {
            database_ref: LocalRef { name: "a".into() },
            pg_bouncer_ref: fleet("global"),
            ..ConnectionPoolSpec::default()
        };
        let mut object = ConnectionPool::new("a", spec);
        let status = ConnectionPoolStatus { route: Some(Route::default()), ..ConnectionPoolStatus::default() };
        object.status = Some(status.clone());
        let here = |object: &ConnectionPool, name, shard| {
            let pool = Pool::of(object, &fleet(name), shard);
            assert_eq!((pool.here, !pool.leaving), (pool.route.is_some(), pool.here));
            pool.here
        };
        assert!(here(&object, "global", 0) && !here(&object, "global", 1), "a pool without a place");
        let place = Some(Place { fleet: fleet("global"), shard: 1 });
        object.status = Some(ConnectionPoolStatus { place, ..status });
        assert!(here(&object, "global", 1) && !here(&object, "global", 0));
        object.spec.pg_bouncer_ref = fleet("other");
        assert!(here(&object, "global", 1), "it is served until it has another place");
        assert!(!here(&object, "other", 0) && !here(&object, "other", 1));
    }

    #[test]
    fn a_pool_that_moves_is_served_by_both_fleets_until_the_former_one_drains() {
        let place = |name: &str, shard| Place {
            fleet: NamespacedRef { namespace: "ahoi-system".into(), name: name.into() },
            shard,
        };
        let spec = ConnectionPoolSpec {
            database_ref: LocalRef { name: "a".into() },
            pg_bouncer_ref: place("other", 0).fleet,
            ..ConnectionPoolSpec::default()
        };
        let mut object = ConnectionPool::new("a", spec);
        object.status = Some(ConnectionPoolStatus {
            route: Some(Route::default()),
            place: Some(place("other", 0)),
            ..ConnectionPoolStatus::default()
        });
        let seen = |object: &ConnectionPool, name, shard| {
            let pool = Pool::of(object, &place(name, 0).fleet, shard);
            (pool.here, pool.leaving, pool.route.map(|route| route.state))
        };
        let (active, removed) = ((true, false, Some(PoolState::Active)), (false, true, None));
        let former = |state| {
            let since = Time("2026-01-01T00:00:00Z".parse().unwrap());
            vec![FormerPlace { place: place("global", 1), state, since }]
        };
        for state in [FormerState::Serving, FormerState::Left, FormerState::Draining] {
            object.status.as_mut().unwrap().former_places = former(state);
            let drains = state == FormerState::Draining;
            let there = if drains { (true, true, Some(PoolState::Disabled)) } else { active };
            assert_eq!(seen(&object, "global", 1), there, "{state:?}");
            assert_eq!((seen(&object, "other", 0), seen(&object, "global", 0)), (active, removed), "{state:?}");
            let ready = Pool { ready: true, ..Pool::of(&object, &place("global", 1).fleet, 1) };
            assert_eq!(ready.awaited(), drains, "the controller waits for the end of the drain");
        }
        object.status.as_mut().unwrap().place = Some(place("global", 1));
        assert_eq!(seen(&object, "global", 1), active, "it came back");
        object.status.as_mut().unwrap().former_places.clear();
        assert_eq!(seen(&object, "other", 0), removed);
    }
}
