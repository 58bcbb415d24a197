//! The annotations that restore the behaviour of kube-controller-manager, compared with the default behaviour.

use std::time::Duration;

use controller_planners::stateful_set::Cause;
use jiff::SignedDuration;

use super::cluster::{Cluster, set_ready};

fn break_pod(cluster: &mut Cluster, name: &str) {
    let now = cluster.now;
    set_ready(cluster.pods.get_mut(name).unwrap(), false, now);
}

/// T6, 3.14: two unhealthy surplus pods wait for each other, until one of the pods recovers.
#[test]
fn two_unhealthy_surplus_pods_wait_if_that_is_asked_for() {
    let pods = "revisions a=1\npod 0 ready a\npod 1 pending a\npod 2 pending a";
    let mut cluster = Cluster::new(&format!("set replicas=1 scale-down=WaitForLowest\n{pods}"));
    for _ in 0..3 {
        let plan = cluster.step();
        assert_eq!(cluster.shows(), "0: 1:! 2:!");
        let cause = Cause::LowerUnhealthy {
            pod: "web-2".to_owned(),
            lower: "web-1".to_owned(),
            until: None,
        };
        assert_eq!(plan.waiting_on[0].cause, cause);
    }
    cluster.kubelet();
    cluster.settle();
    assert_eq!(cluster.log, ["-web-2", "-web-1"]);
    let mut cluster = Cluster::new(&format!("set replicas=1\n{pods}"));
    cluster.step();
    assert_eq!(cluster.shows(), "0: 1:! 2:!~");
}

/// 3.13, 3.14: pods that were healthy a moment ago may recover, as Kubernetes' own test of scaling expects; the time is
/// limited, and there is no time with `HighestFirst`.
#[test]
fn surplus_pods_that_got_unhealthy_may_recover_for_a_moment() {
    let with = |words: &str| {
        let text = format!("set replicas=1{words}\nrevisions a=1\npod 0 ready a");
        let mut cluster = Cluster::new(&format!("{text}\npod 1 ready a\npod 2 ready a"));
        cluster.now += SignedDuration::from_secs(100);
        break_pod(&mut cluster, "web-1");
        break_pod(&mut cluster, "web-2");
        cluster
    };
    let mut cluster = with("");
    let plan = cluster.step();
    assert_eq!(cluster.shows(), "0: 1:! 2:!");
    let cause = Cause::LowerUnhealthy {
        pod: "web-2".to_owned(),
        lower: "web-1".to_owned(),
        until: Some(cluster.now + SignedDuration::from_secs(60)),
    };
    assert_eq!(plan.waiting_on[0].cause, cause);
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(60)));
    // An unhealthy surplus pod without an unhealthy lower pod does not wait.
    let mut recovered = with("");
    set_ready(
        recovered.objects.pods.get_mut("web-1").unwrap(),
        true,
        recovered.now,
    );
    recovered.step();
    assert_eq!(recovered.shows(), "0: 1: 2:!~");
    cluster.now += SignedDuration::from_secs(59);
    cluster.step();
    assert_eq!(cluster.shows(), "0: 1:! 2:!");
    cluster.now += SignedDuration::from_secs(1);
    cluster.step();
    assert_eq!(cluster.shows(), "0: 1:! 2:!~");
    let mut cluster = with(" scale-down=HighestFirst");
    cluster.step();
    assert_eq!(cluster.shows(), "0: 1:! 2:!~");
}

/// 3.13: a single unhealthy surplus pod is deleted, and so is a healthy surplus pod.
#[test]
fn other_surplus_pods_go_as_usual() {
    let start = "set replicas=1 scale-down=WaitForLowest\nrevisions a=1\npod 0 ready a\n";
    for (pods, expected) in [
        ("pod 1 ready a\npod 2 pending a", "0: 1: 2:!~"),
        ("pod 1 pending a\npod 2 ready a", "0: 1:! 2:~"),
    ] {
        let mut cluster = Cluster::new(&format!("{start}{pods}"));
        cluster.step();
        assert_eq!(cluster.shows(), expected);
    }
}

/// T44, 3.43, 3.44, 3.45: an unavailable outdated pod is replaced first, or blocks the update without end, as the
/// option demands.
#[test]
fn a_broken_pod_uses_up_the_budget_if_that_is_asked_for() {
    let text = "set replicas=3 parallel max=1 stuck-rollout=Wait";
    let settle = |words: &str| {
        let mut cluster = Cluster::new(&format!("{text} new {words}"));
        cluster.settle();
        break_pod(&mut cluster, "web-1");
        cluster.set_image("b");
        cluster.log.clear();
        for _ in 0..3 {
            cluster.step();
        }
        cluster.log
    };
    assert_eq!(settle(""), ["-web-1"]);
    assert_eq!(settle("max-unavailable=AsReleased"), Vec::<String>::new());
}

/// 2.14: a pod that was surplus for a short time, and failed, keeps its data when its ordinal is desired again.
#[test]
fn a_claim_given_away_is_taken_back_before_its_pod_goes() {
    let mut cluster = Cluster::new(
        "set replicas=1 claims=www scaled=Delete
         revisions a=1
         pod 0 failed a
         claim www-web-0 owner=pod",
    );
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a");
    let claim = &cluster.claims["www-web-0"];
    assert_eq!(claim.metadata.uid.as_deref(), Some("uid-www-web-0"));
    assert_eq!(claim.metadata.owner_references.as_deref(), Some(&[][..]));
}
