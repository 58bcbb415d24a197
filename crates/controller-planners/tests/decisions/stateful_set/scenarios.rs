//! Several rounds: a set, a small cluster, and the actions of an administrator. The numbers T1… are those of
//! statefulset.md §15.

use jiff::SignedDuration;

use super::world::{World, set_ready};

/// statefulset.md T1, 3.11: pods are created one after the other, each when the pod before is Ready.
#[test]
fn pods_are_created_in_order() {
    let mut world = World::new("set replicas=3 new");
    world.step();
    assert_eq!(world.shows(), "0:a!");
    world.step();
    assert_eq!(world.shows(), "0:a!");
    world.kubelet();
    world.step();
    assert_eq!(world.shows(), "0:a 1:a!");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:a");
    assert_eq!(world.status(), "3/3/3/3/3");
    assert_eq!(world.log, ["+web-0:a", "+web-1:a", "+web-2:a"]);
}

/// statefulset.md T2, 3.35: `minReadySeconds` pass between two pods.
#[test]
fn a_pod_must_be_available_before_the_next() {
    let mut world = World::new("set replicas=2 new min-ready=10");
    world.step();
    world.kubelet();
    let plan = world.step();
    assert_eq!(plan.requeue_after.map(|delay| delay.as_secs()), Some(10));
    assert_eq!(
        (world.shows().as_str(), world.status().as_str()),
        ("0:a", "1/1/0/1/1")
    );
    world.now = world
        .now
        .checked_add(SignedDuration::from_secs(10))
        .unwrap();
    world.step();
    assert_eq!(world.shows(), "0:a 1:a!");
}

/// statefulset.md T3: a deleted pod is recreated, and its neighbours stay.
#[test]
fn a_deleted_pod_comes_back_alone() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.log.clear();
    world.delete_pod("web-1");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:a");
    assert_eq!(world.log, ["+web-1:a"]);
}

/// statefulset.md T5: the set is scaled down from an unhealthy highest pod, one pod at a time.
#[test]
fn scaling_down_takes_the_highest_first() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.edit(|spec| spec.replicas = Some(5));
    world.step();
    assert_eq!(world.shows(), "0:a 1:a 2:a 3:a!");
    world.edit(|spec| spec.replicas = Some(2));
    world.log.clear();
    world.step();
    world.step();
    assert_eq!(world.shows(), "0:a 1:a 2:a 3:a!~");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a");
    assert_eq!(world.log, ["-web-3", "-web-2"]);
}

/// statefulset.md T7: all pods are created and deleted at once.
#[test]
fn parallel_sets_come_and_go_at_once() {
    let mut world = World::new("set replicas=5 new parallel");
    world.step();
    assert_eq!(world.shows(), "0:a! 1:a! 2:a! 3:a! 4:a!");
    world.settle();
    world.edit(|spec| spec.replicas = Some(0));
    world.step();
    assert_eq!(world.shows(), "0:a~ 1:a~ 2:a~ 3:a~ 4:a~");
    world.settle();
    assert_eq!(world.shows(), "");
}

/// statefulset.md 5.2, 5.12: the update starts at the highest pod, and each pod must be available before the next; then
/// the update revision is current.
#[test]
fn a_rolling_update_goes_from_the_top() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.log.clear();
    world.set_image("b");
    world.settle();
    assert_eq!(world.shows(), "0:b 1:b 2:b");
    let order = [
        "-web-2", "+web-2:b", "-web-1", "+web-1:b", "-web-0", "+web-0:b",
    ];
    assert_eq!(world.log, order);
    let status = world.set.status.clone().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(world.status(), "3/3/3/3/3");
    assert_eq!(world.revisions.len(), 2);
}

fn partition(world: &mut World, partition: i32) {
    world.edit(|spec| {
        let strategy = spec.update_strategy.as_mut().unwrap();
        strategy.rolling_update.as_mut().unwrap().partition = Some(partition);
    });
}

/// statefulset.md T10, T11, T12: a canary, a loss below the partition, and the rest of the update.
#[test]
fn a_partition_holds_back_and_lets_go() {
    let mut world = World::new("set replicas=3 new partition=2");
    world.settle();
    world.set_image("b");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:b");
    assert_eq!(world.status(), "3/3/3/2/1");
    world.delete_pod("web-0");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:b");
    world.log.clear();
    partition(&mut world, 0);
    world.settle();
    assert_eq!(world.shows(), "0:b 1:b 2:b");
    assert_eq!(world.log, ["-web-1", "+web-1:b", "-web-0", "+web-0:b"]);
}

