use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{RunPolicy, Scheduler, SchedulerStatus};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::desired::{budget, cron_job, suspended_only, workers};
use crate::health::{self, Workers};
use crate::migration::{Migration, is_kept, migration};
use crate::status::{HOLD, Observed, status, substance};
use ahoi_reconcile::StatusThrottle;

const FULL: &str = include_str!("../fixtures/full.yaml");
const PLAIN: &str = include_str!("../fixtures/plain.yaml");

fn read(yaml: &str) -> Scheduler {
    serde_saphyr::from_str(yaml).expect("the fixture is a Scheduler")
}

fn due(scheduler: &Scheduler) -> Job {
    match migration(scheduler, &[]) {
        Migration::Due(job) => *job,
        other => panic!("not due: {other:?}"),
    }
}

mod desired {
    use super::*;

    #[test]
    fn all_fields() {
        let scheduler = read(FULL);
        let jobs: Vec<_> = scheduler.spec.jobs.iter().map(|job| cron_job(&scheduler, job, None, false)).collect();
        insta::assert_yaml_snapshot!("full_workers", workers(&scheduler, None, false));
        insta::assert_yaml_snapshot!("full_budget", budget(&scheduler));
        insta::assert_yaml_snapshot!("full_jobs", jobs);
        insta::assert_yaml_snapshot!("full_migration", due(&scheduler));
    }

    #[test]
    fn required_fields_only() {
        let scheduler = read(PLAIN);
        insta::assert_yaml_snapshot!("plain_workers", workers(&scheduler, None, false));
        assert!(budget(&scheduler).is_none(), "a budget for one worker would block every drain");
        assert_eq!(migration(&scheduler, &[]), Migration::None);
    }

    #[test]
    fn suspended_stops_workers_and_jobs() {
        let mut scheduler = read(FULL);
        scheduler.spec.run_policy = RunPolicy::Suspended;
        let replicas = workers(&scheduler, None, false).and_then(|workers| workers.spec?.replicas);
        assert_eq!(replicas, Some(0));
        assert!(budget(&scheduler).is_none());
        let job = cron_job(&scheduler, &scheduler.spec.jobs[0], None, false);
        assert_eq!(job.and_then(|job| job.spec?.suspend), Some(true));
    }

    #[test]
    fn workers_roll_when_the_secret_changes() {
        let mut scheduler = read(FULL);
        let before = workers(&scheduler, None, false);
        scheduler.spec.binding.as_mut().expect("the fixture has one").version = "v8".into();
        assert_ne!(workers(&scheduler, None, false), before);
    }

    #[test]
    fn a_restart_by_kubectl_is_kept() {
        const KEY: &str = "kubectl.kubernetes.io/restartedAt";
        let scheduler = read(FULL);
        let annotation = |workers: &Deployment| {
            workers.spec.as_ref()?.template.metadata.as_ref()?.annotations.as_ref()?.get(KEY).cloned()
        };
        let mut live = workers(&scheduler, None, false).expect("not held");
        let template = live.spec.as_mut().map(|spec| spec.template.metadata.get_or_insert_default());
        template.expect("made").annotations.get_or_insert_default().insert(KEY.into(), "noon".into());
        assert_eq!(annotation(&workers(&scheduler, Some(&live), false).expect("not held")).as_deref(), Some("noon"));
    }

    /// While the migration runs, workers keep their version, and only their number follows the spec.
    #[test]
    fn held_workers_keep_their_version() {
        let mut scheduler = read(FULL);
        let live = workers(&scheduler, None, false).expect("not held");
        scheduler.spec.image = "worker:3".into();
        scheduler.spec.workers = 6;
        let held = workers(&scheduler, Some(&live), true).expect("there are some").spec.expect("made");
        assert_eq!(held.replicas, Some(6));
        assert_eq!(Some(&held.template), live.spec.as_ref().map(|spec| &spec.template));
        assert_eq!(workers(&scheduler, None, true), None, "none of a version before its migration");
        scheduler.spec.workers = 4;
        assert_eq!(workers(&scheduler, Some(&live), true), None, "nothing to change");
    }

