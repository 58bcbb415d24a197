//! Deployments: the writes for each situation; and every rollout completes.

mod cluster;

use json_tree::json;
use proptest::prelude::*;

use cluster::Cluster;

#[test]
fn a_new_deployment_gets_a_replica_set() {
    let mut cluster = Cluster::new(3, json!({}));
    cluster.set_image("a");
    assert_eq!(cluster.step(), ["create a 3"]);
    cluster.settle();
    assert_eq!(cluster.shows(), "a:3/3");
    assert_eq!(cluster.progress(), "NewReplicaSetAvailable");
    assert_eq!(cluster.revision(), "1");
    let set = &cluster.observed.sets[0];
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(set.metadata.name.as_ref().unwrap(), &format!("web-{hash}"));
    let selector = set.spec.as_ref().unwrap().selector.match_labels.as_ref();
    assert_eq!(&selector.unwrap()["pod-template-hash"], hash);
}

#[test]
fn a_rolling_update_goes_up_first_then_down() {
    let mut cluster = Cluster::new(
        4,
        json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}),
    );
    cluster.set_image("a");
    cluster.settle();
    cluster.set_image("b");
    assert_eq!(cluster.step(), ["create b 1"]);
    assert_eq!(cluster.step(), ["scale a 4→2"]);
    assert_eq!(cluster.step(), ["scale b 1→3"]);
    cluster.settle();
    assert_eq!(cluster.shows(), "a:0/0 b:4/4");
}

#[test]
fn a_rollback_finds_the_old_set_and_numbers_it_anew() {
    let mut cluster = Cluster::new(1, json!({}));
    for image in ["a", "b", "a"] {
        cluster.set_image(image);
        cluster.settle();
    }
    assert_eq!(cluster.shows(), "a:1/1 b:0/0");
    assert_eq!(cluster.revision(), "3");
    let annotations = cluster.observed.sets[0]
        .metadata
        .annotations
        .clone()
        .unwrap();
    assert_eq!(
        annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
}

#[test]
fn a_bad_template_times_out() {
    let mut cluster = Cluster::new(
        2,
        json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
    );
    cluster.set_image("a");
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    assert_eq!(cluster.shows(), "a:2/2 bad:1/0");
    assert_eq!(cluster.progress(), "ReplicaSetUpdated");
    assert!(cluster.plan().requeue_after.is_some());
    cluster.wait(601);
    cluster.settle();
    assert_eq!(cluster.progress(), "ProgressDeadlineExceeded");
    assert_eq!(cluster.plan().requeue_after, None);
    cluster.set_image("a");
    cluster.settle();
    assert_eq!(cluster.shows(), "a:2/2 bad:0/0");
    assert_eq!(cluster.progress(), "NewReplicaSetAvailable");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_shares() {
    let mut cluster = Cluster::new(
        10,
        json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}),
    );
    cluster.set_image("a");
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    assert_eq!(cluster.shows(), "a:8/8 bad:5/0");
    cluster.scale(15);
    // 18 pods are allowed: 11 old pods and 7 new pods.
    assert_eq!(cluster.step(), ["scale a 8→11", "scale bad 5→7"]);
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled_out() {
    let mut cluster = Cluster::new(2, json!({}));
    cluster.set_image("a");
    cluster.settle();
    cluster.pause(true);
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "a:2/2");
    assert_eq!(cluster.progress(), "DeploymentPaused");
    cluster.scale(3);
    cluster.settle();
    assert_eq!(cluster.shows(), "a:3/3");
    cluster.pause(false);
    cluster.settle();
    assert_eq!(cluster.shows(), "a:0/0 b:3/3");
}

#[test]
fn the_past_is_forgotten_beyond_the_limit() {
    let mut cluster = Cluster::new(1, json!({}));
    cluster.limit_history(2);
    for image in ["a", "b", "c", "d", "e"] {
        cluster.set_image(image);
        cluster.settle();
    }
    assert_eq!(cluster.shows(), "c:0/0 d:0/0 e:1/1");
}

#[test]
fn a_set_of_somebody_else_is_left_alone_and_its_name_avoided() {
    let mut cluster = Cluster::new(1, json!({}));
    cluster.set_image("a");
    let mut foreign = cluster.planned_set();
    foreign.metadata.owner_references = None;
    foreign.metadata.labels = None;
    foreign.spec.as_mut().unwrap().template = None;
    let name = foreign.metadata.name.clone();
    cluster.add(foreign.clone());
    let created = cluster.planned_set();
    assert_ne!(created.metadata.name, name);
    assert_eq!(cluster.step(), ["create a 1"]);
    assert_eq!(
        cluster
            .observed
            .deployment
            .status
            .as_ref()
            .unwrap()
            .collision_count,
        Some(1)
    );
    let foreign_set = cluster
        .observed
        .sets
        .iter()
        .find(|set| set.metadata.name == name);
    assert!(foreign_set.unwrap().metadata.owner_references.is_none());
}

#[test]
fn an_orphan_is_adopted_after_a_fresh_look() {
    let mut cluster = Cluster::new(1, json!({}));
    cluster.set_image("a");
    let mut orphan = cluster.planned_set();
    orphan.metadata.owner_references = None;
    cluster.add(orphan);
    let plan = cluster.plan();
    let kinds: Vec<String> = plan.actions.iter().map(cluster::brief).take(2).collect();
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
        let mut cluster = Cluster::new(3, strategy);
        cluster.set_image("a");
        for event in events {
            match event {
                Event::Image(image) => cluster.set_image(image),
                Event::Scale(replicas) => cluster.scale(replicas),
                Event::Pause(paused) => cluster.pause(paused),
                Event::Wait(seconds) => cluster.wait(seconds),
                Event::Step => {
                    cluster.step();
                    cluster.check();
                }
            }
        }
        cluster.pause(false);
        cluster.set_image("z");
        cluster.settle();
        let desired = cluster.replicas();
        prop_assert!(cluster.shows().ends_with(&format!("z:{desired}/{desired}")), "{}", cluster.shows());
        prop_assert_eq!(cluster.total(), desired);
        prop_assert!(cluster.plan().is_idle());
    }
}
