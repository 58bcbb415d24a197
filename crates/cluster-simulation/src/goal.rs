//! The goal of a world: the specified state after all faults have ended.

use std::sync::Arc;

use controller_planners::stateful_set::{Observed, identity, invariants, plan};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube_api_client::{ListParams, ResourceExt};

use crate::instances::Instances;
use crate::user::{self, NAMESPACE, User};

/// The deviations from the goal; empty if the goal is reached.
pub async fn deviations(
    user: &User,
    instances: &Instances,
) -> kube_api_client::Result<Vec<String>> {
    let params = ListParams::default();
    let sets = user.api::<StatefulSet>().list(&params).await?.items;
    let pods = user.api::<Pod>().list(&params).await?.items;
    let claims = user
        .api::<PersistentVolumeClaim>()
        .list(&params)
        .await?
        .items;
    let revisions = user.api::<ControllerRevision>().list(&params).await?.items;
    let mut deviations = Vec::new();
    for pod in &pods {
        check_pod(pod, &sets, instances, &mut deviations);
    }
    let now = Timestamp::now();
    for set in sets {
        let name = set.name_any();
        if set.metadata.deletion_timestamp.is_some() {
            deviations.push(format!("{name} is still being deleted"));
            continue;
        }
        let views = pods.iter().map(|pod| pod.try_into().map(Arc::new));
        let views: serde_json::Result<_> = views.collect();
        let observed = Observed {
            set: Arc::new(set),
            pods: views.map_err(kube_api_client::Error::Json)?,
            revisions: revisions.iter().cloned().map(Arc::new).collect(),
            claims: claims
                .iter()
                .map(|claim| (claim.name_any(), Arc::new(claim.clone())))
                .collect(),
            policy: None,
            group: Vec::new(),
            refused: Vec::new(),
        };
        check_set(&observed, now, &mut deviations);
    }
    Ok(deviations)
}

/// Reports a terminating pod, a pod of a deleted set, and a pod that does not run on its node.
fn check_pod(pod: &Pod, sets: &[StatefulSet], instances: &Instances, deviations: &mut Vec<String>) {
    let name = pod.name_any();
    let owners = pod.owner_references().iter();
    let mut owners = owners.filter(|owner| owner.kind == identity::KIND);
    let orphaned = |uid: &String| !sets.iter().any(|set| set.uid().as_ref() == Some(uid));
    if pod.metadata.deletion_timestamp.is_some() {
        deviations.push(format!("{name} is still being deleted"));
    }
    if owners.any(|owner| orphaned(&owner.uid)) {
        deviations.push(format!("{name} has outlived its set"));
    }
    let status = pod.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready =
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let running = instances.running(
        &node.unwrap_or_default(),
        &(NAMESPACE.to_owned(), name.clone()),
    );
    if ready
        && !running
            .iter()
            .any(|instance| Some(&instance.uid) == pod.metadata.uid.as_ref())
    {
        deviations.push(format!("{name} is said to be ready and does not run"));
    }
}

fn check_set(observed: &Observed, now: Timestamp, deviations: &mut Vec<String>) {
    let name = observed.set.name_any();
    let plan = match plan(observed, now) {
        Ok(plan) => plan,
        Err(error) => {
            deviations.push(format!("{name}: {error}"));
            return;
        }
    };
    let actions: Vec<_> = plan.actions().collect();
    if !actions.is_empty() {
        deviations.push(format!("{name}: still to be done: {actions:?}"));
    }
    if plan.status.is_some() {
        deviations.push(format!("{name}: the status is not up to date"));
    }
    if invariants::goal_reached(observed, now) {
        return;
    }
    // With a broken template the goal cannot be reached, but there must be a reason.
    if !user::is_broken(&observed.set) {
        let reasons: Vec<String> = plan
            .waiting_on
            .iter()
            .map(|reason| reason.cause.to_string())
            .collect();
        deviations.push(format!("{name}: not reached, waiting for {reasons:?}"));
    } else if plan.waiting_on.is_empty() {
        deviations.push(format!("{name}: not reached, and no reason is given"));
    }
}