    #[test]
    fn held_jobs_keep_their_version_and_follow_their_schedule() {
        let mut scheduler = read(FULL);
        let [follows, own] = &read(FULL).spec.jobs[..] else { panic!("the fixture has two") };
        let live = cron_job(&scheduler, follows, None, false);
        scheduler.spec.image = "worker:3".into();
        let mut follows = follows.clone();
        follows.schedule = "@hourly".into();
        let held = cron_job(&scheduler, &follows, live.as_ref(), true).and_then(|job| job.spec).expect("there is one");
        assert_eq!(held.schedule, "@hourly");
        assert_eq!(
            Some(&held.job_template),
            live.as_ref().and_then(|live| live.spec.as_ref()).map(|spec| &spec.job_template)
        );
        assert!(cron_job(&scheduler, &follows, None, true).is_none());
        assert!(cron_job(&scheduler, &scheduler.spec.jobs[0], live.as_ref(), true).is_none(), "nothing to change");
        assert!(cron_job(&scheduler, own, None, true).is_some(), "has an image of its own");
    }
}

mod migrations {
    use super::*;

    fn with(job: Job, ready: i32, condition: Option<(&str, &str)>) -> Arc<Job> {
        let conditions = condition.map(|(type_, message)| {
            vec![JobCondition {
                type_: type_.into(),
                status: "True".into(),
                message: Some(message.into()),
                ..JobCondition::default()
            }]
        });
        Arc::new(Job { status: Some(JobStatus { ready: Some(ready), conditions, ..JobStatus::default() }), ..job })
    }

    #[test]
    fn from_due_to_its_end() {
        let scheduler = read(FULL);
        let job = due(&scheduler);
        let name = job.name_any();
        let seen = |job: Arc<Job>| migration(&scheduler, &[job]);
        assert_eq!(seen(Arc::new(job.clone())), Migration::Running(name.clone()));
        assert_eq!(seen(with(job.clone(), 1, None)), Migration::Running(name.clone()));
        let failed = seen(with(job.clone(), 0, Some(("Failed", "Job has reached the specified backoff limit"))));
        assert_eq!(failed, Migration::Failed(name, "Job has reached the specified backoff limit".into()));
        assert!(failed.holds() && !Migration::Succeeded.holds() && !Migration::None.holds());
    }

    /// A worker that starts after its migration must not meet a statement that was prepared for the former tables.
    #[test]
    fn workers_wait_for_the_pool_after_each_migration() {
        let mut scheduler = read(FULL);
        let complete = |uid: &str| {
            let mut job = due(&read(FULL));
            job.metadata.uid = Some(uid.into());
            with(job, 0, Some(("Complete", "")))
        };
        let reconnecting = |uid: &str| Migration::Reconnecting(uid.into());
        assert_eq!(migration(&scheduler, &[complete("first")]), reconnecting("first"));
        assert!(reconnecting("first").holds());
        let observed = |migration| Observed { migration, workers: None, jobs: Vec::new(), refused: Vec::new() };
        scheduler.status = Some(status(&scheduler, &observed(reconnecting("first"))));
        assert_eq!(scheduler.status.as_ref().and_then(|status| status.migration.as_deref()), Some("first"));
        let pool = scheduler.spec.pool.as_mut().unwrap();
        pool.reconnected_after = Some("first".into());
        assert_eq!(migration(&scheduler, &[complete("first")]), Migration::Succeeded);

        scheduler.status = Some(status(&scheduler, &observed(Migration::Succeeded)));
        assert_eq!(
            scheduler.status.as_ref().and_then(|status| status.migration.as_deref()),
            Some("first"),
            "it is kept"
        );
        scheduler.spec.pool.as_mut().unwrap().reconnected_after = None;
        assert_eq!(
            migration(&scheduler, &[complete("first")]),
            Migration::Succeeded,
            "a succeeded migration stays succeeded"
        );
        assert_eq!(migration(&scheduler, &[complete("second")]), reconnecting("second"), "the Job was deleted");

        // Written by a version without connection pools.
        scheduler.status.as_mut().unwrap().migration = None;
        assert_eq!(migration(&scheduler, &[complete("first")]), Migration::Succeeded);
        scheduler.status = None;
        scheduler.spec.pool = None;
        assert_eq!(migration(&scheduler, &[complete("first")]), Migration::Succeeded, "there is no pool");
    }

