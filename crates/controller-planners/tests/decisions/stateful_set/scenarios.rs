//! Several rounds: a set, a small cluster, and the actions of an administrator. The numbers T1… are those of
//! statefulset.md §15.

use jiff::SignedDuration;

use super::cluster::{Cluster, set_ready};

/// statefulset.md T1, 3.11: pods are created one after the other, each when the pod before is Ready.
#[test]
fn pods_are_created_in_order() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.step();
    assert_eq!(cluster.shows(), "0:a!");
    cluster.step();
    assert_eq!(cluster.shows(), "0:a!");
    cluster.kubelet();
    cluster.step();
    assert_eq!(cluster.shows(), "0:a 1:a!");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a");
    assert_eq!(cluster.status(), "3/3/3/3/3");
    assert_eq!(cluster.log, ["+web-0:a", "+web-1:a", "+web-2:a"]);
}

/// statefulset.md T2, 3.35: `minReadySeconds` pass between two pods.
#[test]
fn a_pod_must_be_available_before_the_next() {
    let mut cluster = Cluster::new("set replicas=2 new min-ready=10");
    cluster.step();
    cluster.kubelet();
    let plan = cluster.step();
    assert_eq!(plan.requeue_after.map(|delay| delay.as_secs()), Some(10));
    assert_eq!(
        (cluster.shows().as_str(), cluster.status().as_str()),
        ("0:a", "1/1/0/1/1")
    );
    cluster.now = cluster
        .now
        .checked_add(SignedDuration::from_secs(10))
        .unwrap();
    cluster.step();
    assert_eq!(cluster.shows(), "0:a 1:a!");
}

/// statefulset.md T3: a deleted pod is recreated, and its neighbours stay.
#[test]
fn a_deleted_pod_comes_back_alone() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.log.clear();
    cluster.delete_pod("web-1");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a");
    assert_eq!(cluster.log, ["+web-1:a"]);
}

/// statefulset.md T5: the set is scaled down from an unhealthy highest pod, one pod at a time.
#[test]
fn scaling_down_takes_the_highest_first() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.edit(|spec| spec.replicas = Some(5));
    cluster.step();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a 3:a!");
    cluster.edit(|spec| spec.replicas = Some(2));
    cluster.log.clear();
    cluster.step();
    cluster.step();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a 3:a!~");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a");
    assert_eq!(cluster.log, ["-web-3", "-web-2"]);
}

/// statefulset.md T7: all pods are created and deleted at once.
#[test]
fn parallel_sets_come_and_go_at_once() {
    let mut cluster = Cluster::new("set replicas=5 new parallel");
    cluster.step();
    assert_eq!(cluster.shows(), "0:a! 1:a! 2:a! 3:a! 4:a!");
    cluster.settle();
    cluster.edit(|spec| spec.replicas = Some(0));
    cluster.step();
    assert_eq!(cluster.shows(), "0:a~ 1:a~ 2:a~ 3:a~ 4:a~");
    cluster.settle();
    assert_eq!(cluster.shows(), "");
}

/// statefulset.md 5.2, 5.12: the update starts at the highest pod, and each pod must be available before the next; then
/// the update revision is current.
#[test]
fn a_rolling_update_goes_from_the_top() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.log.clear();
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:b 2:b");
    let order = [
        "-web-2", "+web-2:b", "-web-1", "+web-1:b", "-web-0", "+web-0:b",
    ];
    assert_eq!(cluster.log, order);
    let status = cluster.set.status.clone().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(cluster.status(), "3/3/3/3/3");
    assert_eq!(cluster.revisions.len(), 2);
}

fn partition(cluster: &mut Cluster, partition: i32) {
    cluster.edit(|spec| {
        let strategy = spec.update_strategy.as_mut().unwrap();
        strategy.rolling_update.as_mut().unwrap().partition = Some(partition);
    });
}

/// statefulset.md T10, T11, T12: a canary, a loss below the partition, and the rest of the update.
#[test]
fn a_partition_holds_back_and_lets_go() {
    let mut cluster = Cluster::new("set replicas=3 new partition=2");
    cluster.settle();
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:b");
    assert_eq!(cluster.status(), "3/3/3/2/1");
    cluster.delete_pod("web-0");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:b");
    cluster.log.clear();
    partition(&mut cluster, 0);
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:b 2:b");
    assert_eq!(cluster.log, ["-web-1", "+web-1:b", "-web-0", "+web-0:b"]);
}

