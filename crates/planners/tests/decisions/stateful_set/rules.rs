//! The rules of `invariants` notice a plan that breaks them: each row spoils a good plan in the
//! way a mistake in the planner would.

use planners::stateful_set::{
    PodWork, StatefulSetAction, StatefulSetPlan, identity, invariants, plan,
};

use super::situation::{describe, now, parse, revision_name, template};

fn spoilt(situation: &str, spoil: impl FnOnce(&mut StatefulSetPlan)) -> String {
    let observed = parse(situation);
    let mut plan = plan(&observed, now());
    let before = invariants::violations(&observed, &plan, now());
    assert!(before.is_empty(), "{before:?}");
    spoil(&mut plan);
    let found = invariants::violations(&observed, &plan, now());
    assert!(!found.is_empty(), "{situation}\n{}", describe(&plan));
    found.join("; ")
}

/// The plan as if it had said this about a pod, and nothing else.
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
    let pod = identity::pod(&set, &template(image), ordinal, &revision_name(image));
    StatefulSetAction::CreatePod(Box::new(pod))
}

fn delete(ordinal: i64) -> StatefulSetAction {
    StatefulSetAction::DeletePod {
        name: format!("web-{ordinal}"),
        uid: format!("uid-web-{ordinal}"),
    }
}

/// statefulset.md 3.32: one running pod for one identity.
#[test]
fn a_pod_beside_another_of_its_name_is_noticed() {
    let terminating = "set replicas=2\nrevisions a=1\npod 0 ready a\npod 1 ready a terminating";
    let found = spoilt(terminating, also(1, create(1, "a")));
    assert!(
        found.contains("web-1 is created while it exists"),
        "{found}"
    );
    let foreign = "set replicas=1\nrevisions a=1\npod 0 ready a foreign";
    let found = spoilt(foreign, also(0, create(0, "a")));
    assert!(
        found.contains("web-0 is created while it exists"),
        "{found}"
    );
    let twice = "set replicas=1 parallel\nrevisions a=1";
    let found = spoilt(twice, also(0, create(0, "a")));
    assert!(found.contains("web-0 is created twice"), "{found}");
    let many = "set replicas=1\nrevisions a=1\npod 0 ready a";
    let found = spoilt(many, also(1, create(1, "a")));
    assert!(found.contains("web-1 is created and not wanted"), "{found}");
}

/// statefulset.md 3.10, 3.11: up from the lowest.
#[test]
fn a_creation_out_of_order_is_noticed() {
    let pending = "set replicas=2\nrevisions a=1\npod 0 pending a";
    let found = spoilt(pending, also(1, create(1, "a")));
    assert!(
        found.contains("web-1 is created before 0 is available"),
        "{found}"
    );
    let terminating = "set replicas=2\nrevisions a=1\npod 0 ready a terminating";
    let found = spoilt(terminating, also(1, create(1, "a")));
    assert!(
        found.contains("web-1 is created before 0 is available"),
        "{found}"
    );
}

/// statefulset.md 3.13: down from the highest, and only when all wanted pods work.
#[test]
fn a_deletion_out_of_order_is_noticed() {
    let two = "set replicas=1\nrevisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a";
    let found = spoilt(two, only(1, vec![delete(1)]));
    assert!(
        found.contains("web-1 is deleted while the higher 2 is there"),
        "{found}"
    );
    let going =
        "set replicas=1\nrevisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a terminating";
    let found = spoilt(going, only(1, vec![delete(1)]));
    assert!(
        found.contains("web-1 is deleted while the higher 2 is there"),
        "{found}"
    );
    let broken = "set replicas=1\nrevisions a=1\npod 0 pending a\npod 1 ready a";
    let found = spoilt(broken, only(1, vec![delete(1)]));
    assert!(
        found.contains("before all wanted pods are available"),
        "{found}"
    );
    let both = "set replicas=0\nrevisions a=1\npod 0 ready a\npod 1 ready a";
    let found = spoilt(both, also(0, delete(0)));
    assert!(found.contains("more than one pod"), "{found}");
    let patient = "set replicas=1 scale-down=WaitForLowest\nrevisions a=1\npod 0 ready a\n\
                   pod 1 pending a\npod 2 pending a";
    let found = spoilt(patient, only(2, vec![delete(2)]));
    assert!(
        found.contains("though a lower one is unhealthy too"),
        "{found}"
    );
}

/// statefulset.md 5.2, 5.4: from the highest down to the partition, one at a time.
#[test]
fn an_update_out_of_order_is_noticed() {
    let start = "set replicas=3 template=b current=a partition=1\nrevisions a=1 b=2\n\
                 pod 0 ready a\npod 1 ready a\npod 2 ready a";
    let found = spoilt(start, only(1, vec![delete(1)]));
    assert!(found.contains("web-1 is updated before 2"), "{found}");
    let found = spoilt(start, only(0, vec![delete(0)]));
    assert!(
        found.contains("web-0 is deleted though it is below the partition"),
        "{found}"
    );
    let found = spoilt(start, also(1, delete(1)));
    assert!(found.contains("more than one pod"), "{found}");
    let waits = "set replicas=2 parallel template=b current=a\nrevisions a=1 b=2\n\
                 pod 0 ready a\npod 1 pending b";
    let found = spoilt(waits, only(0, vec![delete(0)]));
    assert!(
        found.contains("pod 0 is updated before those above it work"),
        "{found}"
    );
    let surplus = "set replicas=1 template=b current=a\nrevisions a=1 b=2\n\
                   pod 0 ready a\npod 1 ready a";
    let found = spoilt(surplus, only(0, vec![delete(0)]));
    assert!(found.contains("before surplus pods are gone"), "{found}");
    let healthy = "set replicas=1\nrevisions a=1\npod 0 ready a";
    let found = spoilt(healthy, only(0, vec![delete(0)]));
    assert!(
        found.contains("web-0 is deleted though it is up to date"),
        "{found}"
    );
}