    #[test]
    fn image_command_and_database_make_a_version() {
        let name = |change: fn(&mut Scheduler)| {
            let mut scheduler = read(FULL);
            change(&mut scheduler);
            due(&scheduler).name_any()
        };
        let same = name(|_| ());
        assert_eq!(name(|scheduler| scheduler.spec.workers = 9), same);
        assert_eq!(name(|scheduler| scheduler.spec.binding.as_mut().unwrap().version = "v8".into()), same);
        for other in [
            name(|scheduler| scheduler.spec.image.push('1')),
            name(|scheduler| scheduler.spec.migration.as_mut().unwrap().command.push("--all".into())),
            name(|scheduler| scheduler.spec.binding = None),
            // Not the same as [worker, migrate], though it reads the same.
            name(|scheduler| scheduler.spec.migration.as_mut().unwrap().command = vec!["workermigrate".into()]),
        ] {
            assert_ne!(other, same);
        }
    }

    #[test]
    fn names_fit_into_a_label() {
        let mut scheduler = read(FULL);
        scheduler.metadata.name = Some("n".repeat(52));
        let long = due(&scheduler).name_any();
        assert!(long.len() <= 63, "{long}");
        scheduler.metadata.name = Some(format!("{}m", "n".repeat(51)));
        assert_ne!(due(&scheduler).name_any(), long, "two names that are truncated at the same place");
    }

    #[test]
    fn one_at_a_time() {
        let scheduler = read(FULL);
        let mut earlier = read(FULL);
        earlier.spec.image = "worker:1".into();
        let earlier = due(&earlier);
        let at_work = with(earlier.clone(), 1, None);
        assert_eq!(migration(&scheduler, std::slice::from_ref(&at_work)), Migration::Behind(earlier.name_any()));
        assert!(is_kept(&scheduler, &at_work));
        // A Job that waits for its image must not block the one with the right image for longer than its deletion takes.
        let waits = with(earlier.clone(), 0, None);
        assert!(!is_kept(&scheduler, &waits));
        let mut going = (*waits).clone();
        going.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        for there in [waits, Arc::new(going)] {
            assert_eq!(migration(&scheduler, &[there]), Migration::Behind(earlier.name_any()));
        }
        let over = with(earlier, 0, Some(("Complete", "")));
        assert!(!is_kept(&scheduler, &over));
        assert!(matches!(migration(&scheduler, &[over]), Migration::Due(_)));
        assert!(is_kept(&scheduler, &due(&scheduler)));
    }

    #[test]
    fn no_migration_starts_while_suspended() {
        let mut scheduler = read(FULL);
        let job = due(&scheduler);
        scheduler.spec.run_policy = RunPolicy::Suspended;
        scheduler.spec.pool = None;
        assert_eq!(migration(&scheduler, &[]), Migration::Suspended);
        assert_eq!(migration(&scheduler, &[with(job, 0, Some(("Complete", "")))]), Migration::Succeeded);
    }
}

/// The Deployment of the fixture with its counts: replicas, updated, available.
fn deployment(counts: [i32; 3], condition: Option<(&str, &str, &str, &str)>) -> Deployment {
    let mut deployment = workers(&read(FULL), None, false).expect("not held");
    deployment.metadata.generation = Some(2);
    let [replicas, updated, available] = counts.map(|count| Some(count).filter(|count| *count > 0));
    let conditions = condition.map(|(type_, status, reason, message)| {
        vec![DeploymentCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..DeploymentCondition::default()
        }]
    });
    deployment.status = Some(DeploymentStatus {
        observed_generation: Some(2),
        replicas,
        updated_replicas: updated,
        available_replicas: available,
        conditions,
        ..DeploymentStatus::default()
    });
    deployment
}

mod healths {
    use super::*;

    #[test]
    fn workers_are_ready_only_when_all_are_new_and_none_is_old() {
        let health = |counts| health::workers(&deployment(counts, None));
        assert_eq!(health([4, 4, 4]), Workers::Ready);
        assert_eq!(health([4, 4, 3]), Workers::Rolling("waiting for the others to start".into()));
        assert_eq!(health([5, 2, 4]), Workers::Rolling("2 of 4 updated to the new version".into()));
        assert_eq!(health([5, 4, 4]), Workers::Rolling("replacing workers of the old version".into()));
        assert_eq!(health([6, 6, 6]), Workers::Rolling("stopping surplus workers".into()));
        let mut unseen = deployment([4, 4, 4], None);
        unseen.metadata.generation = Some(3);
        assert!(matches!(health::workers(&unseen), Workers::Rolling(_)));
        let mut none = Deployment::default();
        none.metadata.generation = Some(1);
        none.spec.get_or_insert_default().replicas = Some(0);
        assert_eq!(health::workers(&none), Workers::Ready, "none were created");
        none.metadata.generation = Some(2);
        assert!(matches!(health::workers(&none), Workers::Rolling(_)), "some may still exist");
        assert_eq!(health::available(&deployment([5, 5, 5], None)), 4, "never more than desired");
    }

