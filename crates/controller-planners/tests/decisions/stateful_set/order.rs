//! The order of a policy in which pods are replaced (rollouts.md R1 to R5).

use controller_planners::stateful_set::{Cause, StatefulSetAction, StatefulSetPlan};

use super::cluster::Cluster;

fn deletions(cluster: &Cluster) -> Vec<&str> {
    let log = cluster.log.iter();
    log.filter_map(|word| word.strip_prefix("-web-")).collect()
}

fn causes(plan: &StatefulSetPlan, ordinal: i64) -> Vec<String> {
    let waiting = plan.waiting_on.iter();
    let waiting = waiting.filter(|waiting| waiting.ordinal == Some(ordinal));
    waiting.map(|waiting| waiting.cause.to_string()).collect()
}

fn set_role(cluster: &mut Cluster, pod: &str, role: &str) {
    let pod = cluster.objects.pods.get_mut(pod).unwrap();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert("role".to_owned(), role.to_owned());
    pod.metadata.resource_version = Some("2".to_owned());
}

const LEADER_2: &str = "revisions a=1\npod 0 ready a role=replica\npod 1 ready a role=replica\n\
                        pod 2 ready a role=leader";

/// rollouts.md R1, R2: the leader goes last, in every kind of set.
#[test]
fn the_leader_goes_last() {
    for words in [
        "",
        "guard=Quorum",
        "max=2",
        "parallel max=2",
        "parallel max=3",
        "parallel max=3 guard=1",
    ] {
        let situation = format!("set replicas=3 order=last:leader {words}\n{LEADER_2}");
        let mut cluster = Cluster::updated(&situation);
        cluster.settle();
        assert_eq!(deletions(&cluster), ["1", "0", "2"], "{words}");
        assert_eq!(cluster.shows(), "0:b 1:b 2:b", "{words}");
    }
}

/// rollouts.md R2: a leader that moves to a pod that is next is not killed, whoever leads by then.
#[test]
fn a_leader_that_moves_goes_last() {
    let mut cluster = Cluster::updated(&format!("set replicas=3 order=last:leader\n{LEADER_2}"));
    cluster.step();
    assert_eq!(deletions(&cluster), ["1"]);
    set_role(&mut cluster, "web-2", "replica");
    set_role(&mut cluster, "web-0", "leader");
    cluster.settle();
    assert_eq!(deletions(&cluster), ["1", "2", "0"]);
}

/// rollouts.md R2: the deletion names the version of the pod whose role was read, with and without a guard.
#[test]
fn the_deletion_depends_on_the_role() {
    for guard in ["", " guard=Quorum"] {
        let situation = format!("set replicas=3 order=last:leader{guard}\n{LEADER_2}");
        let mut cluster = Cluster::updated(&situation);
        let plan = cluster.step();
        let version = plan.actions().find_map(|action| match action {
            StatefulSetAction::DeletePod { version, .. }
            | StatefulSetAction::EvictPod { version, .. } => *version,
            _ => None,
        });
        assert_eq!(version.unwrap().to_string(), "1", "{guard}");
    }
}

/// rollouts.md R3: a healthy pod of an unknown role waits, and known followers go.
#[test]
fn a_pod_of_an_unknown_role_waits() {
    let situation = "set replicas=3 order=last:leader\nrevisions a=1\n\
                     pod 0 ready a role=replica\npod 1 ready a\npod 2 ready a role=leader";
    let mut cluster = Cluster::updated(situation);
    let plan = cluster.settle();
    assert_eq!(deletions(&cluster), ["0"]);
    let unknown = "the role of pod web-1 is unknown, and the update goes by roles";
    assert_eq!(causes(&plan, 1), [unknown]);
    assert_eq!(causes(&plan, 2), ["pod web-1 comes first"]);
    set_role(&mut cluster, "web-1", "replica");
    cluster.settle();
    assert_eq!(deletions(&cluster), ["0", "1", "2"]);
}