/// statefulset.md T13, 5.5: a raised partition alone changes nothing, but a lost pod is recreated at the old revision.
#[test]
fn a_raised_partition_brings_lost_pods_back_at_the_old_revision() {
    let mut cluster = Cluster::new("set replicas=3 new partition=2");
    cluster.settle();
    cluster.set_image("b");
    cluster.settle();
    partition(&mut cluster, 3);
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:b");
    cluster.delete_pod("web-2");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a");
}

/// statefulset.md T14, 5.1: no pod is updated until a user deletes it, and the current revision never changes.
#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut cluster = Cluster::new("set replicas=2 new on-delete");
    cluster.settle();
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a");
    cluster.delete_pod("web-1");
    cluster.settle();
    cluster.delete_pod("web-0");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:b");
    let status = cluster.set.status.clone().unwrap();
    assert_ne!(status.current_revision, status.update_revision);
}

/// statefulset.md T16: a broken rollout continues as soon as the template is good; healthy pods are never deleted for
/// that.
#[test]
fn a_fixed_template_frees_a_broken_rollout() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:bad!");
    cluster.log.clear();
    cluster.set_image("c");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:c 1:c 2:c");
    assert_eq!(
        cluster.log[..4],
        ["-web-2", "+web-2:c", "-web-1", "+web-1:c"]
    );
}

/// statefulset.md T16 with a rollback: the pods that still have the old revision are not deleted.
#[test]
fn a_rollback_frees_a_broken_rollout() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    cluster.log.clear();
    cluster.set_image("a");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a");
    assert_eq!(cluster.log, ["-web-2", "+web-2:a"]);
}

/// statefulset.md 5.20, 5.21: the behaviour of kube-controller-manager, if the option requests it.
#[test]
fn without_recovery_a_broken_rollout_stays_broken() {
    let mut cluster = Cluster::new("set replicas=3 new stuck-rollout=Wait");
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    cluster.set_image("c");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:bad!");
    cluster.delete_pod("web-2");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:c 1:c 2:c");
}

/// A set whose first template is bad recovers too.
#[test]
fn a_set_that_never_worked_is_freed() {
    for policy in ["", "parallel", "bare-rolling-update"] {
        let mut cluster = Cluster::new(&format!("set replicas=3 new template=bad {policy}"));
        cluster.settle();
        cluster.set_image("b");
        cluster.settle();
        assert_eq!(cluster.shows(), "0:b 1:b 2:b", "{policy}");
    }
}

/// Two broken templates, one after the other, in the middle of a rollout.
#[test]
fn pods_of_several_abandoned_revisions_are_replaced() {
    let mut cluster = Cluster::new("set replicas=3 new parallel");
    cluster.settle();
    cluster.set_image("bad1");
    cluster.settle();
    cluster.set_image("bad2");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:bad2!");
    cluster.set_image("c");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:c 1:c 2:c");
}

/// A pod of the old revision that is unavailable for a moment is not deleted, if it has ever been Ready: the pod may be
/// recovering its data.
#[test]
fn a_pod_that_was_healthy_before_the_update_is_waited_for() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.now = cluster
        .now
        .checked_add(SignedDuration::from_secs(60))
        .unwrap();
    let now = cluster.now;
    set_ready(cluster.pods.get_mut("web-1").unwrap(), false, now);
    cluster
        .pods
        .get_mut("web-1")
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .phase = Some("Running".to_owned());
    cluster.set_image("b");
    cluster.step();
    cluster.step();
    assert_eq!(cluster.shows(), "0:a 1:a! 2:a");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:b 2:b");
}

/// statefulset.md T17, 4.6: a rollback gives the old revision a higher number; its former number is not used any more.
#[test]
fn a_rollback_takes_the_old_revision_again() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    cluster.set_image("b");
    cluster.settle();
    cluster.set_image("a");
    cluster.settle();
    let mut numbers: Vec<i64> = cluster.revisions.values().map(|r| r.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

/// statefulset.md T18, 4.11: only unused revisions count towards the limit.
#[test]
fn history_is_cut_at_its_limit() {
    for (limit, left) in [(10, 11), (0, 1), (-1, 13)] {
        let mut cluster = Cluster::new(&format!("set replicas=1 new limit={limit}"));
        cluster.settle();
        for number in 0..12 {
            cluster.set_image(&format!("image-{number}"));
            cluster.settle();
        }
        assert_eq!(cluster.revisions.len(), left, "limit {limit}");
    }
}

/// statefulset.md T19: only a change of the template creates a revision.
#[test]
fn other_changes_make_no_revision() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    cluster.edit(|spec| spec.replicas = Some(2));
    cluster.edit(|spec| spec.min_ready_seconds = Some(1));
    cluster.settle();
    assert_eq!(cluster.revisions.len(), 1);
    assert_eq!(
        cluster.set.status.as_ref().unwrap().observed_generation,
        Some(3)
    );
}

