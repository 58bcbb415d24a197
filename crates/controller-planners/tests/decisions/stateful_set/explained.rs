//! Conditions and events of a set, the progress deadline, and the waits between pods.

use controller_planners::stateful_set::{Cause, StatefulSetPlan};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::StatefulSetCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::cluster::{Cluster, set_ready};

fn condition(cluster: &Cluster, kind: &str) -> StatefulSetCondition {
    let status = cluster.set.status.as_ref().unwrap();
    let mut all = status.conditions.iter().flatten();
    all.find(|condition| condition.type_ == kind)
        .unwrap()
        .clone()
}

/// `True RolloutComplete`: the status and the reason of a condition.
fn short(cluster: &Cluster, kind: &str) -> String {
    let condition = condition(cluster, kind);
    format!("{} {}", condition.status, condition.reason.unwrap())
}

fn message(cluster: &Cluster, kind: &str) -> String {
    condition(cluster, kind).message.unwrap_or_default()
}

fn event_texts(plan: &StatefulSetPlan) -> Vec<String> {
    let level = |warning| if warning { "Warning" } else { "Normal" };
    let notices = plan.notices.iter();
    notices
        .map(|notice| format!("{} {}", level(notice.warning), notice.reason))
        .collect()
}

fn wait(cluster: &mut Cluster, seconds: i64) {
    cluster.now = cluster
        .now
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap();
}

/// Sets the status that the kubelet writes for a container that fails again and again.
fn crash(cluster: &mut Cluster, name: &str) {
    let now = cluster.now;
    let pod = cluster.pods.get_mut(name).unwrap();
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

fn heal(cluster: &mut Cluster, name: &str) {
    let now = cluster.now;
    let pod = cluster.pods.get_mut(name).unwrap();
    pod.status.as_mut().unwrap().container_statuses = None;
    set_ready(pod, true, now);
}

/// statefulset.md 5.16: the conditions from the first pod to the last, and through an update.
#[test]
fn conditions_follow_a_set_through_its_life() {
    let mut cluster = Cluster::new("set replicas=2 new");
    cluster.step();
    assert_eq!(short(&cluster, "Available"), "False ReplicasUnavailable");
    assert_eq!(short(&cluster, "Progressing"), "True WaitingForPods");
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    assert_eq!(
        message(&cluster, "Progressing"),
        "waiting for pod web-0 to be available"
    );
    let began = cluster.now;
    wait(&mut cluster, 5);
    cluster.settle();
    assert_eq!(short(&cluster, "Available"), "True AllReplicasAvailable");
    assert_eq!(short(&cluster, "Progressing"), "True RolloutComplete");
    // `Progressing` was always true.
    assert_eq!(
        condition(&cluster, "Progressing").last_transition_time,
        Some(Time(began))
    );
    assert!(
        condition(&cluster, "Available")
            .last_transition_time
            .unwrap()
            .0
            > began
    );
    cluster.set_image("b");
    cluster.step();
    assert_eq!(short(&cluster, "Progressing"), "True UpdatingPods");
    cluster.settle();
    assert_eq!(short(&cluster, "Progressing"), "True RolloutComplete");
    cluster.edit(|spec| spec.replicas = Some(1));
    cluster.step();
    assert_eq!(short(&cluster, "Progressing"), "True ScalingDown");
    assert_eq!(short(&cluster, "Available"), "True AllReplicasAvailable");
    cluster.edit(|spec| spec.replicas = Some(0));
    cluster.settle();
    assert_eq!(short(&cluster, "Available"), "True AllReplicasAvailable");
    assert_eq!(short(&cluster, "Progressing"), "True RolloutComplete");
}

/// The condition names the pod and the cause, the event is reported once, and waiting pods name the pod that they wait
/// for.
#[test]
fn a_crash_is_told_once_with_its_cause() {
    let mut cluster = Cluster::new("set replicas=3 new");
    cluster.settle();
    cluster.delete_pod("web-2");
    cluster.kubelet();
    crash(&mut cluster, "web-1");
    let plan = cluster.step();
    assert_eq!(event_texts(&plan), ["Warning WaitingForPods"]);
    let text = message(&cluster, "Progressing");
    assert!(text.starts_with("web-1: container main"), "{text}");
    assert!(plan.notices[0].message == text, "{plan:?}");
    assert!(message(&cluster, "Available").ends_with(&text));
    let after = Cause::After {
        pod: "web-1".into(),
    };
    assert_eq!(plan.waiting_on[1].ordinal, Some(2));
    assert_eq!(plan.waiting_on[1].cause, after);
    assert!(cluster.step().notices.is_empty());
    heal(&mut cluster, "web-1");
    assert!(
        cluster.step().notices.is_empty(),
        "better is no news before it is done"
    );
    crash(&mut cluster, "web-1");
    assert_eq!(event_texts(&cluster.step()), ["Warning WaitingForPods"]);
    heal(&mut cluster, "web-1");
    cluster.step();
    cluster.kubelet();
    assert_eq!(event_texts(&cluster.step()), ["Normal RolloutComplete"]);
}

/// Without a deadline a set waits without end, and is not reported as stalled.
#[test]
fn nothing_is_too_slow_without_a_deadline() {
    let mut cluster = Cluster::new("set replicas=1 new template=bad");
    cluster.settle();
    wait(&mut cluster, 1_000_000);
    let plan = cluster.step();
    assert_eq!(plan.requeue_after, None);
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
}

/// The deadline is exact to the second, and later progress removes the condition.
#[test]
fn a_set_that_gets_no_further_is_stalled_at_its_deadline() {
    let mut cluster = Cluster::new("set replicas=2 new template=bad progress-deadline-seconds=60");
    cluster.step();
    cluster.kubelet();
    let plan = cluster.step();
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(60)));
    wait(&mut cluster, 59);
    assert_eq!(
        cluster.step().requeue_after,
        Some(std::time::Duration::from_secs(1))
    );
    assert_eq!(short(&cluster, "Progressing"), "True WaitingForPods");
    wait(&mut cluster, 1);
    let plan = cluster.step();
    assert_eq!(plan.requeue_after, None);
    assert_eq!(event_texts(&plan), ["Warning ProgressDeadlineExceeded"]);
    assert_eq!(
        short(&cluster, "Progressing"),
        "False ProgressDeadlineExceeded"
    );
    assert_eq!(short(&cluster, "Stalled"), "True ProgressDeadlineExceeded");
    let text = message(&cluster, "Stalled");
    assert_eq!(
        text,
        "no progress for 60 seconds: waiting for pod web-0 to be available"
    );
    wait(&mut cluster, 1000);
    assert!(cluster.step().is_idle(), "and that is that");
    cluster.set_image("b");
    cluster.step();
    assert_eq!(short(&cluster, "Progressing"), "True UpdatingPods");
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    cluster.settle();
    assert_eq!(short(&cluster, "Progressing"), "True RolloutComplete");
}

