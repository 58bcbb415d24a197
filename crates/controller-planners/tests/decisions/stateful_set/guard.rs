//! The guard of a StatefulSetPolicy (rollouts.md R6, R11, R27–R31).

use std::sync::Arc;

use controller_planners::stateful_set::{Cause, StatefulSetPlan, plan};
use jiff::SignedDuration;
use json_tree::json;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::pod_view::Condition;

use super::cluster::{Cluster, set_ready};
use super::situation::{describe, now, parse};

const THREE: &str = "revisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a";

fn break_pod(cluster: &mut Cluster, name: &str) {
    let now = cluster.now;
    set_ready(cluster.pods.get_mut(name).unwrap(), false, now);
}

fn held(plan: &StatefulSetPlan) -> Vec<String> {
    let causes = plan.waiting_on.iter().map(|waiting| &waiting.cause);
    let held = causes.filter(|cause| matches!(cause, Cause::GuardHolds { .. }));
    held.map(ToString::to_string).collect()
}

fn progressing(cluster: &Cluster) -> (String, String, String) {
    let status = cluster.set.status.clone().unwrap();
    let mut conditions = status.conditions.unwrap().into_iter();
    let condition = conditions.find(|c| c.type_ == "Progressing").unwrap();
    (
        condition.status,
        condition.reason.unwrap(),
        condition.message.unwrap(),
    )
}

/// rollouts.md S2: a policy without a guard changes no plan.
#[test]
fn a_policy_without_a_guard_changes_nothing() {
    for set in [
        "set replicas=3 template=b current=a",
        "set replicas=1 parallel",
    ] {
        let without = parse(&format!("{set}\n{THREE} b=2"));
        let mut with = without.clone();
        with.policy = Some(Arc::default());
        assert_eq!(plan(&with, now()), plan(&without, now()), "{set}");
    }
}

/// rollouts.md S3: a policy that comes or goes restarts no pod.
#[test]
fn a_policy_of_a_set_at_rest_changes_no_pod() {
    for guard in ["", " guard=Quorum"] {
        let mut cluster = Cluster::new(&format!("set replicas=3{guard}\n{THREE}"));
        cluster.settle();
        assert_eq!(cluster.log, Vec::<String>::new(), "{guard}");
    }
}

/// rollouts.md R22, R27: an update of a guarded set evicts its pods with their purpose, in the order of the set.
#[test]
fn a_guarded_update_evicts() {
    let mut cluster = Cluster::new(&format!("set replicas=3 guard=Quorum\n{THREE}"));
    cluster.set_image("b");
    let plan = cluster.step();
    assert!(
        describe(&plan).contains("evict web-2 for Update"),
        "{}",
        describe(&plan)
    );
    cluster.settle();
    let log = [
        "-web-2", "+web-2:b", "-web-1", "+web-1:b", "-web-0", "+web-0:b",
    ];
    assert_eq!(cluster.log, log);
}

/// rollouts.md R27, R29: the guard bounds a rollout that would replace all pods at once.
#[test]
fn the_guard_is_stronger_than_max_unavailable() {
    let set = "set replicas=3 parallel max=3 guard=Quorum template=b current=a";
    let observed = parse(&format!("{set}\n{THREE} b=2"));
    let plan = plan(&observed, now()).unwrap();
    let text = describe(&plan);
    assert_eq!(text.matches("evict ").count(), 1, "{text}");
    assert_eq!(
        held(&plan)[0],
        "the guard of StatefulSetPolicy p holds pod web-1: 2 of 3 pods must stay healthy, and 2 are"
    );
}

/// rollouts.md R6, R31: a pod that is down is replaced before healthy pods, because the guard would hold these.
#[test]
fn a_pod_that_is_down_goes_first() {
    let set = "set replicas=3 parallel guard=Quorum";
    let mut cluster = Cluster::new(&format!("{set}\n{THREE}"));
    break_pod(&mut cluster, "web-0");
    cluster.set_image("b");
    cluster.step();
    cluster.step();
    assert_eq!(cluster.log, ["-web-0"]);
    cluster.settle();
    let rest = ["+web-0:b", "-web-2", "+web-2:b", "-web-1", "+web-1:b"];
    assert_eq!(cluster.log[1..], rest);
}