/// rollouts.md R3, R6: a pod that is down goes whatever its role is.
#[test]
fn a_pod_that_is_down_goes_first() {
    let situation = "set replicas=3 parallel max=1 order=last:leader\nrevisions a=1\n\
                     pod 0 ready a role=replica\npod 1 ready a role=replica\npod 2 running a";
    let mut cluster = Cluster::new(situation);
    cluster.set_image("b");
    cluster.step();
    assert_eq!(deletions(&cluster)[0], "2");
}

/// rollouts.md R4: the zones go one after the other, however many pods may be unavailable; the zone that has begun is
/// finished first.
#[test]
fn zones_go_one_after_the_other() {
    let situation = "set replicas=4 parallel max=4 order=zone\nrevisions a=1\n\
                     pod 0 ready a zone=b\npod 1 ready a zone=a\npod 2 ready a zone=b\n\
                     pod 3 ready a zone=a";
    let mut cluster = Cluster::updated(situation);
    let plan = cluster.step();
    assert_eq!(deletions(&cluster), ["3", "1"]);
    assert_eq!(causes(&plan, 2), ["pod web-3 comes first"]);
    // The new pods of zone a have no label yet, and are not ready.
    cluster.settle();
    assert_eq!(deletions(&cluster), ["3", "1", "2", "0"]);

    let begun = "set replicas=4 template=b current=a order=zone\nrevisions a=1 b=2\n\
                 pod 0 ready a zone=b\npod 1 ready a zone=a\npod 2 ready b zone=b\n\
                 pod 3 ready a zone=a";
    let mut cluster = Cluster::new(begun);
    cluster.settle();
    assert_eq!(deletions(&cluster), ["0", "3", "1"]);
}

/// rollouts.md R2, R4: a leader in the first zone waits for the other zones, which do not wait for it.
#[test]
fn a_leader_does_not_hold_the_other_zones() {
    let situation = "set replicas=3 parallel max=2 order=zone,last:leader\nrevisions a=1\n\
                     pod 0 ready a zone=b role=replica\npod 1 ready a zone=a role=replica\n\
                     pod 2 ready a zone=a role=leader";
    let mut cluster = Cluster::updated(situation);
    cluster.settle();
    assert_eq!(deletions(&cluster), ["1", "0", "2"]);
}

/// rollouts.md R1: ordinals in a list go first, in its order; the partition keeps lower ordinals out.
#[test]
fn listed_ordinals_go_first() {
    let pods = "revisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a\npod 3 ready a";
    let mut cluster = Cluster::updated(&format!("set replicas=4 order=ordinals:1+2\n{pods}"));
    cluster.settle();
    assert_eq!(deletions(&cluster), ["1", "2", "3", "0"]);
    let mut cluster = Cluster::updated(&format!(
        "set replicas=4 partition=2 order=ordinals:1+2\n{pods}"
    ));
    cluster.settle();
    assert_eq!(deletions(&cluster), ["2", "3"]);
}

/// rollouts.md R5: pods are created and removed in the order of the set.
#[test]
fn creation_and_scale_down_keep_their_order() {
    let mut cluster = Cluster::new("set replicas=3 new order=ordinals:2+0+1");
    cluster.settle();
    assert_eq!(cluster.log, ["+web-0:a", "+web-1:a", "+web-2:a"]);
    cluster.log.clear();
    cluster.edit(|spec| spec.replicas = Some(1));
    cluster.settle();
    assert_eq!(deletions(&cluster), ["2", "1"]);
}

/// rollouts.md R2: the leader waits until all other pods are available, although two may be unavailable.
#[test]
fn the_leader_waits_for_pods_that_start() {
    let mut cluster = Cluster::updated(&format!(
        "set replicas=3 parallel max=3 order=last:leader\n{LEADER_2}"
    ));
    cluster.step();
    assert_eq!(deletions(&cluster), ["1", "0"]);
    let plan = cluster.step();
    assert_eq!(deletions(&cluster), ["1", "0"]);
    let waits = plan.waiting_on.iter();
    let mut waits = waits.filter(|waiting| waiting.ordinal == Some(2));
    assert!(matches!(waits.next().unwrap().cause, Cause::After { .. }));
}
