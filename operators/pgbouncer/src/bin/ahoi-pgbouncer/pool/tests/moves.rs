//! A pool that moves from one fleet to another.

use super::*;

/// Ready in the fleet `global`, and moving to the fleet `other`, which has a process.
async fn moving() -> World {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    world.pool.spec.pg_bouncer_ref.name = "other".into();
    world.pods.push(pod("other-0"));
    world.reconcile().await;
    world
}

/// The process of the other fleet has loaded everything there is.
fn prove_other(world: &mut World) {
    world.fleets[1] = fleet("other", vec![process("other-0", version(&world.pool))]);
}

fn former(world: &World) -> Vec<(String, FormerState)> {
    let former = &world.pool.status.as_ref().unwrap().former_places;
    former.iter().map(|former| (former.place.fleet.name.clone(), former.state)).collect()
}

#[tokio::test]
async fn the_former_fleet_serves_until_clients_had_time_to_leave() {
    let mut world = moving().await;
    let status = world.pool.status.clone().unwrap();
    assert_eq!(status.place.unwrap().fleet.name, "other");
    assert_eq!(former(&world), [("global".to_owned(), FormerState::Serving)]);
    assert_eq!(world.reconcile().await.1, Vec::<String>::new());
    assert_eq!(former(&world), [("global".to_owned(), FormerState::Serving)], "the Secret points there");

    prove_other(&mut world);
    let written = vec!["PUT /api/v1/namespaces/customer-a/secrets/a-pool".to_owned()];
    assert_eq!(world.reconcile().await, (READY.into(), written));
    assert_eq!(former(&world), [("global".to_owned(), FormerState::Left)]);
    let before = version(&world.pool);
    let again = world.controller().reconcile(&world.pool).await.unwrap().requeue.unwrap();
    assert!((290..=300).contains(&again.as_secs()), "{again:?}");
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    assert_eq!(version(&world.pool), before, "nothing is written while time passes");

    world.pool.status.as_mut().unwrap().former_places[0].since = Time("2026-01-01T00:00:00Z".parse().unwrap());
    for _ in 0..2 {
        assert_eq!(world.reconcile().await, (READY.into(), vec![]));
        assert_eq!(former(&world), [("global".to_owned(), FormerState::Draining)], "no process has proved the end");
    }
    world.prove();
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    assert!(former(&world).is_empty());
    assert_eq!(world.controller().reconcile(&world.pool).await.unwrap().requeue, None);
}

#[tokio::test]
async fn a_deleted_former_fleet_is_left_at_once() {
    let mut world = moving().await;
    world.fleets.remove(0);
    let (ready, _) = world.reconcile().await;
    assert_eq!(ready, "Routing: waiting for every process of the PgBouncer ahoi-system/other to load the route");
    assert!(former(&world).is_empty());
}

#[tokio::test]
async fn a_reverted_move_ends_nothing() {
    let mut world = moving().await;
    world.pool.spec.pg_bouncer_ref.name = "global".into();
    assert_eq!(world.reconcile().await, (ROUTING.into(), vec![]));
    assert_eq!(world.pool.status.as_ref().unwrap().place.as_ref().unwrap().fleet.name, "global");
    assert_eq!(former(&world), [("other".to_owned(), FormerState::Left)], "the Secret never pointed there");
    world.prove();
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
}

#[tokio::test]
async fn a_login_is_used_for_as_long_as_the_former_fleet_has_clients_of_it() {
    let mut world = moving().await;
    prove_other(&mut world);
    world.reconcile().await;
    rotate(&mut world);
    world.reconcile().await;
    assert_eq!(world.pool.status.as_ref().unwrap().route.as_ref().unwrap().retiring.as_deref(), Some("c_a_a"));
    let unused = |world: &World| world.pool.status.as_ref().unwrap().unused_login.clone();
    prove_other(&mut world);
    world.prove();
    world.fleets[0].status.as_mut().unwrap().processes[1].retiring = vec!["c_a_a".into()];
    world.reconcile().await;
    assert_eq!(unused(&world), None);
    world.prove();
    world.reconcile().await;
    assert_eq!(unused(&world).as_deref(), Some("c_a_a"));
}

#[tokio::test]
async fn a_pool_that_is_deleted_while_it_moves_waits_for_both_fleets() {
    let mut world = moving().await;
    world.pool.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::now()));
    world.pool.status.as_mut().unwrap().route = None;
    prove_other(&mut world);
    let waits = world.controller().cleanup(&world.pool).await;
    assert!(matches!(waits, Err(Error::Waiting { .. })), "the former fleet has not proved it");
    world.prove();
    assert!(world.controller().cleanup(&world.pool).await.is_ok());
}

#[tokio::test]
async fn the_secret_points_to_another_fleet_when_that_serves() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    world.pool.spec.pg_bouncer_ref.name = "other".into();
    let waiting = "NoProcesses: waiting for a ready process of the PgBouncer ahoi-system/other";
    assert_eq!(world.reconcile().await, (waiting.into(), vec![]));
    assert_eq!(world.reconcile().await, (waiting.into(), vec![]));
    world.pods.push(pod("other-0"));
    let mut other = both(version(&world.pool));
    other[0].pod = "other-0".into();
    other[0].uid = "uid-other-0".into();
    world.fleets[1] = fleet("other", other);
    assert_eq!(
        world.reconcile().await,
        (READY.into(), vec!["PUT /api/v1/namespaces/customer-a/secrets/a-pool".into()])
    );
}