/// rollouts.md R27, S9: surplus pods stay while the desired pods are no quorum; the condition names the guard.
#[test]
fn a_scale_down_waits_for_the_quorum() {
    let mut cluster = Cluster::new(&format!(
        "set replicas=3 parallel guard=Quorum progress-deadline-seconds=60\n{THREE}\npod 3 ready a"
    ));
    break_pod(&mut cluster, "web-0");
    break_pod(&mut cluster, "web-1");
    cluster.step();
    assert_eq!(cluster.log, Vec::<String>::new());
    let (status, reason, message) = progressing(&cluster);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "GuardHolds"));
    let text = "the guard of StatefulSetPolicy p holds pod web-3: 2 of 3 pods must stay healthy, \
                and 1 are";
    assert!(message.starts_with(text), "{message}");
    // R11: the deadline does not run while the guard holds.
    cluster.now += SignedDuration::from_secs(600);
    cluster.step();
    assert_eq!(progressing(&cluster).1, "GuardHolds");
    cluster.settle();
    assert_eq!(cluster.log, ["-web-3"]);
}

/// rollouts.md R29: a pod whose deletion was announced counts as unhealthy, for two minutes if it is not deleted.
#[test]
fn an_announced_deletion_counts_for_a_while() {
    let set = "set replicas=3 guard=Quorum template=b current=a";
    let mut cluster = Cluster::new(&format!("{set}\n{THREE} b=2"));
    let disrupted = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(cluster.now)),
        ..PodCondition::default()
    };
    let pod = cluster.pods.get_mut("web-0").unwrap();
    let conditions = &mut pod.status.as_mut().unwrap().conditions;
    conditions.get_or_insert_default().push(disrupted);
    let plan = cluster.step();
    assert_eq!(held(&plan).len(), 1, "{}", describe(&plan));
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_mins(2)));
    cluster.now += SignedDuration::from_mins(2);
    cluster.step();
    assert_eq!(cluster.log, ["-web-2"]);
}

/// rollouts.md R28: the sets of a group share one guard, and the strictest policy decides.
#[test]
fn the_pods_of_a_group_count_together() {
    let set = format!("set replicas=3 guard=Quorum group=bank template=b current=a\n{THREE} b=2");
    let after = |others: &str| {
        let mut cluster = Cluster::new(&format!("{set}\n{others}"));
        let plan = cluster.step();
        (cluster.log.join(" "), held(&plan).join(" "))
    };
    let free = |others| assert_eq!(after(others), ("-web-2".to_owned(), String::new()));
    free("other cache guard=Quorum replicas=3 ready=3");
    free("other cache guard=Quorum replicas=3 ready=2");
    let (log, text) = after("other cache guard=Quorum replicas=3 ready=1");
    let expected = "the guard of StatefulSetPolicy p holds pod web-2: 4 of 6 pods of group bank must stay \
                    healthy, and 4 are; StatefulSet cache has 1 of 3";
    assert_eq!((log.as_str(), text.as_str()), ("", expected));
    // The policy of the other set is stricter.
    let (log, text) = after("other cache guard=100% replicas=1 ready=1");
    assert_eq!(log, "");
    assert!(
        text.contains("4 of 4 pods of group bank must stay healthy"),
        "{text}"
    );
    // A larger group tolerates more.
    free("other cache guard=Quorum replicas=1 ready=0\nother log guard=1 replicas=3 ready=3");
}

/// rollouts.md R28, R29: an announced deletion in another set of the group counts, and wakes this set.
#[test]
fn an_announced_deletion_in_the_group_counts_for_a_while() {
    let set = "set replicas=1 guard=3 group=bank template=b current=a";
    let text = "revisions a=1 b=2\npod 0 ready a\nother cache guard=3 replicas=3 ready=3";
    let mut cluster = Cluster::new(&format!("{set}\n{text}"));
    let now = cluster.now;
    let pod = &mut cluster.group[0].pods[0];
    let mut conditions = pod.conditions.to_vec();
    conditions.push(Condition::new("DisruptionTarget", "True", Some(now)));
    Arc::make_mut(pod).conditions = conditions.into();
    let plan = cluster.step();
    assert_eq!(held(&plan).len(), 1, "{}", describe(&plan));
    assert_eq!(plan.requeue_after, Some(std::time::Duration::from_mins(2)));
    cluster.now += SignedDuration::from_mins(2);
    cluster.step();
    assert_eq!(cluster.log, ["-web-0"]);
}

