//! Claims of pods' `ephemeral` volumes: created for the pod, owned by the pod, and deleted with the pod.
//!
//! Goal: each ephemeral volume of an active pod has its claim. Guarantees: a claim of that name with another owner is
//! neither used nor changed.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use object_model::{IncompleteMetadata, ObjectKey, Uid};
use resource_kinds::MetadataIdentity;

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
pub fn is_of_pod(claim: &PersistentVolumeClaim, pod: &Uid) -> bool {
    let owner = controller(claim.metadata.owner_references.as_deref());
    owner.is_some_and(|owner| *pod == *owner.uid)
}

/// Plans the actions for a pod; `claim` returns claims of the pod's namespace by name.
pub fn plan<C: AsRef<PersistentVolumeClaim>>(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<C>,
) -> Result<Vec<ClaimAction>, IncompleteMetadata> {
    let ended = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let ended = matches!(ended, Some("Succeeded" | "Failed"));
    if pod.metadata.deletion_timestamp.is_some() || ended {
        return Ok(Vec::new());
    }
    let key = pod.metadata.object_key()?;
    let uid = pod.metadata.object_uid()?;
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    let actions = volumes.unwrap_or_default().iter().filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let name = claim_name(&key.name, &volume.name);
        match claim(&name) {
            None => Some(ClaimAction::Create(Box::new(desired_claim(
                name, &key, &uid, template,
            )))),
            Some(existing) if is_of_pod(existing.as_ref(), &uid) => None,
            Some(_) => Some(ClaimAction::Conflict(conflict(&key, &volume.name, &name))),
        }
    });
    Ok(actions.collect())
}

fn desired_claim(
    name: String,
    pod: &ObjectKey,
    uid: &Uid,
    template: &PersistentVolumeClaimTemplate,
) -> PersistentVolumeClaim {
    let metadata = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(pod.namespace.to_string()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name.to_string(),
                uid: uid.to_string(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}

fn conflict(pod: &ObjectKey, volume: &str, claim: &str) -> String {
    let namespace = &pod.namespace;
    format!(
        "ephemeral volume {volume}: PVC {namespace}/{claim} was not created for pod {pod} \
         (pod is not owner)",
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
        .unwrap()
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