/// statefulset.md 3.43, 3.45: never more than the budget.
#[test]
fn an_update_beyond_its_budget_is_noticed() {
    let text = "set replicas=4 parallel max=2 template=b current=a\nrevisions a=1 b=2\n\
                pod 0 ready a\npod 1 ready a\npod 2 ready a\npod 3 ready a";
    let found = spoilt(text, also(1, delete(1)));
    assert!(found.contains("3 pods are down"), "{found}");
}

/// statefulset.md 5.9: a lost pod comes back as what it was.
#[test]
fn a_pod_of_the_wrong_revision_is_noticed() {
    let text = "set replicas=2 template=b current=a partition=1\nrevisions a=1 b=2\npod 1 ready b";
    let found = spoilt(text, only(0, vec![create(0, "b")]));
    assert!(
        found.contains("web-0 is created at the wrong revision"),
        "{found}"
    );
    let text = "set replicas=2 template=b current=a partition=1\nrevisions a=1 b=2\npod 0 ready a";
    let found = spoilt(text, only(1, vec![create(1, "a")]));
    assert!(
        found.contains("web-1 is created at the wrong revision"),
        "{found}"
    );
}

/// Without a uid a successor of the same name would be hit.
#[test]
fn a_deletion_that_does_not_say_which_pod_is_noticed() {
    let text = "set replicas=0\nrevisions a=1\npod 0 ready a";
    let spoil = |uid: &str| {
        let (name, uid) = ("web-0".to_owned(), uid.to_owned());
        spoilt(
            text,
            only(0, vec![StatefulSetAction::DeletePod { name, uid }]),
        )
    };
    assert!(spoil("").contains("does not say to which one"));
    assert!(spoil("uid-of-another").contains("under another uid"));
}

/// statefulset.md 2.11, 2.14: data goes only by policy.
#[test]
fn a_claim_that_is_given_away_is_noticed() {
    let owners = |kind: &str, name: &str, uid: &str| StatefulSetAction::SetClaimOwners {
        name: "www-web-0".to_owned(),
        uid: "uid-www-web-0".to_owned(),
        resource_version: "1".to_owned(),
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
        let found = spoilt(&text(policy), only(0, vec![to_pod()]));
        assert!(
            found.contains("given away against the policy"),
            "{policy}: {found}"
        );
    }
    let to_set = owners(identity::KIND, "web", super::situation::SET_UID);
    let found = spoilt(&text("scaled=Delete"), only(0, vec![to_set]));
    assert!(found.contains("given away against the policy"), "{found}");
    let foreign = "set replicas=1 claims=www\nrevisions a=1\npod 0 ready a\n\
                   claim www-web-0 owner=foreign";
    let none = StatefulSetAction::SetClaimOwners {
        name: "www-web-0".to_owned(),
        uid: "uid-www-web-0".to_owned(),
        resource_version: "1".to_owned(),
        owners: Vec::new(),
    };
    let found = spoilt(foreign, only(0, vec![none]));
    assert!(found.contains("loses or gains owners of others"), "{found}");
    // It was surplus once, and its claim was its own; now it is wanted again.
    let again = "set replicas=1 claims=www scaled=Delete\nrevisions a=1\npod 0 failed a\n\
                 claim www-web-0 owner=pod";
    let found = spoilt(again, only(0, vec![delete(0)]));
    assert!(
        found.contains("claim www-web-0 would go with pod web-0"),
        "{found}"
    );
}

/// docs/conditions.md: a stuck set shows the cause.
#[test]
fn silence_is_noticed() {
    let stuck = "set replicas=3\nrevisions a=1\npod 0 pending a\npod 2 ready a";
    for ordinal in [0, 1] {
        let found = spoilt(stuck, |plan| {
            plan.waiting_on
                .retain(|waiting| waiting.ordinal != Some(ordinal));
        });
        let wanted = format!("nothing is done about ordinal {ordinal}");
        assert!(found.contains(&wanted), "{found}");
    }
}

/// statefulset.md 5.13, 5.17; conditions as API conventions have them.
#[test]
fn a_status_that_contradicts_itself_is_noticed() {
    let text = "set replicas=1\nrevisions a=1\npod 0 ready a";
    let status = |spoil: fn(&mut k8s_openapi::api::apps::v1::StatefulSetStatus)| {
        spoilt(text, |plan| spoil(plan.status.as_mut().unwrap()))
    };
    let found = status(|status| status.ready_replicas = Some(2));
    assert!(found.contains("do not fit 1 pods"), "{found}");
    let found = status(|status| status.observed_generation = Some(0));
    assert!(found.contains("an old generation"), "{found}");
    let found = status(|status| status.conditions = None);
    assert!(
        found.contains("condition Stalled is not there once"),
        "{found}"
    );
    let found = status(|status| {
        status.conditions.as_mut().unwrap()[0].last_transition_time = None;
    });
    assert!(
        found.contains("does not date from its last change"),
        "{found}"
    );
    let found = status(|status| {
        status.conditions.as_mut().unwrap()[2].status = "True".to_owned();
    });
    assert!(
        found.contains("what is stalled does not progress"),
        "{found}"
    );
}
