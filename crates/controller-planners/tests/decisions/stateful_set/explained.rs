//! Conditions and events of a set, the progress deadline, and the waits between pods.

use controller_planners::stateful_set::{Cause, StatefulSetPlan};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::StatefulSetCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::world::{World, set_ready};

fn condition(world: &World, kind: &str) -> StatefulSetCondition {
    let status = world.set.status.as_ref().unwrap();
    let mut all = status.conditions.iter().flatten();
    all.find(|condition| condition.type_ == kind)
        .unwrap()
        .clone()
}

/// `True RolloutComplete`: the status and the reason of a condition.
fn short(world: &World, kind: &str) -> String {
    let condition = condition(world, kind);
    format!("{} {}", condition.status, condition.reason.unwrap())
}

fn message(world: &World, kind: &str) -> String {
    condition(world, kind).message.unwrap_or_default()
}

fn told(plan: &StatefulSetPlan) -> Vec<String> {
    let level = |warning| if warning { "Warning" } else { "Normal" };
    let notices = plan.notices.iter();
    notices
        .map(|notice| format!("{} {}", level(notice.warning), notice.reason))
        .collect()
}

fn wait(world: &mut World, seconds: i64) {
    world.now = world
        .now
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap();
}

/// Sets the status that the kubelet writes for a container that fails again and again.
fn crash(world: &mut World, name: &str) {
    let now = world.now;
    let pod = world.pods.get_mut(name).unwrap();
    set_ready(pod, false, now);
    pod.spec.as_mut().unwrap().node_name = Some("node-1".to_owned());
    let status = pod.status.as_mut().unwrap();
    status.phase = Some("Running".to_owned());
    let container = json!({
        "name": "main", "image": "a", "imageID": "", "ready": false, "restartCount": 3,
        "state": { "waiting": { "reason": "CrashLoopBackOff",
            "message": "back-off 40s restarting failed container" } },
        "lastState": { "terminated": { "exitCode": 3, "reason": "Error" } },
    });
    status.container_statuses = Some(vec![serde_json::from_value(container).unwrap()]);
}

fn heal(world: &mut World, name: &str) {
    let now = world.now;
    let pod = world.pods.get_mut(name).unwrap();
    pod.status.as_mut().unwrap().container_statuses = None;
    set_ready(pod, true, now);
}

/// statefulset.md 5.16: the conditions from the first pod to the last, and through an update.
#[test]
fn conditions_follow_a_set_through_its_life() {
    let mut world = World::new("set replicas=2 new");
    world.step();
    assert_eq!(short(&world, "Available"), "False ReplicasUnavailable");
    assert_eq!(short(&world, "Progressing"), "True WaitingForPods");
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
    assert_eq!(
        message(&world, "Progressing"),
        "waiting for pod web-0 to be available"
    );
    let began = world.now;
    wait(&mut world, 5);
    world.settle();
    assert_eq!(short(&world, "Available"), "True AllReplicasAvailable");
    assert_eq!(short(&world, "Progressing"), "True RolloutComplete");
    // `Progressing` was always true.
    assert_eq!(
        condition(&world, "Progressing").last_transition_time,
        Some(Time(began))
    );
    assert!(
        condition(&world, "Available")
            .last_transition_time
            .unwrap()
            .0
            > began
    );
    world.set_image("b");
    world.step();
    assert_eq!(short(&world, "Progressing"), "True UpdatingPods");
    world.settle();
    assert_eq!(short(&world, "Progressing"), "True RolloutComplete");
    world.edit(|spec| spec.replicas = Some(1));
    world.step();
    assert_eq!(short(&world, "Progressing"), "True ScalingDown");
    assert_eq!(short(&world, "Available"), "True AllReplicasAvailable");
    world.edit(|spec| spec.replicas = Some(0));
    world.settle();
    assert_eq!(short(&world, "Available"), "True AllReplicasAvailable");
    assert_eq!(short(&world, "Progressing"), "True RolloutComplete");
}

/// The condition names the pod and the cause, the event is reported once, and waiting pods name the pod that they wait
/// for.
#[test]
fn a_crash_is_told_once_with_its_cause() {
    let mut world = World::new("set replicas=3 new");
    world.settle();
    world.delete_pod("web-2");
    world.kubelet();
    crash(&mut world, "web-1");
    let plan = world.step();
    assert_eq!(told(&plan), ["Warning WaitingForPods"]);
    let text = message(&world, "Progressing");
    assert!(text.starts_with("web-1: container main"), "{text}");
    assert!(plan.notices[0].message == text, "{plan:?}");
    assert!(message(&world, "Available").ends_with(&text));
    let after = Cause::After {
        pod: "web-1".into(),
    };
    assert_eq!(plan.waiting_on[1].ordinal, Some(2));
    assert_eq!(plan.waiting_on[1].cause, after);
    assert!(world.step().notices.is_empty());
    heal(&mut world, "web-1");
    assert!(
        world.step().notices.is_empty(),
        "better is no news before it is done"
    );
    crash(&mut world, "web-1");
    assert_eq!(told(&world.step()), ["Warning WaitingForPods"]);
    heal(&mut world, "web-1");
    world.step();
    world.kubelet();
    assert_eq!(told(&world.step()), ["Normal RolloutComplete"]);
}