/// Each pod that becomes ready restarts the deadline; a lost pod restarts it as well.
#[test]
fn progress_starts_the_deadline_anew() {
    let mut cluster = Cluster::new("set replicas=2 new progress-deadline-seconds=60");
    cluster.step();
    wait(&mut cluster, 50);
    cluster.kubelet();
    let plan = cluster.step();
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(60)));
    cluster.settle();
    wait(&mut cluster, 100_000);
    assert_eq!(cluster.step().requeue_after, None);
    crash(&mut cluster, "web-0");
    let plan = cluster.step();
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(60)));
    wait(&mut cluster, 60);
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "True ProgressDeadlineExceeded");
    heal(&mut cluster, "web-0");
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
}

/// The age of old pods does not make a new rollout late: an edit after days restarts the deadline, also an edit that
/// returns to an existing revision.
#[test]
fn an_edit_after_a_long_rest_has_its_full_deadline() {
    let mut cluster = Cluster::new("set replicas=2 new progress-deadline-seconds=60");
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    wait(&mut cluster, 100_000);
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "True ProgressDeadlineExceeded");
    cluster.set_image("a");
    for _ in 0..20 {
        cluster.step();
        assert_eq!(
            short(&cluster, "Stalled"),
            "False NotStalled",
            "{}",
            cluster.shows()
        );
        cluster.kubelet();
        wait(&mut cluster, 1);
    }
    wait(&mut cluster, 100_000);
    cluster.edit(|spec| spec.replicas = Some(3));
    for _ in 0..20 {
        cluster.step();
        assert_eq!(
            short(&cluster, "Stalled"),
            "False NotStalled",
            "{}",
            cluster.shows()
        );
        cluster.kubelet();
        wait(&mut cluster, 1);
    }
    assert_eq!(short(&cluster, "Progressing"), "True RolloutComplete");
}

/// A pod that only has to stay ready, or whose grace period has not ended, counts as progress.
#[test]
fn what_only_needs_time_is_not_late() {
    let mut cluster = Cluster::new("set replicas=2 new min-ready=600 progress-deadline-seconds=60");
    cluster.step();
    cluster.kubelet();
    wait(&mut cluster, 500);
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    let mut cluster = Cluster::new("set replicas=1 new progress-deadline-seconds=60");
    cluster.settle();
    let end = cluster
        .now
        .checked_add(SignedDuration::from_secs(600))
        .unwrap();
    let pod = cluster.pods.get_mut("web-0").unwrap();
    pod.metadata.deletion_timestamp = Some(Time(end));
    cluster.step();
    wait(&mut cluster, 599);
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    wait(&mut cluster, 61);
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "True ProgressDeadlineExceeded");
}

