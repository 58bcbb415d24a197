//! Claims of pods' `ephemeral` volumes: created for the pod, owned by the pod, and deleted with the pod.
//!
//! Goal: each ephemeral volume of an active pod has its claim. Guarantees: a claim of that name with another owner is
//! neither used nor changed.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::ownership::controller;

/// The action for one volume.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimAction {
    /// Create the claim.
    Create(Box<PersistentVolumeClaim>),
    /// The claim of another owner has the name; the message for an event.
    Conflict(String),
}

/// The name of the claim of a pod's volume.
pub fn claim_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Whether the pod of that UID owns the claim.
pub fn is_of_pod(claim: &PersistentVolumeClaim, pod_uid: &str) -> bool {
    let owner = controller(claim.metadata.owner_references.as_deref());
    owner.is_some_and(|owner| owner.uid == pod_uid)
}

/// Plans the actions for a pod; `claim` returns claims of the pod's namespace by name.
pub fn plan<C: AsRef<PersistentVolumeClaim>>(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<C>,
) -> Vec<ClaimAction> {
    let ended = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let ended = matches!(ended, Some("Succeeded" | "Failed"));
    if pod.metadata.deletion_timestamp.is_some() || ended {
        return Vec::new();
    }
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    let volumes = volumes.unwrap_or_default().iter();
    volumes
        .filter_map(|volume| {
            let desired = wanted(pod, volume)?;
            let name = desired.metadata.name.clone().unwrap_or_default();
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            match claim(&name) {
                None => Some(ClaimAction::Create(Box::new(desired))),
                Some(there) if is_of_pod(there.as_ref(), uid) => None,
                Some(_) => Some(ClaimAction::Conflict(conflict(pod, volume, &name))),
            }
        })
        .collect()
}

fn wanted(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
    let metadata = template.metadata.unwrap_or_default();
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(&pod_name, &volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod_name,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    })
}

fn conflict(pod: &Pod, volume: &Volume, claim: &str) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    format!(
        "ephemeral volume {}: PVC {namespace}/{claim} was not created for pod {namespace}/{pod} \
         (pod is not owner)",
        volume.name
    )
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u1"}, "spec": {
            "containers": [], "volumes": [{"name": "plain", "emptyDir": {}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}}}}}}]}})
    }

    fn steps(pod: &Value, claim: Option<Value>) -> Vec<ClaimAction> {
        let claim: Option<Box<PersistentVolumeClaim>> =
            claim.map(|claim| json_tree::from_value(claim).unwrap());
        plan(&json_tree::from_value(pod.clone()).unwrap(), |name| {
            claim
                .clone()
                .filter(|claim| claim.metadata.name.as_deref() == Some(name))
        })
    }

    #[test]
    fn a_claim_is_made_for_the_pod_and_owned_by_it() {
        let [ClaimAction::Create(claim)] = &steps(&pod(), None)[..] else {
            panic!("not one claim");
        };
        let created = json!(claim);
        assert_eq!(created["metadata"]["name"], "p-scratch");
        assert_eq!(created["metadata"]["labels"]["a"], "b");
        assert_eq!(created["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(steps(&pod(), Some(created)), []);
    }

    #[test]
    fn somebody_elses_claim_is_not_taken() {
        let foreign = json!({"metadata": {"name": "p-scratch"}});
        let text = "ephemeral volume scratch: PVC d/p-scratch was not created for pod d/p (pod is \
            not owner)";
        assert_eq!(
            steps(&pod(), Some(foreign)),
            [ClaimAction::Conflict(text.to_owned())]
        );
    }

    #[test]
    fn a_pod_that_goes_or_has_ended_gets_none() {
        let mut going = pod();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(steps(&going, None), []);
        let mut ended = pod();
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(steps(&ended, None), []);
    }
}