/// Without a deadline a set waits without end, and is not reported as stalled.
#[test]
fn nothing_is_too_slow_without_a_deadline() {
    let mut world = World::new("set replicas=1 new template=bad");
    world.settle();
    wait(&mut world, 1_000_000);
    let plan = world.step();
    assert_eq!(plan.requeue_after, None);
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
}

/// The deadline is exact to the second, and later progress removes the condition.
#[test]
fn a_set_that_gets_no_further_is_stalled_at_its_deadline() {
    let mut world = World::new("set replicas=2 new template=bad progress-deadline-seconds=60");
    world.step();
    world.kubelet();
    let plan = world.step();
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(60)));
    wait(&mut world, 59);
    assert_eq!(
        world.step().requeue_after,
        Some(std::time::Duration::from_secs(1))
    );
    assert_eq!(short(&world, "Progressing"), "True WaitingForPods");
    wait(&mut world, 1);
    let plan = world.step();
    assert_eq!(plan.requeue_after, None);
    assert_eq!(told(&plan), ["Warning ProgressDeadlineExceeded"]);
    assert_eq!(
        short(&world, "Progressing"),
        "False ProgressDeadlineExceeded"
    );
    assert_eq!(short(&world, "Stalled"), "True ProgressDeadlineExceeded");
    let text = message(&world, "Stalled");
    assert_eq!(
        text,
        "no progress for 60 seconds: waiting for pod web-0 to be available"
    );
    wait(&mut world, 1000);
    assert!(world.step().is_idle(), "and that is that");
    world.set_image("b");
    world.step();
    assert_eq!(short(&world, "Progressing"), "True UpdatingPods");
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
    world.settle();
    assert_eq!(short(&world, "Progressing"), "True RolloutComplete");
}

/// Each pod that becomes ready restarts the deadline; a lost pod restarts it as well.
#[test]
fn progress_starts_the_deadline_anew() {
    let mut world = World::new("set replicas=2 new progress-deadline-seconds=60");
    world.step();
    wait(&mut world, 50);
    world.kubelet();
    let plan = world.step();
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(60)));
    world.settle();
    wait(&mut world, 100_000);
    assert_eq!(world.step().requeue_after, None);
    crash(&mut world, "web-0");
    let plan = world.step();
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(60)));
    wait(&mut world, 60);
    world.step();
    assert_eq!(short(&world, "Stalled"), "True ProgressDeadlineExceeded");
    heal(&mut world, "web-0");
    world.step();
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
}

/// The age of old pods does not make a new rollout late: an edit after days restarts the deadline, also an edit that
/// returns to an existing revision.
#[test]
fn an_edit_after_a_long_rest_has_its_full_deadline() {
    let mut world = World::new("set replicas=2 new progress-deadline-seconds=60");
    world.settle();
    world.set_image("bad");
    world.settle();
    wait(&mut world, 100_000);
    world.step();
    assert_eq!(short(&world, "Stalled"), "True ProgressDeadlineExceeded");
    world.set_image("a");
    for _ in 0..20 {
        world.step();
        assert_eq!(
            short(&world, "Stalled"),
            "False NotStalled",
            "{}",
            world.shows()
        );
        world.kubelet();
        wait(&mut world, 1);
    }
    wait(&mut world, 100_000);
    world.edit(|spec| spec.replicas = Some(3));
    for _ in 0..20 {
        world.step();
        assert_eq!(
            short(&world, "Stalled"),
            "False NotStalled",
            "{}",
            world.shows()
        );
        world.kubelet();
        wait(&mut world, 1);
    }
    assert_eq!(short(&world, "Progressing"), "True RolloutComplete");
}

/// A pod that only has to stay ready, or whose grace period has not ended, counts as progress.
#[test]
fn what_only_needs_time_is_not_late() {
    let mut world = World::new("set replicas=2 new min-ready=600 progress-deadline-seconds=60");
    world.step();
    world.kubelet();
    wait(&mut world, 500);
    world.step();
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
    let mut world = World::new("set replicas=1 new progress-deadline-seconds=60");
    world.settle();
    let end = world
        .now
        .checked_add(SignedDuration::from_secs(600))
        .unwrap();
    let pod = world.pods.get_mut("web-0").unwrap();
    pod.metadata.deletion_timestamp = Some(Time(end));
    world.step();
    wait(&mut world, 599);
    world.step();
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
    wait(&mut world, 61);
    world.step();
    assert_eq!(short(&world, "Stalled"), "True ProgressDeadlineExceeded");
}