fn with_checks(cluster: &mut Cluster) {
    let check = json!({"exec": {"command": ["true"]}});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"setRef": {"name": "web"},
        "guard": {"minHealthy": "Quorum", "health": check, "recovered": check}}});
    cluster.policy = Some(Arc::new(json_tree::from_value(policy).unwrap()));
}

/// Sets the results of both checks of a pod.
fn checked(cluster: &mut Cluster, name: &str, healthy: &str, recovered: &str) {
    let pod = cluster.pods.get_mut(name).unwrap();
    let conditions = &mut pod.status.as_mut().unwrap().conditions;
    let conditions = conditions.get_or_insert_default();
    conditions.retain(|condition| !condition.type_.starts_with("mainstay.dev/"));
    for (kind, status) in [("Healthy", healthy), ("Recovered", recovered)] {
        conditions.push(PodCondition {
            type_: format!("mainstay.dev/{kind}"),
            status: status.to_owned(),
            ..PodCondition::default()
        });
    }
}

/// rollouts.md S3, R29: the checks of a guard reach running pods as annotations, and go with the policy.
#[test]
fn checks_are_annotations_of_the_pods() {
    let mut cluster = Cluster::new(&format!("set replicas=3\n{THREE}"));
    with_checks(&mut cluster);
    let text = describe(&cluster.step());
    let annotations = "node.mainstay.dev/health-check node.mainstay.dev/recovery-check";
    for pod in ["web-0", "web-1", "web-2"] {
        let line = format!("annotate {pod} {annotations}");
        assert!(text.contains(&line), "{text}");
    }
    assert!(!describe(&cluster.step()).contains("annotate"));
    cluster.edit(|spec| spec.replicas = Some(4));
    cluster.step();
    let created = &cluster.pods["web-3"].metadata.annotations;
    let check = &created.as_ref().unwrap()["node.mainstay.dev/health-check"];
    assert_eq!(check, r#"{"exec":{"command":["true"]}}"#);
    cluster.policy = None;
    cluster.edit(|spec| spec.replicas = Some(3));
    let text = describe(&cluster.step());
    let annotations = "-node.mainstay.dev/health-check -node.mainstay.dev/recovery-check";
    assert!(
        text.contains(&format!("annotate web-0 {annotations}")),
        "{text}"
    );
    assert_eq!(cluster.log, ["+web-3:a", "-web-3"]);
}

/// rollouts.md R30: an update of several pods at once waits for the recovery of a pod as well, and does not delete that pod
/// instead.
#[test]
fn an_update_within_a_budget_waits_for_the_recovery() {
    for options in ["max=1", "parallel max=2"] {
        let set = format!("set replicas=3 guard=Quorum {options} template=b current=a");
        let mut cluster = Cluster::new(&format!("{set}\n{THREE} b=2"));
        with_checks(&mut cluster);
        for pod in ["web-0", "web-1", "web-2"] {
            checked(&mut cluster, pod, "True", "True");
        }
        checked(&mut cluster, "web-1", "True", "False");
        let plan = cluster.step();
        assert_eq!(cluster.log, Vec::<String>::new(), "{options}");
        assert_eq!(held(&plan).len(), 1, "{}", describe(&plan));
        assert_eq!(progressing(&cluster).1, "GuardHolds");
        // A pod that fails its health check may go first (R6).
        checked(&mut cluster, "web-0", "False", "True");
        cluster.step();
        assert_eq!(cluster.log, ["-web-0"], "{options}");
    }
}

/// rollouts.md R29, R30: without results all pods are held; a pod that has not recovered holds the others.
#[test]
fn the_next_pod_waits_for_the_checks() {
    let mut cluster = Cluster::new(&format!("set replicas=3 guard=Quorum\n{THREE}"));
    with_checks(&mut cluster);
    cluster.step();
    for pod in ["web-0", "web-1", "web-2"] {
        checked(&mut cluster, pod, "True", "True");
    }
    checked(&mut cluster, "web-0", "True", "False");
    cluster.set_image("b");
    let plan = cluster.step();
    let text = "the guard of StatefulSetPolicy p holds pod web-2: 2 of 3 pods must stay healthy, \
                and 3 are; 1 of these has not recovered";
    assert_eq!(held(&plan), [text], "{}", describe(&plan));
    // An unhealthy pod goes first (R6, R31).
    checked(&mut cluster, "web-0", "False", "True");
    cluster.step();
    assert_eq!(cluster.log, ["-web-0"]);
}
