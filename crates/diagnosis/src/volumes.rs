//! Volumes and their classes.

use k8s_openapi::api::core::v1::{Event, PersistentVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use pod_lifecycle::diagnosis::{Remedy, text};

use super::chain_builder::ChainBuilder;
use super::explanation::{CauseChain, Explanation, Object};
use super::observed::ObservedNamespace;

pub(super) fn explain(
    observed: &ObservedNamespace,
    volume: &PersistentVolume,
    object: Object,
) -> Explanation {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = volume.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let claim = spec.claim_ref.as_ref().map(|claim| {
        let namespace = claim.namespace.clone().unwrap_or_default();
        (namespace, claim.name.clone().unwrap_or_default())
    });
    let explanation = Explanation::fine(object.clone(), phase);
    let since = status
        .last_phase_transition_time
        .as_ref()
        .map(|time| time.0);
    let detail = status.message.as_deref().unwrap_or_default();
    let mut builder = ChainBuilder::of(observed);
    let name = &object.name;
    if let Some(deleted) = &volume.metadata.deletion_timestamp {
        return deleting(observed, volume, explanation, deleted.0, claim);
    }
    match (phase, spec.persistent_volume_reclaim_policy.as_deref()) {
        ("Failed", _) => {
            let message = format!("could not be taken back{}", text::then(": ", detail));
            builder.link(object.clone(), "Failed", message, since);
            let delete = format!("kubectl delete pv {name}");
            let text = "delete its data yourself, then the volume";
            builder.remedy(Remedy::new(text).with(delete));
            explanation.waits([builder.chain()])
        }
        ("Released", Some("Delete")) => {
            let message = "its claim was deleted: its provisioner must delete it";
            builder.link(object.clone(), "Released", message, since);
            builder.remedy("nothing to do; the provisioner of its class deletes it");
            let uid = volume.metadata.uid.as_deref();
            let warns = |event: &Event| event.type_.as_deref() == Some("Warning");
            if let Some(event) = observed.newest_event(&object.kind, name, uid, warns) {
                builder.event(event, object.clone());
                let text = "correct the provisioner's error; or delete the object yourself";
                builder.remedy(Remedy::new(text).with(format!("kubectl delete pv {name}")));
            }
            explanation.waits([builder.chain()])
        }
        ("Released", _) => {
            let (namespace, claim) = claim.unwrap_or_default();
            let message = format!(
                "its claim {namespace}/{claim} is gone, and its data is kept (policy Retain): no \
                 other claim gets it"
            );
            builder.link(object.clone(), "Released", message, since);
            let patch = format!(
                "kubectl patch pv {name} --type json -p \
                 '[{{\"op\":\"remove\",\"path\":\"/spec/claimRef\"}}]'"
            );
            let text = format!(
                "check whether its data is needed; to make it available to a new claim (kubectl delete pv \
                 {name} discards it)"
            );
            builder.remedy(Remedy::new(text).with(patch));
            explanation.waits([builder.chain()])
        }
        ("Bound", _) => {
            let (namespace, claim) = claim.unwrap_or_default();
            Explanation::fine(object, format!("Bound to claim {namespace}/{claim}"))
        }
        _ => explanation,
    }
}

fn deleting(
    observed: &ObservedNamespace,
    volume: &PersistentVolume,
    explanation: Explanation,
    since: jiff::Timestamp,
    claim: Option<(String, String)>,
) -> Explanation {
    let object = explanation.object.clone();
    let chain: Option<CauseChain> = claim.map(|(namespace, claim)| {
        let mut builder = ChainBuilder::of(observed);
        let message = format!(
            "being deleted, but kept while claim {namespace}/{claim} is bound to it \
             (pv-protection)"
        );
        builder.link(object.clone(), "ProtectedByClaim", message, Some(since));
        let delete = text::kubectl(&namespace, &format!("delete pvc {claim}"));
        builder.remedy(Remedy::new("the claim must be deleted first").with(delete));
        if namespace == observed.namespace
            && observed
                .claim(&claim)
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
        {
            builder.claim(&claim);
        }
        builder.chain()
    });
    let finalizers = text::finalizers(volume.metadata.finalizers.iter().flatten());
    let blocked = super::deletion::blocked_deletion(observed, &object, &volume.metadata);
    match chain {
        Some(chain) if finalizers.is_empty() => explanation.waits([chain]),
        _ => explanation.waits(blocked),
    }
}

pub(super) fn class(
    observed: &ObservedNamespace,
    class: &StorageClass,
    object: Object,
) -> Explanation {
    let used = observed.claims.iter().filter(|claim| {
        let spec = claim.spec.as_ref();
        let name = spec.and_then(|spec| spec.storage_class_name.as_deref());
        name == Some(object.name.as_str())
    });
    let summary = format!(
        "its volumes are made by {}; {} claims of namespace {} are of it",
        class.provisioner,
        used.count(),
        observed.namespace
    );
    Explanation::fine(object, summary)
}
