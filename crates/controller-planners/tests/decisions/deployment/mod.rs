//! Deployments: the writes for each situation; and every rollout completes.

mod world;

use json_tree::json;
use proptest::prelude::*;

use world::World;

#[test]
fn a_new_deployment_gets_a_replica_set() {
    let mut world = World::new(3, json!({}));
    world.set_image("a");
    assert_eq!(world.step(), ["create a 3"]);
    world.settle();
    assert_eq!(world.shows(), "a:3/3");
    assert_eq!(world.progress(), "NewReplicaSetAvailable");
    assert_eq!(world.revision(), "1");
    let set = &world.observed.sets[0];
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(set.metadata.name.as_ref().unwrap(), &format!("web-{hash}"));
    let selector = set.spec.as_ref().unwrap().selector.match_labels.as_ref();
    assert_eq!(&selector.unwrap()["pod-template-hash"], hash);
}

#[test]
fn a_rolling_update_goes_up_first_then_down() {
    let mut world = World::new(
        4,
        json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}),
    );
    world.set_image("a");
    world.settle();
    world.set_image("b");
    assert_eq!(world.step(), ["create b 1"]);
    assert_eq!(world.step(), ["scale a 4→2"]);
    assert_eq!(world.step(), ["scale b 1→3"]);
    world.settle();
    assert_eq!(world.shows(), "a:0/0 b:4/4");
}

#[test]
fn a_rollback_finds_the_old_set_and_numbers_it_anew() {
    let mut world = World::new(1, json!({}));
    for image in ["a", "b", "a"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.shows(), "a:1/1 b:0/0");
    assert_eq!(world.revision(), "3");
    let annotations = world.observed.sets[0].metadata.annotations.clone().unwrap();
    assert_eq!(
        annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
}

#[test]
fn a_bad_template_times_out() {
    let mut world = World::new(
        2,
        json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
    );
    world.set_image("a");
    world.settle();
    world.set_image("bad");
    world.settle();
    assert_eq!(world.shows(), "a:2/2 bad:1/0");
    assert_eq!(world.progress(), "ReplicaSetUpdated");
    assert!(world.plan().requeue_after.is_some());
    world.wait(601);
    world.settle();
    assert_eq!(world.progress(), "ProgressDeadlineExceeded");
    assert_eq!(world.plan().requeue_after, None);
    world.set_image("a");
    world.settle();
    assert_eq!(world.shows(), "a:2/2 bad:0/0");
    assert_eq!(world.progress(), "NewReplicaSetAvailable");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_shares() {
    let mut world = World::new(
        10,
        json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}),
    );
    world.set_image("a");
    world.settle();
    world.set_image("bad");
    world.settle();
    assert_eq!(world.shows(), "a:8/8 bad:5/0");
    world.scale(15);
    // 18 pods are allowed: 11 old pods and 7 new pods.
    assert_eq!(world.step(), ["scale a 8→11", "scale bad 5→7"]);
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled_out() {
    let mut world = World::new(2, json!({}));
    world.set_image("a");
    world.settle();
    world.pause(true);
    world.set_image("b");
    world.settle();
    assert_eq!(world.shows(), "a:2/2");
    assert_eq!(world.progress(), "DeploymentPaused");
    world.scale(3);
    world.settle();
    assert_eq!(world.shows(), "a:3/3");
    world.pause(false);
    world.settle();
    assert_eq!(world.shows(), "a:0/0 b:3/3");
}

#[test]
fn the_past_is_forgotten_beyond_the_limit() {
    let mut world = World::new(1, json!({}));
    world.limit_history(2);
    for image in ["a", "b", "c", "d", "e"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.shows(), "c:0/0 d:0/0 e:1/1");
}

#[test]
fn a_set_of_somebody_else_is_left_alone_and_its_name_avoided() {
    let mut world = World::new(1, json!({}));
    world.set_image("a");
    let mut foreign = world.planned_set();
    foreign.metadata.owner_references = None;
    foreign.metadata.labels = None;
    foreign.spec.as_mut().unwrap().template = None;
    let name = foreign.metadata.name.clone();
    world.add(foreign.clone());
    let created = world.planned_set();
    assert_ne!(created.metadata.name, name);
    assert_eq!(world.step(), ["create a 1"]);
    assert_eq!(
        world
            .observed
            .deployment
            .status
            .as_ref()
            .unwrap()
            .collision_count,
        Some(1)
    );
    let foreign_set = world
        .observed
        .sets
        .iter()
        .find(|set| set.metadata.name == name);
    assert!(foreign_set.unwrap().metadata.owner_references.is_none());
}

#[test]
fn an_orphan_is_adopted_after_a_fresh_look() {
    let mut world = World::new(1, json!({}));
    world.set_image("a");
    let mut orphan = world.planned_set();
    orphan.metadata.owner_references = None;
    world.add(orphan);
    let plan = world.plan();
    let kinds: Vec<String> = plan.actions.iter().map(world::brief).take(2).collect();
    assert_eq!(kinds, ["confirm", "adopt"]);
}

/// A random event of a Deployment.
#[derive(Clone, Debug)]
enum Event {
    Image(&'static str),
    Scale(i32),
    Pause(bool),
    Step,
    Wait(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        prop_oneof![Just("a"), Just("b"), Just("c"), Just("bad")].prop_map(Event::Image),
        (0..8).prop_map(Event::Scale),
        any::<bool>().prop_map(Event::Pause),
        Just(Event::Step),
        Just(Event::Step),
        Just(Event::Step),
        (1_i64..700).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// After any events the Deployment has its pods and the plan is empty, once the events stop and the template works.
    #[test]
    fn a_deployment_gets_there(
        events in events(), surge in 0_i32..3, unavailable in 0_i32..3, recreate in any::<bool>()
    ) {
        let strategy = if recreate {
            json!({"type": "Recreate"})
        } else {
            let surge = if unavailable == 0 { surge.max(1) } else { surge };
            json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
        };
        let mut world = World::new(3, strategy);
        world.set_image("a");
        for event in events {
            match event {
                Event::Image(image) => world.set_image(image),
                Event::Scale(replicas) => world.scale(replicas),
                Event::Pause(paused) => world.pause(paused),
                Event::Wait(seconds) => world.wait(seconds),
                Event::Step => {
                    world.step();
                    world.check();
                }
            }
        }
        world.pause(false);
        world.set_image("z");
        world.settle();
        let desired = world.replicas();
        prop_assert!(world.shows().ends_with(&format!("z:{desired}/{desired}")), "{}", world.shows());
        prop_assert_eq!(world.total(), desired);
        prop_assert!(world.plan().is_idle());
    }
}