/// statefulset.md T25, 2.15: the claim is deleted with the pod, and a new pod waits for the deletion.
#[test]
fn claims_of_surplus_pods_go_when_the_policy_says_so() {
    let mut cluster = Cluster::new("set replicas=3 new claims=www scaled=Delete");
    cluster.settle();
    cluster.edit(|spec| spec.replicas = Some(2));
    cluster.step();
    let owners = cluster.claims["www-web-2"]
        .metadata
        .owner_references
        .clone()
        .unwrap();
    assert_eq!((owners.len(), owners[0].kind.as_str()), (1, "Pod"));
    cluster.pods.remove("web-2");
    cluster.edit(|spec| spec.replicas = Some(3));
    let plan = cluster.step();
    assert!(plan.actions().next().is_none());
    let former = cluster.claims["www-web-2"].metadata.uid.clone();
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a");
    assert_ne!(cluster.claims["www-web-2"].metadata.uid, former);
}

/// statefulset.md T27: with any policy, a pod that a user deletes keeps its data.
#[test]
fn claims_of_wanted_pods_stay() {
    for policy in [
        "",
        "scaled=Delete",
        "deleted=Delete",
        "scaled=Delete deleted=Delete",
    ] {
        let mut cluster = Cluster::new(&format!("set replicas=2 new claims=www {policy}"));
        cluster.settle();
        let before = cluster.claims.clone();
        cluster.delete_pod("web-1");
        cluster.settle();
        cluster.set_image("b");
        cluster.settle();
        assert_eq!(cluster.claims, before, "{policy}");
    }
}

/// statefulset.md T28, 2.13: references follow a change of the policy in both directions.
#[test]
fn a_changed_policy_changes_the_owners_of_claims() {
    let mut cluster = Cluster::new("set replicas=2 new claims=www");
    cluster.settle();
    let owners = |cluster: &Cluster| -> Vec<usize> {
        let count = |claim: &k8s_openapi::api::core::v1::PersistentVolumeClaim| {
            claim.metadata.owner_references.as_ref().map_or(0, Vec::len)
        };
        cluster.claims.values().map(count).collect()
    };
    let change = |cluster: &mut Cluster, to: &str| {
        let to = to.to_owned();
        cluster.edit(|spec| {
            let policy = spec
                .persistent_volume_claim_retention_policy
                .as_mut()
                .unwrap();
            policy.when_deleted = Some(to);
        });
        cluster.settle();
    };
    assert_eq!(owners(&cluster), [0, 0]);
    change(&mut cluster, "Delete");
    assert_eq!(owners(&cluster), [1, 1]);
    change(&mut cluster, "Retain");
    assert_eq!(owners(&cluster), [0, 0]);
}

/// statefulset.md T32, T34: existing pods without an owner are adopted; missing pods are created and surplus pods
/// deleted.
#[test]
fn leftover_pods_are_adopted() {
    let mut cluster = Cluster::new(
        "set replicas=2 new
         pod 1 ready a orphan
         pod 2 ready a orphan",
    );
    cluster.settle();
    assert_eq!(cluster.pods.keys().collect::<Vec<_>>(), ["web-0", "web-1"]);
    assert_eq!(cluster.log, ["+web-0:a", "-web-2"]);
}

/// statefulset.md T36, 1.3: pods of the new ordinals are created before pods of the former ordinals are deleted.
#[test]
fn a_changed_start_moves_the_set() {
    let mut cluster = Cluster::new("set replicas=3 new start=5");
    cluster.settle();
    assert_eq!(cluster.shows(), "5:a 6:a 7:a");
    cluster.edit(|spec| spec.ordinals.as_mut().unwrap().start = Some(0));
    cluster.log.clear();
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a");
    let order = [
        "+web-0:a", "+web-1:a", "+web-2:a", "-web-7", "-web-6", "-web-5",
    ];
    assert_eq!(cluster.log, order);
}

/// statefulset.md T43: after two quick edits the set has the last template.
#[test]
fn a_second_edit_overtakes_the_first() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.set_image("b");
    cluster.step();
    cluster.set_image("c");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:c 1:c 2:c");
    assert!(!cluster.log.contains(&"+web-1:b".to_owned()));
}

/// statefulset.md T45, 4.6: a revision with a different encoding of an equal template counts as equal.
#[test]
fn a_differently_encoded_revision_causes_no_restart() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    for revision in cluster.revisions.values_mut() {
        let data = &mut revision.data.as_mut().unwrap().0;
        data["spec"]["template"]["metadata"]["creationTimestamp"] = serde_json::Value::Null;
    }
    assert!(cluster.step().is_idle());
}