    #[test]
    fn a_rollout_without_progress_is_stuck() {
        let condition =
            ("Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet \"x\" has timed out progressing.");
        assert_eq!(
            health::workers(&deployment([4, 4, 1], Some(condition))),
            Workers::Stuck("ProgressDeadlineExceeded".into(), "ReplicaSet \"x\" has timed out progressing.".into())
        );
    }

    #[test]
    fn a_refusal_omits_the_name_of_the_pod() {
        let of_pod = |pod: &str| {
            let message = format!(
                "pods \"big-client-0815-worker-{pod}\" is forbidden: exceeded quota: customer, limited: pods=2"
            );
            health::workers(&deployment([2, 2, 2], Some(("ReplicaFailure", "True", "FailedCreate", &message))))
        };
        let why = "Kubernetes refuses to create pods: exceeded quota: customer, limited: pods=2";
        assert_eq!(of_pod("abcde"), Workers::Rolling(why.into()));
        assert_eq!(of_pod("abcde"), of_pod("fghij"));
    }

    fn run(scheduled: Option<i64>, succeeded: Option<i64>, active: bool) -> CronJob {
        let time = |seconds: Option<i64>| seconds.map(|s| Time(Timestamp::from_second(s).expect("in range")));
        let status = CronJobStatus {
            active: active.then(|| vec![ObjectReference::default()]),
            last_schedule_time: time(scheduled),
            last_successful_time: time(succeeded),
        };
        CronJob { status: Some(status), ..CronJob::default() }
    }

    #[test]
    fn a_job_that_ended_without_success_has_failed() {
        for (failed, job) in [
            (false, run(None, None, false)),
            (false, run(Some(60), None, true)),
            (true, run(Some(60), None, false)),
            (false, run(Some(60), Some(63), false)),
            (true, run(Some(120), Some(63), false)),
            (false, run(Some(120), Some(63), true)),
        ] {
            assert_eq!(health::last_run_failed(&job), failed, "{:?}", job.status);
        }
    }
}

/// Ready workers and desired workers.
fn count(status: &SchedulerStatus) -> String {
    format!("{}/{}", status.ready_workers.unwrap_or_default(), status.workers.unwrap_or_default())
}

mod statuses {
    use super::*;

    fn observed(migration: Migration, counts: [i32; 3]) -> Observed {
        Observed { migration, workers: Some(Arc::new(deployment(counts, None))), jobs: Vec::new(), refused: Vec::new() }
    }

    /// "Type=Status Reason: message", in order.
    fn conditions(scheduler: &Scheduler, observed: &Observed) -> Vec<String> {
        let status = status(scheduler, observed);
        let conditions = status.conditions.iter();
        let mut all: Vec<_> =
            conditions.map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message)).collect();
        all.insert(0, count(&status));
        all
    }

    #[test]
    fn conditions_in_each_state() {
        let scheduler = read(FULL);
        let mut suspended = read(FULL);
        suspended.spec.run_policy = RunPolicy::Suspended;
        let stuck = ("Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet x has timed out progressing.");
        let stuck = Observed {
            workers: Some(Arc::new(deployment([5, 2, 3], Some(stuck)))),
            ..observed(Migration::None, [0, 0, 0])
        };
        let refused = Observed {
            refused: vec!["job report is refused: spec.schedule: expected exactly 5 fields, found 1".into()],
            ..observed(Migration::None, [4, 4, 4])
        };
        let failed = Migration::Failed("big-client-0815-migration-1".into(), "the deadline was exceeded".into());
        let first = Observed { workers: None, ..observed(Migration::Running("m-1".into()), [0, 0, 0]) };
        let none = Observed { workers: None, ..observed(Migration::Suspended, [0, 0, 0]) };
        insta::assert_yaml_snapshot!([
            ("ready", conditions(&scheduler, &observed(Migration::Succeeded, [4, 4, 4]))),
            ("rolling", conditions(&scheduler, &observed(Migration::Succeeded, [4, 4, 1]))),
            ("stuck", conditions(&scheduler, &stuck)),
            ("refused", conditions(&scheduler, &refused)),
            ("first migration", conditions(&scheduler, &first)),
            ("migration", conditions(&scheduler, &observed(Migration::Running("m-2".into()), [4, 4, 4]))),
            ("failed migration", conditions(&scheduler, &observed(failed, [4, 4, 4]))),
            ("suspended before the first migration", conditions(&suspended, &none)),
        ]);
    }
}

