//! The names and labels by which a pod is the pod of an ordinal of its set.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaimVolumeSource, Pod, PodSpec, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::annotations::ENDS_WITH_LEASE;
pub use resource_kinds::apps::ordinal;
use resource_kinds::{MetadataIdentity, labels};

use super::observed::template_names;
use super::options::{NodeFailure, Options};

/// Kind, as in owner references.
pub const KIND: &str = "StatefulSet";
/// API version, as in owner references.
pub const API_VERSION: &str = "apps/v1";

/// The name of the pod with that ordinal.
pub fn pod_name(set: &str, ordinal: i64) -> String {
    format!("{set}-{ordinal}")
}

/// The name of the claim from that template for the pod with that ordinal.
pub fn claim_name(template: &str, set: &str, ordinal: i64) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The ordinal of a claim, if the claim's name is one of that template and set.
pub(super) fn claim_ordinal(template: &str, set: &str, claim: &str) -> Option<i64> {
    ordinal(set, claim.strip_prefix(template)?.strip_prefix('-')?)
}

/// The labels of a pod that are added to those of the template.
pub fn pod_labels(set: &str, ordinal: i64, revision: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::POD_NAME.to_owned(), pod_name(set, ordinal)),
        (labels::POD_INDEX.to_owned(), ordinal.to_string()),
        (
            labels::CONTROLLER_REVISION_HASH.to_owned(),
            revision.to_owned(),
        ),
    ])
}

/// The owner reference for pods, revisions and, if the retention policy demands it, claims.
pub fn owner_reference(set: &StatefulSet) -> Result<OwnerReference, IncompleteMetadata> {
    let meta = &set.metadata;
    Ok(reference_to(meta.object_name()?, &meta.object_uid()?))
}

/// The owner reference to the set with that name and UID.
pub(super) fn reference_to(set: &str, uid: &Uid) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        name: set.to_owned(),
        uid: uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The pod of that ordinal, created from a template.
pub fn pod(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    ordinal: i64,
    revision: &str,
) -> Result<Pod, IncompleteMetadata> {
    let owner = owner_reference(set)?;
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|spec| spec.volume_claim_templates.as_deref());
    let templates: Vec<&str> = template_names(templates.unwrap_or_default()).collect();
    Ok(pod_of(set, owner, template, &templates, ordinal, revision))
}

/// The pod of that ordinal, created from a template, with the owner reference to its set and the volumes of these claim
/// templates.
pub(super) fn pod_of(
    set: &StatefulSet,
    owner: OwnerReference,
    template: &PodTemplateSpec,
    claim_templates: &[&str],
    ordinal: i64,
    revision: &str,
) -> Pod {
    let set_name = owner.name.as_str();
    let name = pod_name(set_name, ordinal);
    let from = template.metadata.clone().unwrap_or_default();
    let mut all_labels = from.labels.unwrap_or_default();
    all_labels.extend(pod_labels(set_name, ordinal, revision));
    let spec = template.spec.clone().unwrap_or_default();
    let annotations = annotations(set, &spec, from.annotations);
    let volumes = volumes(set_name, claim_templates, spec.volumes, ordinal);
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    Pod {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            generate_name: Some(format!("{set_name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: Some(all_labels),
            annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            hostname: Some(name),
            subdomain: service.filter(|service| !service.is_empty()),
            volumes: (!volumes.is_empty()).then_some(volumes),
            ..spec
        }),
        status: None,
    }
}

/// The annotations of the template, and the annotation of a pod that ends with the lease of its node. A pod in the
/// node's process namespace does not end with the lease, so it does not get the annotation.
fn annotations(
    set: &StatefulSet,
    spec: &PodSpec,
    template: Option<BTreeMap<String, String>>,
) -> Option<BTreeMap<String, String>> {
    let fails_over = Options::of(set).node_failure == NodeFailure::Failover;
    if !fails_over || spec.host_pid == Some(true) {
        return template;
    }
    let mut all = template.unwrap_or_default();
    all.insert(ENDS_WITH_LEASE.to_owned(), "true".to_owned());
    Some(all)
}

/// The volumes of the claims in the order of their templates, then the volumes of the pod template, except volumes with
/// the name of a claim template.
fn volumes(
    set: &str,
    claim_templates: &[&str],
    template_volumes: Option<Vec<Volume>>,
    ordinal: i64,
) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = claim_templates
        .iter()
        .map(|template| Volume {
            name: (*template).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    for volume in template_volumes.unwrap_or_default() {
        if !volumes.iter().any(|other| other.name == volume.name) {
            volumes.push(volume);
        }
    }
    volumes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// statefulset.md 2.3: a claim replaces a volume of its name.
    #[test]
    fn a_claim_replaces_a_volume_of_its_name() {
        let named = |name: &str| Volume {
            name: name.to_owned(),
            ..Volume::default()
        };
        let template_volumes = vec![named("conf"), named("data")];
        let volumes = volumes("web", &["data"], Some(template_volumes), 2);
        let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["data", "conf"]);
        let source = volumes[0].persistent_volume_claim.as_ref().unwrap();
        assert_eq!(source.claim_name, "data-web-2");
    }
}