/// A rollout that waits for a user's deletions, or stops at a partition, is complete.
#[test]
fn a_set_that_is_held_back_on_purpose_is_not_late() {
    for (words, reason) in [
        ("on-delete", "True WaitingForDeletion"),
        ("partition=1", "True PartitionComplete"),
    ] {
        let text = format!("set replicas=2 new progress-deadline-seconds=60 {words}");
        let mut cluster = Cluster::new(&text);
        cluster.settle();
        cluster.set_image("b");
        cluster.settle();
        wait(&mut cluster, 100_000);
        cluster.step();
        assert_eq!(short(&cluster, "Progressing"), reason);
        assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    }
}

/// 3.32, 8.4: a name that a foreign pod uses needs an administrator, so the set is stalled at once; when the name is
/// free the set continues.
#[test]
fn a_foreign_pod_stalls_the_set_until_it_is_gone() {
    let mut cluster = Cluster::new("set replicas=2 new\npod 0 ready a foreign");
    let plan = cluster.step();
    assert_eq!(event_texts(&plan), ["Warning NameTaken"]);
    assert_eq!(short(&cluster, "Progressing"), "False NameTaken");
    assert_eq!(short(&cluster, "Stalled"), "True NameTaken");
    let text = "a pod of ReplicaSet other has the name web-0";
    assert_eq!(message(&cluster, "Stalled"), text);
    assert!(cluster.step().notices.is_empty());
    cluster.delete_pod("web-0");
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    cluster.pods.remove("web-0");
    cluster.settle();
    assert_eq!(short(&cluster, "Progressing"), "True RolloutComplete");
}

/// A set that is created again with its former name waits for the pods of the former set, which the garbage collector
/// deletes: no tool must interpret this wait as a failure.
#[test]
fn pods_of_a_former_set_do_not_stall_its_successor() {
    let mut cluster = Cluster::new("set replicas=1 new\npod 0 ready a");
    let owners = &mut cluster
        .pods
        .get_mut("web-0")
        .unwrap()
        .metadata
        .owner_references;
    owners.as_mut().unwrap()[0].uid = "uid-of-old-set".to_owned();
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "False NotStalled");
    let text = "pod web-0 of a former set of this name is to be collected";
    assert_eq!(message(&cluster, "Progressing"), text);
}

/// 3.1: the pods to count are unknown, so the counters stay.
#[test]
fn a_selector_that_cannot_be_used_stalls_the_set() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    cluster.edit(|spec| spec.selector = Default::default());
    let plan = cluster.step();
    assert_eq!(plan.actions().count(), 0);
    assert_eq!(short(&cluster, "Stalled"), "True InvalidSelector");
    assert_eq!(cluster.status(), "1/1/1/1/1");
    assert_eq!(
        cluster.set.status.as_ref().unwrap().observed_generation,
        Some(2)
    );
}

/// 4.1: the data of the stored revision is no template.
#[test]
fn a_revision_that_cannot_be_read_stalls_the_set() {
    let mut cluster =
        Cluster::new("set replicas=1 template=b current=a partition=1\nrevisions a=1 b=2");
    for revision in cluster
        .revisions
        .values_mut()
        .filter(|revision| revision.revision == 1)
    {
        revision.data.as_mut().unwrap().0 = json!({ "spec": 3 });
    }
    cluster.step();
    assert_eq!(short(&cluster, "Stalled"), "True RevisionUnreadable");
}

/// T30, 2.5: the refusal is reported once, as in kube-controller-manager.
#[test]
fn a_dying_claim_is_told_once() {
    let mut cluster = Cluster::new("set replicas=1 new claims=www\nclaim www-web-0 terminating");
    let plan = cluster.step();
    assert_eq!(event_texts(&plan), ["Warning FailedCreate"]);
    let text = "create Pod web-0 in StatefulSet web failed error: pvc www-web-0 is being deleted";
    assert_eq!(plan.notices[0].message, text);
    assert!(cluster.step().notices.is_empty());
    cluster.claims.clear();
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a");
}

/// Conditions of other controllers stay, in their order.
#[test]
fn conditions_of_others_are_kept() {
    let mut cluster = Cluster::new("set replicas=1 new");
    let other = StatefulSetCondition {
        type_: "Backup".to_owned(),
        status: "True".to_owned(),
        ..StatefulSetCondition::default()
    };
    cluster.set.status.as_mut().unwrap().conditions = Some(vec![other.clone()]);
    cluster.settle();
    assert_eq!(condition(&cluster, "Backup"), other);
    cluster.set.metadata.deletion_timestamp = Some(Time(cluster.now));
    let before = cluster.set.status.clone().unwrap().conditions;
    cluster.step();
    assert_eq!(cluster.objects.set.status.unwrap().conditions, before);
}
