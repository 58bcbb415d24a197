//! The planner of ResourceClaims.

use std::sync::Arc;

use controller_planners::resource_claims::{
    ClaimStep, ConsumerState, PodStep, claim_name, plan_claim, plan_pod,
};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use proptest::prelude::*;

const PROTECTION: &str = "resource.kubernetes.io/delete-protection";

fn pod(more: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u1"}, "spec": {
        "containers": [], "resourceClaims": [
            {"name": "gpu", "resourceClaimTemplateName": "t"},
            {"name": "nic", "resourceClaimName": "shared"}]}});
    json_patch(&mut pod, &more);
    json_tree::from_value(pod).unwrap()
}

fn json_patch(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(map), Value::Object(more)) => {
            for (key, more) in more {
                json_patch(map.entry(key).or_insert(Value::Null), more);
            }
        }
        (value, more) => *value = more.clone(),
    }
}

fn template() -> Arc<ResourceClaimTemplate> {
    let template = json!({"metadata": {"name": "t"}, "spec": {
        "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "x"}}]}}}});
    Arc::new(json_tree::from_value(template).unwrap())
}

fn claim(value: Value) -> Arc<ResourceClaim> {
    let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "cu"},
        "spec": {}});
    json_patch(&mut claim, &value);
    Arc::new(json_tree::from_value(claim).unwrap())
}

fn steps(pod: &Pod, claims: &[Arc<ResourceClaim>], with_template: bool) -> Vec<PodStep> {
    let find = |name: &str| {
        let mut claims = claims.iter();
        claims
            .find(|claim| claim.metadata.name.as_deref() == Some(name))
            .cloned()
    };
    plan_pod(pod, find, |_| with_template.then(template)).unwrap()
}

fn created_claim(pod: &Pod) -> ResourceClaim {
    let steps = steps(pod, &[], true);
    let [PodStep::Create(claim), PodStep::Note(_)] = steps.as_slice() else {
        panic!("not one claim: {steps:?}");
    };
    (**claim).clone()
}

/// findings C48
#[test]
fn a_pod_gets_a_claim_of_its_template() {
    let pod = pod(json!({}));
    let claim = json!(created_claim(&pod));
    let metadata = &claim["metadata"];
    assert_eq!(metadata["labels"]["a"], "b");
    let annotations = json!({"c": "d", "resource.kubernetes.io/pod-claim-name": "gpu"});
    assert_eq!(metadata["annotations"], annotations);
    let owner = &metadata["ownerReferences"][0];
    assert_eq!(
        (&owner["uid"], &owner["controller"]),
        (&json!("u1"), &json!(true))
    );
    assert_eq!(claim["spec"]["devices"]["requests"][0]["name"], "r");
    let name = metadata["name"].as_str().unwrap();
    assert!(name.starts_with("p-gpu-"), "{name}");
    assert_eq!(
        steps(&pod, &[], true)[1],
        PodStep::Note(vec![("gpu".to_owned(), name.to_owned())])
    );
}

/// findings C48: a snapshot without the claim creates the claim again, which the server refuses.
#[test]
fn a_claim_that_is_there_is_only_noted_and_then_nothing_is_left_to_do() {
    let plain = pod(json!({}));
    let claim = Arc::new(created_claim(&plain));
    assert_eq!(json!(created_claim(&plain)), json!(claim));
    let name = claim.metadata.name.clone().unwrap();
    let claims = [claim];
    assert_eq!(
        steps(&plain, &claims, false),
        [PodStep::Note(vec![("gpu".to_owned(), name.clone())])]
    );
    let noted = pod(json!({"status": {"resourceClaimStatuses": [
        {"name": "gpu", "resourceClaimName": name}]}}));
    assert_eq!(steps(&noted, &claims, true), []);
}

/// findings C48
#[test]
fn a_pod_waits_for_its_template_and_takes_nobodys_claim() {
    let pod = pod(json!({}));
    let wait = "PodResourceClaim gpu: resource claim template \"t\": \
                resourceclaimtemplate.resource.k8s.io \"t\" not found";
    assert_eq!(steps(&pod, &[], false), [PodStep::Wait(wait.to_owned())]);
    let name = created_claim(&pod).metadata.name.unwrap();
    let foreign = claim(json!({"metadata": {"name": name}}));
    let steps = steps(&pod, &[foreign], true);
    assert!(
        matches!(steps.as_slice(), [PodStep::Wait(text)] if text.contains("not owned")),
        "{steps:?}"
    );
}

/// findings C48
#[test]
fn a_pod_that_is_over_or_going_gets_none() {
    for more in [
        json!({"status": {"phase": "Succeeded"}}),
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ] {
        assert_eq!(steps(&pod(more), &[], true), []);
    }
}

