//! The rules of `invariants` detect a plan that violates them: each row changes a good plan in the way in which a
//! mistake in the planner would change it.

use controller_planners::stateful_set::{
    PodWork, StatefulSetAction, StatefulSetPlan, identity, invariants, plan,
};

use resource_kinds::stateful_set_policy::Purpose;

use super::situation::{describe, now, parse, revision_name, template};

fn spoilt(situation: &str, spoil: impl FnOnce(&mut StatefulSetPlan)) -> String {
    let observed = parse(situation);
    let mut plan = plan(&observed, now()).unwrap();
    let before = invariants::violations(&observed, &plan, now());
    assert!(before.is_empty(), "{before:?}");
    spoil(&mut plan);
    let violations = invariants::violations(&observed, &plan, now());
    assert!(!violations.is_empty(), "{situation}\n{}", describe(&plan));
    violations.join("; ")
}

/// Replaces the plan by a plan with only these actions for one pod.
fn only(ordinal: i64, actions: Vec<StatefulSetAction>) -> impl FnOnce(&mut StatefulSetPlan) {
    move |plan| plan.pods = vec![PodWork { ordinal, actions }]
}

fn also(ordinal: i64, action: StatefulSetAction) -> impl FnOnce(&mut StatefulSetPlan) {
    move |plan| {
        plan.pods.push(PodWork {
            ordinal,
            actions: vec![action],
        });
    }
}

fn create(ordinal: i64, image: &str) -> StatefulSetAction {
    let set = parse("set").set;
    let pod = identity::pod(&set, &template(image), ordinal, &revision_name(image)).unwrap();
    StatefulSetAction::CreatePod(Box::new(pod))
}

fn delete(ordinal: i64) -> StatefulSetAction {
    StatefulSetAction::DeletePod {
        name: format!("web-{ordinal}"),
        uid: format!("uid-web-{ordinal}").parse().unwrap(),
        version: None,
    }
}

/// statefulset.md 3.32: one running pod for one identity.
#[test]
fn a_pod_beside_another_of_its_name_is_noticed() {
    let terminating = "set replicas=2\nrevisions a=1\npod 0 ready a\npod 1 ready a terminating";
    let violations = spoilt(terminating, also(1, create(1, "a")));
    assert!(
        violations.contains("web-1 is created while it exists"),
        "{violations}"
    );
    let foreign = "set replicas=1\nrevisions a=1\npod 0 ready a foreign";
    let violations = spoilt(foreign, also(0, create(0, "a")));
    assert!(
        violations.contains("web-0 is created while it exists"),
        "{violations}"
    );
    let twice = "set replicas=1 parallel\nrevisions a=1";
    let violations = spoilt(twice, also(0, create(0, "a")));
    assert!(
        violations.contains("web-0 is created twice"),
        "{violations}"
    );
    let many = "set replicas=1\nrevisions a=1\npod 0 ready a";
    let violations = spoilt(many, also(1, create(1, "a")));
    assert!(
        violations.contains("web-1 is created and not wanted"),
        "{violations}"
    );
}

/// statefulset.md 3.10, 3.11: creations start at the lowest ordinal.
#[test]
fn a_creation_out_of_order_is_noticed() {
    let pending = "set replicas=2\nrevisions a=1\npod 0 pending a";
    let violations = spoilt(pending, also(1, create(1, "a")));
    assert!(
        violations.contains("web-1 is created before 0 is available"),
        "{violations}"
    );
    let terminating = "set replicas=2\nrevisions a=1\npod 0 ready a terminating";
    let violations = spoilt(terminating, also(1, create(1, "a")));
    assert!(
        violations.contains("web-1 is created before 0 is available"),
        "{violations}"
    );
}

/// statefulset.md 3.13: deletions start at the highest ordinal, and only when all desired pods are available.
#[test]
fn a_deletion_out_of_order_is_noticed() {
    let two = "set replicas=1\nrevisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a";
    let violations = spoilt(two, only(1, vec![delete(1)]));
    assert!(
        violations.contains("web-1 is deleted while the higher 2 is there"),
        "{violations}"
    );
    let going =
        "set replicas=1\nrevisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a terminating";
    let violations = spoilt(going, only(1, vec![delete(1)]));
    assert!(
        violations.contains("web-1 is deleted while the higher 2 is there"),
        "{violations}"
    );
    let broken = "set replicas=1\nrevisions a=1\npod 0 pending a\npod 1 ready a";
    let violations = spoilt(broken, only(1, vec![delete(1)]));
    assert!(
        violations.contains("before all wanted pods are available"),
        "{violations}"
    );
    let both = "set replicas=0\nrevisions a=1\npod 0 ready a\npod 1 ready a";
    let violations = spoilt(both, also(0, delete(0)));
    assert!(violations.contains("more than one pod"), "{violations}");
    let patient = "set replicas=1 scale-down=WaitForLowest\nrevisions a=1\npod 0 ready a\n\
                   pod 1 pending a\npod 2 pending a";
    let violations = spoilt(patient, only(2, vec![delete(2)]));
    assert!(
        violations.contains("though a lower one is unhealthy too"),
        "{violations}"
    );
}