/// statefulset.md T13, 5.5: a raised partition alone changes nothing, but a lost pod is recreated at the old revision.
#[test]
fn a_raised_partition_brings_lost_pods_back_at_the_old_revision() {
    let mut world = World::new("set replicas=3 new partition=2");
    world.settle();
    world.set_image("b");
    world.settle();
    partition(&mut world, 3);
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:b");
    world.delete_pod("web-2");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:a");
}

/// statefulset.md T14, 5.1: no pod is updated until a user deletes it, and the current revision never changes.
#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut world = World::new("set replicas=2 new on-delete");
    world.settle();
    world.set_image("b");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a");
    world.delete_pod("web-1");
    world.settle();
    world.delete_pod("web-0");
    world.settle();
    assert_eq!(world.shows(), "0:b 1:b");
    let status = world.set.status.clone().unwrap();
    assert_ne!(status.current_revision, status.update_revision);
}

/// statefulset.md T16: a broken rollout continues as soon as the template is good; healthy pods are never deleted for
/// that.
#[test]
fn a_fixed_template_frees_a_broken_rollout() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.set_image("bad");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:bad!");
    world.log.clear();
    world.set_image("c");
    world.settle();
    assert_eq!(world.shows(), "0:c 1:c 2:c");
    assert_eq!(world.log[..4], ["-web-2", "+web-2:c", "-web-1", "+web-1:c"]);
}

/// statefulset.md T16 with a rollback: the pods that still have the old revision are not deleted.
#[test]
fn a_rollback_frees_a_broken_rollout() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.set_image("bad");
    world.settle();
    world.log.clear();
    world.set_image("a");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:a");
    assert_eq!(world.log, ["-web-2", "+web-2:a"]);
}

/// statefulset.md 5.20, 5.21: the behaviour of kube-controller-manager, if the option requests it.
#[test]
fn without_recovery_a_broken_rollout_stays_broken() {
    let mut world = World::new("set replicas=3 new stuck-rollout=Wait");
    world.settle();
    world.set_image("bad");
    world.settle();
    world.set_image("c");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:bad!");
    world.delete_pod("web-2");
    world.settle();
    assert_eq!(world.shows(), "0:c 1:c 2:c");
}

/// A set whose first template is bad recovers too.
#[test]
fn a_set_that_never_worked_is_freed() {
    for policy in ["", "parallel", "bare-rolling-update"] {
        let mut world = World::new(&format!("set replicas=3 new template=bad {policy}"));
        world.settle();
        world.set_image("b");
        world.settle();
        assert_eq!(world.shows(), "0:b 1:b 2:b", "{policy}");
    }
}

/// Two broken templates, one after the other, in the middle of a rollout.
#[test]
fn pods_of_several_abandoned_revisions_are_replaced() {
    let mut world = World::new("set replicas=3 new parallel");
    world.settle();
    world.set_image("bad1");
    world.settle();
    world.set_image("bad2");
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:bad2!");
    world.set_image("c");
    world.settle();
    assert_eq!(world.shows(), "0:c 1:c 2:c");
}

/// A pod of the old revision that is unavailable for a moment is not deleted, if it has ever been Ready: the pod may be
/// recovering its data.
#[test]
fn a_pod_that_was_healthy_before_the_update_is_waited_for() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.now = world
        .now
        .checked_add(SignedDuration::from_secs(60))
        .unwrap();
    let now = world.now;
    set_ready(world.pods.get_mut("web-1").unwrap(), false, now);
    world
        .pods
        .get_mut("web-1")
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .phase = Some("Running".to_owned());
    world.set_image("b");
    world.step();
    world.step();
    assert_eq!(world.shows(), "0:a 1:a! 2:a");
    world.settle();
    assert_eq!(world.shows(), "0:b 1:b 2:b");
}

