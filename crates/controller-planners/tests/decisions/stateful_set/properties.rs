//! Properties for any input: the planner never fails, respects its invariants and becomes idle.

use std::sync::Arc;

use controller_planners::stateful_set::{Observed, invariants, plan};
use jiff::Timestamp;
use proptest::prelude::*;

use k8s_openapi::api::apps::v1::StatefulSet;
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

use super::cluster::Cluster;
use super::situation::{describe, now, parse};

fn flags() -> impl Strategy<Value = String> {
    let words = [
        "parallel",
        "on-delete",
        "bare-rolling-update",
        "partition=1",
        "partition=7",
        "max=2",
        "max=50%",
        "start=1",
        "start=2",
        "min-ready=5",
        "claims=www",
        "claims=www,log",
        "deleted=Delete",
        "scaled=Delete",
        "limit=0",
        "new",
        "deleting",
        "current-replicas=2",
        "stuck-rollout=Wait",
        "scale-down=WaitForLowest",
        "max-unavailable=AsReleased",
        "progress-deadline-seconds=60",
        "scale-down=what",
        "guard=Quorum",
        "guard=60%",
        "guard=Quorum group=bank",
        "on-failure=Hold",
        "on-failure=Rollback",
        "guard=Quorum on-failure=Rollback",
        "guard=Quorum on-failure=Hold recreate",
        "on-failure=Rollback recreate",
        "order=last:leader default-role=replica",
        "order=zone,last:leader default-role=replica on-failure=Rollback",
        "order=zone,ordinals:0+2 guard=Quorum",
        "hooks=drain:Update+ScaleDown+Evict cancel",
        "steps=1:5,50%,2:3",
        "steps=50%:2,1 on-failure=Rollback guard=Quorum",
        "hooks=drain:Update+Rollback+ScaleDown,leave:ScaleDown guard=Quorum on-failure=Rollback",
        "hooks=drain:Update,leave:Update+ScaleDown order=last:leader default-role=replica proceed",
        "hooks=drain:Update+ScaleDown recreate on-failure=Hold",
        "claims=www size=2 claim-updates=InPlace",
        "claims=log size=2 removed=www claim-updates=InPlace",
        "claims=www,log size=3 claim-updates=NewOnly",
    ];
    prop::sample::subsequence(words.to_vec(), 0..6).prop_map(|words| words.join(" "))
}

fn image() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn set() -> impl Strategy<Value = String> {
    (0..5, image(), image(), flags()).prop_map(|(replicas, template, current, flags)| {
        format!("set replicas={replicas} template={template} current={current} {flags}\n")
    })
}

fn pods() -> impl Strategy<Value = String> {
    let states = ["ready", "running", "pending", "failed", "succeeded"];
    let words = [
        "terminating",
        "orphan",
        "foreign",
        "nameless",
        "app=x",
        "was-ready",
        "since=2",
        "role=leader",
        "role=replica",
        "zone=a",
        "zone=b",
        "hold=Update",
        "hold=Update done",
        "hold=ScaleDown done",
        "hold=ScaleDown held=90",
        "hold=Evict held=290 done",
        "hold=Update cancelling",
    ];
    let state = prop::sample::select(states.to_vec());
    let words = prop::sample::subsequence(words.to_vec(), 0..3);
    let pod = (state, image(), words)
        .prop_map(|(state, image, words)| format!("{state} {image} {}", words.join(" ")));
    prop::collection::btree_map(0..6, pod, 0..6).prop_map(|pods| {
        pods.into_iter()
            .map(|(ordinal, pod)| format!("pod {ordinal} {pod}\n"))
            .collect()
    })
}

fn claims() -> impl Strategy<Value = String> {
    let words = [
        "",
        "terminating",
        "owner=set",
        "owner=pod",
        "owner=old-pod",
        "owner=old-set",
    ];
    let more = ["owner=foreign", "owner=set,pod", "owner=set,foreign"];
    let words = prop::sample::select([words.as_slice(), more.as_slice()].concat());
    let volumes = [
        "",
        "size=1 volume=1",
        "size=3 volume=1",
        "size=9 volume=1 failed",
    ];
    let volumes = prop::sample::select(volumes.to_vec());
    prop::collection::btree_map(0..4, (words, volumes), 0..4).prop_map(|claims| {
        claims
            .into_iter()
            .map(|(n, (words, volume))| format!("claim www-web-{n} {words} {volume}\n"))
            .collect()
    })
}

fn history() -> impl Strategy<Value = String> {
    let all = vec![
        "revisions a=1 b=2 c=3\n",
        "revisions a=1 b=2! c=3!\n",
        "revisions a=1! b=2\n",
        "revisions b=1\n",
        "revisions c=1 a=5\n",
        "",
    ];
    prop::sample::select(all).prop_map(str::to_owned)
}

/// Another set of the group; of no effect for a set without a group.
fn others() -> impl Strategy<Value = String> {
    let all = vec![
        "",
        "",
        "other cache guard=Quorum replicas=3 ready=3\n",
        "other cache guard=60% replicas=5 ready=3\n",
        "other cache guard=1 replicas=2 ready=0\nother log guard=Quorum replicas=1 ready=1\n",
    ];
    prop::sample::select(all).prop_map(str::to_owned)
}