/// statefulset.md 5.2, 5.4: an update goes from the highest ordinal down to the partition, one pod at a time.
#[test]
fn an_update_out_of_order_is_noticed() {
    let start = "set replicas=3 template=b current=a partition=1\nrevisions a=1 b=2\n\
                 pod 0 ready a\npod 1 ready a\npod 2 ready a";
    let violations = spoilt(start, only(1, vec![delete(1)]));
    assert!(
        violations.contains("web-1 is updated before 2"),
        "{violations}"
    );
    let violations = spoilt(start, only(0, vec![delete(0)]));
    assert!(
        violations.contains("web-0 is deleted though it is below the partition"),
        "{violations}"
    );
    let violations = spoilt(start, also(1, delete(1)));
    assert!(violations.contains("more than one pod"), "{violations}");
    let waits = "set replicas=2 parallel template=b current=a\nrevisions a=1 b=2\n\
                 pod 0 ready a\npod 1 pending b";
    let violations = spoilt(waits, only(0, vec![delete(0)]));
    assert!(
        violations.contains("pod 0 is updated before those above it work"),
        "{violations}"
    );
    let surplus = "set replicas=1 template=b current=a\nrevisions a=1 b=2\n\
                   pod 0 ready a\npod 1 ready a";
    let violations = spoilt(surplus, only(0, vec![delete(0)]));
    assert!(
        violations.contains("before surplus pods are gone"),
        "{violations}"
    );
    let healthy = "set replicas=1\nrevisions a=1\npod 0 ready a";
    let violations = spoilt(healthy, only(0, vec![delete(0)]));
    assert!(
        violations.contains("web-0 is deleted though it is up to date"),
        "{violations}"
    );
}

/// statefulset.md 3.43, 3.45: an update never exceeds the budget.
#[test]
fn an_update_beyond_its_budget_is_noticed() {
    let text = "set replicas=4 parallel max=2 template=b current=a\nrevisions a=1 b=2\n\
                pod 0 ready a\npod 1 ready a\npod 2 ready a\npod 3 ready a";
    let violations = spoilt(text, also(1, delete(1)));
    assert!(violations.contains("3 pods are down"), "{violations}");
}

/// statefulset.md 5.9: a lost pod is recreated at its former revision.
#[test]
fn a_pod_of_the_wrong_revision_is_noticed() {
    let text = "set replicas=2 template=b current=a partition=1\nrevisions a=1 b=2\npod 1 ready b";
    let violations = spoilt(text, only(0, vec![create(0, "b")]));
    assert!(
        violations.contains("web-0 is created at the wrong revision"),
        "{violations}"
    );
    let text = "set replicas=2 template=b current=a partition=1\nrevisions a=1 b=2\npod 0 ready a";
    let violations = spoilt(text, only(1, vec![create(1, "a")]));
    assert!(
        violations.contains("web-1 is created at the wrong revision"),
        "{violations}"
    );
}

/// A successor of the same name would be deleted.
#[test]
fn a_deletion_under_another_uid_is_noticed() {
    let text = "set replicas=0\nrevisions a=1\npod 0 ready a";
    let spoil = |uid: &str| {
        let (name, uid) = ("web-0".to_owned(), uid.parse().unwrap());
        spoilt(
            text,
            only(
                0,
                vec![StatefulSetAction::DeletePod {
                    name,
                    uid,
                    version: None,
                }],
            ),
        )
    };
    assert!(spoil("uid-of-another").contains("under another uid"));
}