mod paces {
    use super::*;

    /// A Scheduler whose status has `written` of 4 workers, and the status for `now` of 4.
    fn step(written: i32, now: i32) -> (Scheduler, SchedulerStatus) {
        let mut scheduler = read(FULL);
        let observed = |available| Observed {
            migration: Migration::None,
            workers: Some(Arc::new(deployment([4, 4, available], None))),
            jobs: Vec::new(),
            refused: Vec::new(),
        };
        scheduler.status = Some(status(&scheduler, &observed(written)));
        let status = status(&scheduler, &observed(now));
        (scheduler, status)
    }

    #[test]
    fn counts_are_written_every_two_seconds_and_the_end_at_once() {
        let (throttle, start) = (StatusThrottle::new(HOLD), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let workers = |written, now, when| {
            let (scheduler, status) = step(written, now);
            let progress = throttle.limit(&scheduler, status, substance, when);
            (count(&progress.status), progress.requeue)
        };
        assert_eq!(workers(0, 1, at(0)), ("0/4".into(), Some(HOLD)));
        assert_eq!(
            workers(0, 2, at(1500)),
            ("0/4".into(), Some(Duration::from_millis(500))),
            "the delay does not start again"
        );
        assert_eq!(workers(0, 2, at(2000)), ("2/4".into(), None));
        assert_eq!(workers(2, 3, at(2100)), ("2/4".into(), Some(HOLD)), "delayed again");
        assert_eq!(workers(2, 4, at(2200)), ("4/4".into(), None), "the end is a change of substance");
        assert_eq!(workers(4, 4, at(2300)), ("4/4".into(), None), "nothing to write, no requeue");
    }

    #[test]
    fn a_new_generation_is_written_when_it_is_ready_or_due() {
        let (throttle, start) = (StatusThrottle::new(HOLD), Instant::now());
        let keep = |now, when| {
            let (mut scheduler, mut status) = step(4, now);
            scheduler.metadata.generation = Some(4);
            status.observed_generation = Some(4);
            let kept = throttle.limit(&scheduler, status.clone(), substance, when).status;
            if kept == status {
                "written"
            } else {
                assert_eq!(Some(kept), scheduler.status);
                "delayed"
            }
        };
        assert_eq!(keep(1, start), "delayed", "observedGeneration tells clients that the status is old");
        assert_eq!(keep(2, start + HOLD), "written");
        assert_eq!(keep(2, start + HOLD), "delayed");
        assert_eq!(keep(4, start + HOLD), "written", "it is ready");
        let (scheduler, status) = step(4, 3);
        let kept = throttle.limit(&scheduler, status.clone(), substance, start).status;
        assert_eq!(kept, status, "the end of Ready is written at once");
    }

    #[test]
    fn one_customer_does_not_delay_another() {
        let (throttle, start) = (StatusThrottle::new(HOLD), Instant::now());
        let (first, status) = step(0, 1);
        throttle.limit(&first, status, substance, start);
        let (mut second, status) = step(0, 1);
        second.metadata.uid = Some("another".into());
        assert_eq!(throttle.limit(&second, status, substance, start + HOLD).requeue, Some(HOLD));
    }
}

#[test]
fn a_job_whose_new_version_is_refused_is_still_suspended() {
    let mut scheduler = read(FULL);
    let live = cron_job(&scheduler, &scheduler.spec.jobs[0], None, false).unwrap();
    assert_eq!(suspended_only(&scheduler, &live), None, "it runs, as desired");
    scheduler.spec.run_policy = RunPolicy::Suspended;
    scheduler.spec.jobs[0].schedule = "no schedule".into();
    let suspended = suspended_only(&scheduler, &live).unwrap();
    let (before, after) = (live.spec.unwrap(), suspended.spec.clone().unwrap());
    assert_eq!((after.suspend, after.schedule), (Some(true), before.schedule));
    assert_eq!(suspended_only(&scheduler, &suspended), None);
}
