//! Mistakes about claims that follow their template (rollouts.md C3–C6).

use std::sync::Arc;

use controller_planners::stateful_set::{
    ClaimEdit, Observed, StatefulSetAction, StatefulSetPlan, VolumeEdit,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use model_check::state::Budget;
use model_check::world::{Edit, Fault, World};
use object_model::ResourceVersion;
use resource_kinds::MetadataIdentity;
use resource_kinds::stateful_set_policy::{ClaimRules, PolicySpec, StatefulSetPolicy};

use super::{by_effect, check_detects, with_input, with_plan, without_guard, world};

/// The world of sizes, with these edits.
fn sizes(edits: &[Edit], faults: u8) -> World {
    World {
        edits: edits.to_vec(),
        budget: Budget {
            edits: u8::try_from(edits.len()).expect("a few"),
            faults,
            ..Budget::default()
        },
        ..world("claim-sizes")
    }
}

/// rollouts.md C5: all volumes change at once.
#[test]
fn all_volumes_at_once_are_detected() {
    let input = |observed: &mut Observed| {
        let rules = ClaimRules {
            parallel: 9,
            ..ClaimRules::default()
        };
        observed.policy = Some(Arc::new(StatefulSetPolicy {
            spec: PolicySpec {
                claims: Some(rules),
                ..PolicySpec::default()
            },
            ..StatefulSetPolicy::default()
        }));
    };
    let world = || sizes(&[Edit::ClaimSize(2)], 0);
    check_detects(world(), with_input(input), "volumes are changed at once");
    check_detects(
        world(),
        by_effect(with_input(input)),
        "2 volumes change at once",
    );
}

fn status(claim: &mut Arc<PersistentVolumeClaim>) -> Option<&mut PersistentVolumeClaim> {
    let claim = Arc::make_mut(claim);
    claim.status.is_some().then_some(claim)
}

/// rollouts.md C5: the failure of an earlier growth counts for a new request, so that the next volume changes, too.
#[test]
fn a_failure_of_an_earlier_request_is_detected() {
    let input = |observed: &mut Observed| {
        for claim in observed.claims.values_mut().filter_map(status) {
            let status = claim.status.as_mut().expect("a status");
            status.allocated_resources = None;
        }
    };
    check_detects(
        sizes(&[Edit::ClaimSize(3), Edit::ClaimSize(2)], 1),
        by_effect(with_input(input)),
        "2 volumes change at once",
    );
}

/// The edit of a claim to the size of its template.
fn edit_to_template(observed: &Observed, claim: &PersistentVolumeClaim) -> StatefulSetAction {
    let templates = observed.set.spec.as_ref();
    let templates = templates.and_then(|spec| spec.volume_claim_templates.as_ref());
    let template = templates.expect("a template")[0].spec.as_ref();
    let resources = template.and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let size = requests.expect("a size")["storage"].0.clone();
    let meta = &claim.metadata;
    StatefulSetAction::EditClaim {
        name: meta.name.clone().expect("a name"),
        uid: meta.object_uid().expect("a UID"),
        version: version(meta.resource_version.as_deref()),
        edit: Box::new(ClaimEdit::Volume(VolumeEdit {
            storage: Some(size),
            attributes_class: None,
        })),
    }
}

fn version(text: Option<&str>) -> ResourceVersion {
    text.expect("a version").parse().expect("a number")
}

fn request(claim: &PersistentVolumeClaim) -> Option<&str> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    Some(&resources.requests.as_ref()?.get("storage")?.0)
}

/// rollouts.md C6: the request follows a smaller template below the size of the volume.
#[test]
fn a_request_below_the_size_of_the_volume_is_detected() {
    let plan = |observed: &Observed, plan: &mut StatefulSetPlan| {
        let larger = observed
            .claims
            .values()
            .find(|claim| request(claim) == Some("2Gi") && plan.claim_edits.is_empty());
        let Some(claim) = larger else { return };
        let edit = edit_to_template(observed, claim);
        let StatefulSetAction::EditClaim { edit: change, .. } = &edit else {
            return;
        };
        let ClaimEdit::Volume(change) = &**change else {
            return;
        };
        if change.storage.as_deref() == Some("1Gi") {
            plan.claim_edits.push(edit);
        }
    };
    let world = || sizes(&[Edit::ClaimSize(2), Edit::ClaimSize(1)], 0);
    check_detects(
        world(),
        with_plan(plan),
        "gets less room than its volume has",
    );
    check_detects(
        world(),
        by_effect(with_plan(plan)),
        "gets less room than its volume has",
    );
}

/// rollouts.md C6: a request that is taken back without its version, while the volume has grown after all.
#[test]
fn an_edit_of_a_claim_without_version_is_detected() {
    check_detects(
        sizes(&[Edit::ClaimSize(3), Edit::ClaimSize(2)], 1),
        without_guard(|guards| guards.edits_by_version = false),
        "gets less room than its volume has",
    );
}

/// rollouts.md C3: an edit that is never written.
#[test]
fn a_claim_that_does_not_follow_is_detected() {
    let plan = |_: &Observed, plan: &mut StatefulSetPlan| plan.claim_edits.clear();
    check_detects(
        sizes(&[Edit::ClaimSize(2)], 0),
        with_plan(plan),
        "has not the size of its template",
    );
    let labels = World {
        edits: vec![Edit::ClaimLabel(2)],
        faults: &[Fault::Relabel],
        ..sizes(&[Edit::ClaimLabel(2)], 1)
    };
    check_detects(labels, with_plan(plan), "has not the label of its template");
}

/// rollouts.md C4: a pod restarts for the growth of its volume.
#[test]
fn a_restart_for_a_growth_is_detected() {
    let plan = |observed: &Observed, plan: &mut StatefulSetPlan| {
        let Some(StatefulSetAction::EditClaim { name, .. }) = plan.claim_edits.first() else {
            return;
        };
        let pod = name.trim_start_matches("data-");
        let pod = observed.pods.iter().find(|other| *other.name == *pod);
        let Some(pod) = pod.filter(|pod| !pod.is_deleting()) else {
            return;
        };
        plan.prepare.push(StatefulSetAction::DeletePod {
            name: pod.name.to_string(),
            uid: pod.uid.clone(),
            version: None,
        });
    };
    check_detects(
        sizes(&[Edit::ClaimSize(2)], 0),
        by_effect(with_plan(plan)),
        "web-1 is deleted for an edit of its claim",
    );
}