/// statefulset.md 2.11, 2.14: data is deleted only as the policy demands.
#[test]
fn a_claim_that_is_given_away_is_noticed() {
    let owners = |kind: &str, name: &str, uid: &str| StatefulSetAction::SetClaimOwners {
        name: "www-web-0".to_owned(),
        uid: "uid-www-web-0".parse().unwrap(),
        version: "1".parse().unwrap(),
        owners: vec![
            json_tree::from_value(json_tree::json!({
                "apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true,
            }))
            .unwrap(),
        ],
    };
    let to_pod = || owners("Pod", "web-0", "uid-web-0");
    let text = |policy: &str| {
        format!("set replicas=1 claims=www {policy}\nrevisions a=1\npod 0 ready a\nclaim www-web-0")
    };
    for policy in ["", "deleted=Delete", "scaled=Delete"] {
        let violations = spoilt(&text(policy), only(0, vec![to_pod()]));
        assert!(
            violations.contains("given away against the policy"),
            "{policy}: {violations}"
        );
    }
    let to_set = owners(identity::KIND, "web", super::situation::SET_UID);
    let violations = spoilt(&text("scaled=Delete"), only(0, vec![to_set]));
    assert!(
        violations.contains("given away against the policy"),
        "{violations}"
    );
    let foreign = "set replicas=1 claims=www\nrevisions a=1\npod 0 ready a\n\
                   claim www-web-0 owner=foreign";
    let none = StatefulSetAction::SetClaimOwners {
        name: "www-web-0".to_owned(),
        uid: "uid-www-web-0".parse().unwrap(),
        version: "1".parse().unwrap(),
        owners: Vec::new(),
    };
    let violations = spoilt(foreign, only(0, vec![none]));
    assert!(
        violations.contains("loses or gains owners of others"),
        "{violations}"
    );
    // The pod was surplus once and owned its claim; now its ordinal is desired again.
    let again = "set replicas=1 claims=www scaled=Delete\nrevisions a=1\npod 0 failed a\n\
                 claim www-web-0 owner=pod";
    let violations = spoilt(again, only(0, vec![delete(0)]));
    assert!(
        violations.contains("claim www-web-0 would go with pod web-0"),
        "{violations}"
    );
}

/// docs/conditions.md: a stuck set reports the cause.
#[test]
fn silence_is_noticed() {
    let stuck = "set replicas=3\nrevisions a=1\npod 0 pending a\npod 2 ready a";
    for ordinal in [0, 1] {
        let violations = spoilt(stuck, |plan| {
            plan.waiting_on
                .retain(|waiting| waiting.ordinal != Some(ordinal));
        });
        let expected = format!("nothing is done about ordinal {ordinal}");
        assert!(violations.contains(&expected), "{violations}");
    }
}

/// statefulset.md 5.13, 5.17: conditions follow the API conventions.
#[test]
fn a_status_that_contradicts_itself_is_noticed() {
    let text = "set replicas=1\nrevisions a=1\npod 0 ready a";
    let status = |spoil: fn(&mut k8s_openapi::api::apps::v1::StatefulSetStatus)| {
        spoilt(text, |plan| spoil(plan.status.as_mut().unwrap()))
    };
    let violations = status(|status| status.ready_replicas = Some(2));
    assert!(violations.contains("do not fit 1 pods"), "{violations}");
    let violations = status(|status| status.observed_generation = Some(0));
    assert!(violations.contains("an old generation"), "{violations}");
    let violations = status(|status| status.conditions = None);
    assert!(
        violations.contains("condition Stalled is not there once"),
        "{violations}"
    );
    let violations = status(|status| {
        status.conditions.as_mut().unwrap()[0].last_transition_time = None;
    });
    assert!(
        violations.contains("does not date from its last change"),
        "{violations}"
    );
    let violations = status(|status| {
        status.conditions.as_mut().unwrap()[2].status = "True".to_owned();
    });
    assert!(
        violations.contains("what is stalled does not progress"),
        "{violations}"
    );
}

/// rollouts.md R27: the last needed pods stay, and healthy pods go by evictions only.
#[test]
fn a_broken_guard_is_noticed() {
    let situation = "set replicas=3 parallel max=3 guard=Quorum template=b current=a\n\
                     revisions a=1 b=2\npod 0 ready a\npod 1 ready a\npod 2 ready a";
    let evict = |ordinal: i64| StatefulSetAction::EvictPod {
        name: format!("web-{ordinal}"),
        uid: format!("uid-web-{ordinal}").parse().unwrap(),
        version: None,
        purpose: Purpose::Update,
    };
    let violations = spoilt(situation, also(1, evict(1)));
    assert!(
        violations.contains("the guard is broken: 1 healthy pods are left"),
        "{violations}"
    );
    let violations = spoilt(situation, only(2, vec![delete(2)]));
    assert!(
        violations.contains("web-2 is healthy and deleted without an eviction"),
        "{violations}"
    );
    let without = situation.replace(" guard=Quorum", "");
    let violations = spoilt(&without, only(2, vec![evict(2)]));
    assert!(violations.contains("the set has no guard"), "{violations}");
}