fn situation() -> impl Strategy<Value = String> {
    let all = (set(), pods(), claims(), history(), others());
    all.prop_map(|(s, p, c, h, o)| {
        // The other sets are those of the group of the set.
        let others = if s.contains("group=bank") {
            o
        } else {
            String::new()
        };
        format!("{s}{p}{c}{h}{others}")
    })
}

/// Whether no healthy pod of a set at its goal may go: the guard needs every pod, or as many as the other sets of its
/// group leave.
fn is_closed(observed: &Observed) -> bool {
    let guard = |policy: &Arc<StatefulSetPolicy>| policy.spec.guard.clone();
    let replicas = |set: &StatefulSet| {
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
        replicas.map_or(1, i64::from)
    };
    let own = observed.policy.as_ref().and_then(guard);
    let others = observed.group.iter();
    let guards = others.clone().filter_map(|other| guard(&other.policy));
    let all = replicas(&observed.set) + others.clone().map(|o| replicas(&o.set)).sum::<i64>();
    let down = others.map(|o| replicas(&o.set) - i64::try_from(o.pods.len()).unwrap());
    let up = all - down.sum::<i64>();
    let needed = guards
        .chain(own.clone())
        .map(|guard| guard.min_healthy.of(all));
    own.is_some() && needed.max().is_some_and(|needed| needed >= up)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Any situation has a plan, and the plan respects the rules.
    #[test]
    fn every_plan_keeps_the_invariants(text in situation()) {
        let observed = parse(&text);
        let plan = plan(&observed, now()).unwrap();
        let broken = invariants::violations(&observed, &plan, now());
        prop_assert!(broken.is_empty(), "{broken:?}\n{}", describe(&plan));
    }

    /// An event is not repeated: with the stored status an equal snapshot gives no other event, except once when the
    /// update becomes the current revision, which begins a stage.
    #[test]
    fn a_status_that_was_written_is_not_written_again(text in situation()) {
        let mut observed = parse(&text);
        for _ in 0..2 {
            let Some(status) = plan(&observed, now()).unwrap().status else { break };
            let mut set = (*observed.set).clone();
            set.status = Some(status);
            observed.set = Arc::new(set);
        }
        let again = plan(&observed, now()).unwrap();
        prop_assert!(again.status.is_none(), "{}", describe(&again));
        let repeated = ["ConflictingController", "ReplacedStuckPod"];
        let news = again.notices.iter().find(|notice| !repeated.contains(&notice.reason));
        prop_assert!(news.is_none(), "{}", describe(&again));
    }

    /// The order of the observed objects does not change the plan.
    #[test]
    fn the_order_of_what_is_observed_does_not_matter(text in situation()) {
        let observed = parse(&text);
        let mut turned = observed.clone();
        turned.pods.reverse();
        turned.revisions.reverse();
        let mut plans = [plan(&observed, now()).unwrap(), plan(&turned, now()).unwrap()];
        for plan in &mut plans {
            // Adoptions are independent of each other.
            plan.prepare.sort_by_key(|action| format!("{action:?}"));
        }
        prop_assert_eq!(&plans[0], &plans[1]);
    }

    /// With good images any start reaches the specified state, and then no write is planned. The rules are checked at
    /// every step.
    #[test]
    fn from_anywhere_it_comes_to_rest_at_the_goal(text in situation()) {
        let mut cluster = Cluster::new(&text);
        // The planner does not control foreign pods and claims that are being deleted.
        cluster.pods.retain(|_, pod| {
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            owners.first().is_none_or(|owner| owner.uid == super::situation::SET_UID)
        });
        cluster.claims.retain(|_, claim| claim.metadata.deletion_timestamp.is_none());
        cluster.settle();
        // A released pod keeps its name until a user deletes the pod.
        cluster.pods.retain(|_, pod| pod.metadata.owner_references.as_ref().is_some_and(|owners| {
            !owners.is_empty()
        }));
        cluster.settle();
        let observed = cluster.observed();
        let is_closed = is_closed(&observed);
        let is_at_goal = invariants::goal_reached(&observed, cluster.now);
        prop_assert!(is_at_goal || is_closed, "{}", cluster.shows());
        prop_assert!(cluster.step().is_idle());
    }

    /// Extreme numbers cause no panic.
    #[test]
    fn extreme_numbers_are_survived(
        numbers in prop::array::uniform6(prop::sample::select(vec![i32::MIN, -1, 0, 1, i32::MAX])),
        text in situation(),
    ) {
        let mut observed = parse(&text);
        let mut set = (*observed.set).clone();
        let spec = set.spec.as_mut().unwrap();
        spec.replicas = Some(numbers[0]);
        spec.ordinals.get_or_insert_default().start = Some(numbers[1]);
        spec.min_ready_seconds = Some(numbers[2]);
        spec.revision_history_limit = Some(numbers[3]);
        let strategy = spec.update_strategy.get_or_insert_default();
        strategy.rolling_update.get_or_insert_default().partition = Some(numbers[4]);
        set.status.get_or_insert_default().current_replicas = Some(numbers[5]);
        observed.set = Arc::new(set);
        for now in [now(), Timestamp::MIN, Timestamp::MAX] {
            prop_assert!(plan(&observed, now).is_ok());
        }
    }
}