/// statefulset.md T17, 4.6: a rollback gives the old revision a higher number; its former number is not used any more.
#[test]
fn a_rollback_takes_the_old_revision_again() {
    let mut world = World::new("set replicas=1 new");
    world.settle();
    world.set_image("b");
    world.settle();
    world.set_image("a");
    world.settle();
    let mut numbers: Vec<i64> = world.revisions.values().map(|r| r.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

/// statefulset.md T18, 4.11: only unused revisions count towards the limit.
#[test]
fn history_is_cut_at_its_limit() {
    for (limit, left) in [(10, 11), (0, 1), (-1, 13)] {
        let mut world = World::new(&format!("set replicas=1 new limit={limit}"));
        world.settle();
        for number in 0..12 {
            world.set_image(&format!("image-{number}"));
            world.settle();
        }
        assert_eq!(world.revisions.len(), left, "limit {limit}");
    }
}

/// statefulset.md T19: only a change of the template creates a revision.
#[test]
fn other_changes_make_no_revision() {
    let mut world = World::new("set replicas=1 new");
    world.settle();
    world.edit(|spec| spec.replicas = Some(2));
    world.edit(|spec| spec.min_ready_seconds = Some(1));
    world.settle();
    assert_eq!(world.revisions.len(), 1);
    assert_eq!(
        world.set.status.as_ref().unwrap().observed_generation,
        Some(3)
    );
}

/// statefulset.md T25, 2.15: the claim is deleted with the pod, and a new pod waits for the deletion.
#[test]
fn claims_of_surplus_pods_go_when_the_policy_says_so() {
    let mut world = World::new("set replicas=3 new claims=www scaled=Delete");
    world.settle();
    world.edit(|spec| spec.replicas = Some(2));
    world.step();
    let owners = world.claims["www-web-2"]
        .metadata
        .owner_references
        .clone()
        .unwrap();
    assert_eq!((owners.len(), owners[0].kind.as_str()), (1, "Pod"));
    world.pods.remove("web-2");
    world.edit(|spec| spec.replicas = Some(3));
    let plan = world.step();
    assert!(plan.actions().next().is_none());
    let former = world.claims["www-web-2"].metadata.uid.clone();
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:a");
    assert_ne!(world.claims["www-web-2"].metadata.uid, former);
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
        let mut world = World::new(&format!("set replicas=2 new claims=www {policy}"));
        world.settle();
        let before = world.claims.clone();
        world.delete_pod("web-1");
        world.settle();
        world.set_image("b");
        world.settle();
        assert_eq!(world.claims, before, "{policy}");
    }
}

/// statefulset.md T28, 2.13: references follow a change of the policy in both directions.
#[test]
fn a_changed_policy_changes_the_owners_of_claims() {
    let mut world = World::new("set replicas=2 new claims=www");
    world.settle();
    let owners = |world: &World| -> Vec<usize> {
        let count = |claim: &k8s_openapi::api::core::v1::PersistentVolumeClaim| {
            claim.metadata.owner_references.as_ref().map_or(0, Vec::len)
        };
        world.claims.values().map(count).collect()
    };
    let change = |world: &mut World, to: &str| {
        let to = to.to_owned();
        world.edit(|spec| {
            let policy = spec
                .persistent_volume_claim_retention_policy
                .as_mut()
                .unwrap();
            policy.when_deleted = Some(to);
        });
        world.settle();
    };
    assert_eq!(owners(&world), [0, 0]);
    change(&mut world, "Delete");
    assert_eq!(owners(&world), [1, 1]);
    change(&mut world, "Retain");
    assert_eq!(owners(&world), [0, 0]);
}

/// statefulset.md T32, T34: existing pods without an owner are adopted; missing pods are created and surplus pods
/// deleted.
#[test]
fn leftover_pods_are_adopted() {
    let mut world = World::new(
        "set replicas=2 new
         pod 1 ready a orphan
         pod 2 ready a orphan",
    );
    world.settle();
    assert_eq!(world.pods.keys().collect::<Vec<_>>(), ["web-0", "web-1"]);
    assert_eq!(world.log, ["+web-0:a", "-web-2"]);
}

/// statefulset.md T36, 1.3: pods of the new ordinals are created before pods of the former ordinals are deleted.
#[test]
fn a_changed_start_moves_the_set() {
    let mut world = World::new("set replicas=3 new start=5");
    world.settle();
    assert_eq!(world.shows(), "5:a 6:a 7:a");
    world.edit(|spec| spec.ordinals.as_mut().unwrap().start = Some(0));
    world.log.clear();
    world.settle();
    assert_eq!(world.shows(), "0:a 1:a 2:a");
    let order = [
        "+web-0:a", "+web-1:a", "+web-2:a", "-web-7", "-web-6", "-web-5",
    ];
    assert_eq!(world.log, order);
}

/// statefulset.md T43: after two quick edits the set has the last template.
#[test]
fn a_second_edit_overtakes_the_first() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.set_image("b");
    world.step();
    world.set_image("c");
    world.settle();
    assert_eq!(world.shows(), "0:c 1:c 2:c");
    assert!(!world.log.contains(&"+web-1:b".to_owned()));
}

/// statefulset.md T45, 4.6: a revision with a different encoding of an equal template counts as equal.
#[test]
fn a_differently_encoded_revision_causes_no_restart() {
    let mut world = World::new("set replicas=1 new");
    world.settle();
    for revision in world.revisions.values_mut() {
        let data = &mut revision.data.as_mut().unwrap().0;
        data["spec"]["template"]["metadata"]["creationTimestamp"] = serde_json::Value::Null;
    }
    assert!(world.step().is_idle());
}