/// A rollout that waits for a user's deletions, or stops at a partition, is complete.
#[test]
fn a_set_that_is_held_back_on_purpose_is_not_late() {
    for (words, reason) in [
        ("on-delete", "True WaitingForDeletion"),
        ("partition=1", "True PartitionComplete"),
    ] {
        let text = format!("set replicas=2 new progress-deadline-seconds=60 {words}");
        let mut world = World::new(&text);
        world.settle();
        world.set_image("b");
        world.settle();
        wait(&mut world, 100_000);
        world.step();
        assert_eq!(short(&world, "Progressing"), reason);
        assert_eq!(short(&world, "Stalled"), "False NotStalled");
    }
}

/// 3.32, 8.4: a name that a foreign pod uses needs an administrator, so the set is stalled at once; when the name is
/// free the set continues.
#[test]
fn a_foreign_pod_stalls_the_set_until_it_is_gone() {
    let mut world = World::new("set replicas=2 new\npod 0 ready a foreign");
    let plan = world.step();
    assert_eq!(told(&plan), ["Warning NameTaken"]);
    assert_eq!(short(&world, "Progressing"), "False NameTaken");
    assert_eq!(short(&world, "Stalled"), "True NameTaken");
    let text = "a pod of ReplicaSet other has the name web-0";
    assert_eq!(message(&world, "Stalled"), text);
    assert!(world.step().notices.is_empty());
    world.delete_pod("web-0");
    world.step();
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
    world.pods.remove("web-0");
    world.settle();
    assert_eq!(short(&world, "Progressing"), "True RolloutComplete");
}

/// A set that is created again with its former name waits for the pods of the former set, which the garbage collector
/// deletes: no tool must interpret this wait as a failure.
#[test]
fn pods_of_a_former_set_do_not_stall_its_successor() {
    let mut world = World::new("set replicas=1 new\npod 0 ready a");
    let owners = &mut world
        .pods
        .get_mut("web-0")
        .unwrap()
        .metadata
        .owner_references;
    owners.as_mut().unwrap()[0].uid = "uid-of-old-set".to_owned();
    world.step();
    assert_eq!(short(&world, "Stalled"), "False NotStalled");
    let text = "pod web-0 of a former set of this name is to be collected";
    assert_eq!(message(&world, "Progressing"), text);
}

/// 3.1: the pods to count are unknown, so the counters stay.
#[test]
fn a_selector_that_cannot_be_used_stalls_the_set() {
    let mut world = World::new("set replicas=1 new");
    world.settle();
    world.edit(|spec| spec.selector = Default::default());
    let plan = world.step();
    assert_eq!(plan.actions().count(), 0);
    assert_eq!(short(&world, "Stalled"), "True InvalidSelector");
    assert_eq!(world.status(), "1/1/1/1/1");
    assert_eq!(
        world.set.status.as_ref().unwrap().observed_generation,
        Some(2)
    );
}

/// 4.1: the data of the stored revision is no template.
#[test]
fn a_revision_that_cannot_be_read_stalls_the_set() {
    let mut world =
        World::new("set replicas=1 template=b current=a partition=1\nrevisions a=1 b=2");
    for revision in world
        .revisions
        .values_mut()
        .filter(|revision| revision.revision == 1)
    {
        revision.data.as_mut().unwrap().0 = json!({ "spec": 3 });
    }
    world.step();
    assert_eq!(short(&world, "Stalled"), "True RevisionUnreadable");
}

/// T30, 2.5: the refusal is reported once, as in kube-controller-manager.
#[test]
fn a_dying_claim_is_told_once() {
    let mut world = World::new("set replicas=1 new claims=www\nclaim www-web-0 terminating");
    let plan = world.step();
    assert_eq!(told(&plan), ["Warning FailedCreate"]);
    let text = "create Pod web-0 in StatefulSet web failed error: pvc www-web-0 is being deleted";
    assert_eq!(plan.notices[0].message, text);
    assert!(world.step().notices.is_empty());
    world.claims.clear();
    world.settle();
    assert_eq!(world.shows(), "0:a");
}

/// Conditions of other controllers stay, in their order.
#[test]
fn conditions_of_others_are_kept() {
    let mut world = World::new("set replicas=1 new");
    let other = StatefulSetCondition {
        type_: "Backup".to_owned(),
        status: "True".to_owned(),
        ..StatefulSetCondition::default()
    };
    world.set.status.as_mut().unwrap().conditions = Some(vec![other.clone()]);
    world.settle();
    assert_eq!(condition(&world, "Backup"), other);
    world.set.metadata.deletion_timestamp = Some(Time(world.now));
    let before = world.set.status.clone().unwrap().conditions;
    world.step();
    assert_eq!(world.set.status.unwrap().conditions, before);
}
