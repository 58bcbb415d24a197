//! The annotations that restore the behaviour of kube-controller-manager, compared with the default behaviour.

use std::time::Duration;

use controller_planners::stateful_set::Cause;
use jiff::SignedDuration;

use super::world::{World, set_ready};

fn break_pod(world: &mut World, name: &str) {
    let now = world.now;
    set_ready(world.pods.get_mut(name).unwrap(), false, now);
}

/// T6, 3.14: two unhealthy surplus pods wait for each other, until one of the pods recovers.
#[test]
fn two_unhealthy_surplus_pods_wait_if_that_is_asked_for() {
    let pods = "revisions a=1\npod 0 ready a\npod 1 pending a\npod 2 pending a";
    let mut world = World::new(&format!("set replicas=1 scale-down=WaitForLowest\n{pods}"));
    for _ in 0..3 {
        let plan = world.step();
        assert_eq!(world.shows(), "0: 1:! 2:!");
        let cause = Cause::LowerUnhealthy {
            pod: "web-2".to_owned(),
            lower: "web-1".to_owned(),
            until: None,
        };
        assert_eq!(plan.waiting_on[0].cause, cause);
    }
    world.kubelet();
    world.settle();
    assert_eq!(world.log, ["-web-2", "-web-1"]);
    let mut world = World::new(&format!("set replicas=1\n{pods}"));
    world.step();
    assert_eq!(world.shows(), "0: 1:! 2:!~");
}

/// 3.13, 3.14: pods that were healthy a moment ago may recover, as Kubernetes' own test of scaling expects; the time is
/// limited, and there is no time with `HighestFirst`.
#[test]
fn surplus_pods_that_got_unhealthy_may_recover_for_a_moment() {
    let with = |words: &str| {
        let text = format!("set replicas=1{words}\nrevisions a=1\npod 0 ready a");
        let mut world = World::new(&format!("{text}\npod 1 ready a\npod 2 ready a"));
        world.now += SignedDuration::from_secs(100);
        break_pod(&mut world, "web-1");
        break_pod(&mut world, "web-2");
        world
    };
    let mut world = with("");
    let plan = world.step();
    assert_eq!(world.shows(), "0: 1:! 2:!");
    let cause = Cause::LowerUnhealthy {
        pod: "web-2".to_owned(),
        lower: "web-1".to_owned(),
        until: Some(world.now + SignedDuration::from_secs(60)),
    };
    assert_eq!(plan.waiting_on[0].cause, cause);
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(60)));
    // An unhealthy surplus pod without an unhealthy lower pod does not wait.
    let mut recovered = with("");
    set_ready(
        recovered.pods.get_mut("web-1").unwrap(),
        true,
        recovered.now,
    );
    recovered.step();
    assert_eq!(recovered.shows(), "0: 1: 2:!~");
    world.now += SignedDuration::from_secs(59);
    world.step();
    assert_eq!(world.shows(), "0: 1:! 2:!");
    world.now += SignedDuration::from_secs(1);
    world.step();
    assert_eq!(world.shows(), "0: 1:! 2:!~");
    let mut world = with(" scale-down=HighestFirst");
    world.step();
    assert_eq!(world.shows(), "0: 1:! 2:!~");
}

/// 3.13: a single unhealthy surplus pod is deleted, and so is a healthy surplus pod.
#[test]
fn other_surplus_pods_go_as_usual() {
    let start = "set replicas=1 scale-down=WaitForLowest\nrevisions a=1\npod 0 ready a\n";
    for (pods, expected) in [
        ("pod 1 ready a\npod 2 pending a", "0: 1: 2:!~"),
        ("pod 1 pending a\npod 2 ready a", "0: 1:! 2:~"),
    ] {
        let mut world = World::new(&format!("{start}{pods}"));
        world.step();
        assert_eq!(world.shows(), expected);
    }
}

/// T44, 3.43, 3.44, 3.45: an unavailable outdated pod is replaced first, or blocks the update without end, as the
/// option demands.
#[test]
fn a_broken_pod_uses_up_the_budget_if_that_is_asked_for() {
    let text = "set replicas=3 parallel max=1 stuck-rollout=Wait";
    let settle = |words: &str| {
        let mut world = World::new(&format!("{text} new {words}"));
        world.settle();
        break_pod(&mut world, "web-1");
        world.set_image("b");
        world.log.clear();
        for _ in 0..3 {
            world.step();
        }
        world.log
    };
    assert_eq!(settle(""), ["-web-1"]);
    assert_eq!(settle("max-unavailable=AsReleased"), Vec::<String>::new());
}

/// 2.14: a pod that was surplus for a short time, and failed, keeps its data when its ordinal is desired again.
#[test]
fn a_claim_given_away_is_taken_back_before_its_pod_goes() {
    let mut world = World::new(
        "set replicas=1 claims=www scaled=Delete
         revisions a=1
         pod 0 failed a
         claim www-web-0 owner=pod",
    );
    world.settle();
    assert_eq!(world.shows(), "0:a");
    let claim = &world.claims["www-web-0"];
    assert_eq!(claim.metadata.uid.as_deref(), Some("uid-www-web-0"));
    assert_eq!(claim.metadata.owner_references.as_deref(), Some(&[][..]));
}