/// findings C48
#[test]
fn a_pod_that_its_author_bound_is_added_to_the_users_of_its_claims() {
    let bound = pod(json!({"spec": {"nodeName": "n1", "resourceClaims": [
        {"name": "nic", "resourceClaimName": "shared"}]}}));
    let shared = |status: Value| claim(json!({"metadata": {"name": "shared"}, "status": status}));
    let allocated = shared(json!({"allocation": {}}));
    let actions = steps(&bound, std::slice::from_ref(&allocated), true);
    let [PodStep::Reserve { user, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("p", "u1"));
    let has = shared(json!({"allocation": {}, "reservedFor": [
        {"resource": "pods", "name": "p", "uid": "u1"}]}));
    for (pod, claim) in [
        (&bound, has),
        (&bound, shared(json!({}))),
        (
            &pod(json!({"spec": {"resourceClaims": [
                {"name": "nic", "resourceClaimName": "shared"}]}})),
            allocated,
        ),
    ] {
        assert_eq!(steps(pod, &[claim], true), []);
    }
}

fn reserved(finalizers: Value, users: &[&str]) -> Arc<ResourceClaim> {
    let users: Vec<Value> = users
        .iter()
        .map(|name| json!({"resource": "pods", "name": name, "uid": format!("{name}-uid")}))
        .collect();
    claim(json!({"metadata": {"finalizers": finalizers},
        "status": {"allocation": {}, "reservedFor": users}}))
}

fn observed_consumer(name: &str, _: &str) -> ConsumerState {
    match name.split('-').next() {
        Some("lives") => ConsumerState::Living,
        Some("over") => ConsumerState::Ended,
        Some("gone") => ConsumerState::Absent,
        _ => ConsumerState::Unknown,
    }
}

/// findings C48
#[test]
fn pods_that_are_over_do_not_keep_a_claim() {
    let claim = reserved(json!([PROTECTION]), &["lives-1", "over-1", "gone-1", "x"]);
    let steps = plan_claim(&claim, observed_consumer);
    let [
        ClaimStep::Release {
            consumers: remaining,
            free: false,
        },
    ] = steps.as_slice()
    else {
        panic!("{steps:?}");
    };
    let remaining: Vec<&str> = remaining.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(remaining, ["lives-1", "x"]);
}

/// findings C48
#[test]
fn with_its_last_user_a_claim_gives_its_devices_back() {
    cov_mark::check!(findings_c48);
    let claim = reserved(json!(["other", PROTECTION]), &["over-1"]);
    assert_eq!(
        plan_claim(&claim, observed_consumer),
        [
            ClaimStep::Release {
                consumers: vec![],
                free: true
            },
            ClaimStep::Unprotect {
                finalizers: vec!["other".to_owned()]
            },
        ]
    );
    // The claim was allocated by another allocator, which has to deallocate it.
    let foreign = reserved(json!([]), &["over-1"]);
    assert_eq!(
        plan_claim(&foreign, observed_consumer),
        [ClaimStep::Release {
            consumers: vec![],
            free: false
        }]
    );
    // The claim is allocated, and may get a consumer soon.
    assert_eq!(
        plan_claim(&reserved(json!([PROTECTION]), &[]), observed_consumer),
        []
    );
}

/// findings C48
#[test]
fn a_claim_that_is_deleted_goes_when_nobody_uses_it() {
    let going = |users: &[&str]| {
        let mut claim = (*reserved(json!([PROTECTION]), users)).clone();
        let stamp = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let stamped: ResourceClaim = json_tree::from_value({
            let mut value = json!(claim);
            json_patch(&mut value, &stamp);
            value
        })
        .unwrap();
        claim = stamped;
        plan_claim(&claim, observed_consumer)
    };
    assert_eq!(going(&["lives-1"]), []);
    assert!(matches!(
        going(&[]).as_slice(),
        [
            ClaimStep::Release { free: true, .. },
            ClaimStep::Unprotect { .. }
        ]
    ));
}

/// findings C48
#[test]
fn the_claim_of_a_pod_that_is_over_is_deleted() {
    let owned = |pod: &str, users: Value| {
        claim(
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
            "name": pod, "uid": "u", "controller": true}]}, "status": {"reservedFor": users}}),
        )
    };
    assert_eq!(
        plan_claim(&owned("over-1", json!([])), observed_consumer),
        [ClaimStep::Delete]
    );
    // The garbage collector deletes the claims of a pod that does not exist.
    for pod in ["lives-1", "gone-1", "x"] {
        assert_eq!(plan_claim(&owned(pod, json!([])), observed_consumer), []);
    }
    let used = json!([{"resource": "pods", "name": "lives-2", "uid": "v"}]);
    assert_eq!(plan_claim(&owned("over-1", used), observed_consumer), []);
}

proptest! {
    /// findings C48: names are valid, unique for the pod, and equal in each plan.
    #[test]
    fn names_of_claims_are_labels(
        pod in "[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?",
        claim in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    ) {
        let name = claim_name(&pod, "uid", &claim);
        prop_assert!(name.len() <= 63, "{name}");
        prop_assert!(!name.contains("--") || pod.contains("--") || claim.contains("--"));
        prop_assert_eq!(&name, &claim_name(&pod, "uid", &claim));
        prop_assert_ne!(&name, &claim_name(&pod, "other", &claim));
    }

    /// findings C48: a claim keeps its devices while a consumer lives.
    #[test]
    fn a_claim_in_use_keeps_its_devices(
        users in proptest::collection::vec("(lives|over|gone|x)-[a-c]", 0..5),
        protected in any::<bool>(),
    ) {
        let names: Vec<&str> = users.iter().map(String::as_str).collect();
        let finalizers = if protected { json!([PROTECTION]) } else { json!([]) };
        let steps = plan_claim(&reserved(finalizers, &names), observed_consumer);
        let living = names.iter().any(|name| name.starts_with("lives") || name.starts_with('x'));
        for step in &steps {
            match step {
                ClaimStep::Release { free, .. } => prop_assert!(!(living && *free)),
                ClaimStep::Unprotect { .. } => prop_assert!(!living && protected),
                ClaimStep::Delete => prop_assert!(false, "not made for a pod"),
            }
        }
    }
}
