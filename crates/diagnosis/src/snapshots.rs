//! Snapshots that are not ready, and the reason.

use controller_planners::volume_snapshot::{ObservedSnapshot, plan_snapshot};
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::snapshot::{DEFAULT_CLASS, VolumeSnapshot, VolumeSnapshotContent};

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{CauseChain, Explanation, Object};
use super::observed::ObservedNamespace;

pub(super) fn explain(
    observed: &ObservedNamespace,
    snapshot: &VolumeSnapshot,
    object: Object,
) -> Explanation {
    if let Some(chain) = blocked_deletion(observed, &object, &snapshot.metadata) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let status = snapshot.status.clone().unwrap_or_default();
    let content = content(observed, snapshot);
    let ready = status.ready_to_use == Some(true);
    let bound = status.bound_volume_snapshot_content_name.as_deref();
    if let (Some(bound), Some(_), None) = (bound, &observed.cluster.snapshot_contents, content) {
        let mut builder = ChainBuilder::of(observed);
        let message = format!("its content {bound} was deleted with the stored data");
        builder.link(object.clone(), "SnapshotContentMissing", message, None);
        let delete = delete(observed, &object);
        let text = "take another snapshot; this one cannot come back";
        builder.remedy(Remedy::new(text).with(delete));
        return Explanation::fine(object, "lost").waits([builder.chain()]);
    }
    if ready {
        let taken_at = status.creation_time.map(|time| time.0.to_string());
        let taken_at = taken_at.map_or(String::new(), |at| format!(", taken at {at}"));
        return Explanation::fine(object, format!("ready to use{taken_at}"));
    }
    let chain = unready(observed, snapshot, content, &object);
    Explanation::fine(object, "not ready to use").waits([chain])
}

fn content<'e>(
    observed: &'e ObservedNamespace,
    snapshot: &VolumeSnapshot,
) -> Option<&'e VolumeSnapshotContent> {
    let name = ObservedSnapshot::content_name(snapshot).ok()?;
    let mut contents = observed.cluster.snapshot_contents.iter().flatten();
    let content = contents.find(|content| text::name(&content.metadata) == name);
    content.map(AsRef::as_ref)
}

fn delete(observed: &ObservedNamespace, object: &Object) -> String {
    text::kubectl(
        &observed.namespace,
        &format!("delete volumesnapshot {}", object.name),
    )
}

fn unready(
    observed: &ObservedNamespace,
    snapshot: &VolumeSnapshot,
    content: Option<&VolumeSnapshotContent>,
    object: &Object,
) -> CauseChain {
    let source = snapshot.spec.source.persistent_volume_claim_name.as_deref();
    let claim = source.and_then(|name| observed.claim(name));
    let volume = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
    let volume = volume.and_then(|name| observed.volume(name));
    let view = ObservedSnapshot {
        snapshot,
        content,
        claim: claim.map(AsRef::as_ref),
        volume: volume.map(AsRef::as_ref),
        classes: observed
            .cluster
            .snapshot_classes
            .as_deref()
            .unwrap_or_default(),
        restoring: None,
    };
    let error = snapshot
        .status
        .as_ref()
        .and_then(|status| status.error.clone());
    let since = error.as_ref().and_then(|error| error.time.clone());
    let since = since.or_else(|| snapshot.metadata.creation_timestamp.clone());
    let reported = error.and_then(|error| error.message);
    // If the current objects can be read, they are a better source than the last error.
    let is_complete =
        observed.cluster.snapshot_classes.is_some() && observed.cluster.volumes.is_some();
    let planned = plan_snapshot(&view, observed.now).ok();
    let planned = planned.and_then(|plan| plan.waiting_on);
    let planned = planned.filter(|_| is_complete && content.is_none());
    let detail = planned.or(reported);
    let detail = detail.unwrap_or_else(|| "it is about to be taken".to_owned());
    let mut builder = ChainBuilder::of(observed);
    let message = format!("not ready to use: {}", text::line(&detail));
    builder.link(
        object.clone(),
        "NotReady",
        message,
        since.map(|time| time.0),
    );
    builder.remedy("nothing to do; the volume's node is about to take it");
    let is_missing = claim.is_none() && source.is_some();
    if let Some(name) = source.filter(|_| is_missing) {
        let of_claim = observed.object("PersistentVolumeClaim", name);
        builder.link(of_claim, "NotFound", "does not exist", None);
        let text = format!("a snapshot of an existing claim ({name} does not exist)");
        builder.remedy(Remedy::new(text).with(delete(observed, object)));
    } else if detail.contains("is not yet bound") {
        builder.claim(source.unwrap_or_default());
    } else if let Some(remedy) = class_remedy(observed, snapshot, object, &detail) {
        builder.remedy(remedy);
    } else if detail.contains("cannot make snapshots") || detail.contains("was not made by") {
        builder.remedy(
            Remedy::new(
                "this snapshot can never be ready: snapshots need a class that \
                 supports them (local-cow, docs/storage.md); copy the data into a claim of such a class",
            )
            .with(delete(observed, object)),
        );
    } else if detail.contains("failed") || detail.contains("rror") || detail.contains("missing") {
        let text = "correct the error, or delete the snapshot";
        builder.remedy(Remedy::new(text).with(delete(observed, object)));
    }
    builder.chain()
}

/// The remedy for a missing class, or a class that does not exist.
fn class_remedy(
    observed: &ObservedNamespace,
    snapshot: &VolumeSnapshot,
    object: &Object,
    message: &str,
) -> Option<Remedy> {
    let classes = observed.cluster.snapshot_classes.iter().flatten();
    let names: Vec<&str> = classes.map(|class| text::name(&class.metadata)).collect();
    let first = names.first().copied().unwrap_or("CLASS");
    if message.contains("default snapshot class") {
        let command = format!("kubectl annotate volumesnapshotclass {first} {DEFAULT_CLASS}=true");
        return Some(Remedy::new("one class of its driver has to be the default").with(command));
    }
    let missing =
        message.contains("snapshot class with error") || message.contains("the class is of");
    let name = snapshot.spec.volume_snapshot_class_name.as_deref();
    name.filter(|_| missing).map(|name| {
        let names_text = text::list(names.iter().copied());
        let text = format!(
            "an existing class ({names_text}), because {name} does not exist; recreate the snapshot with it"
        );
        let patch = format!(
            "patch volumesnapshot {} --type merge --dry-run=client -o yaml -p \
             '{{\"spec\":{{\"volumeSnapshotClassName\":\"{first}\"}}}}'",
            object.name
        );
        Remedy::new(text).with(format!(
            "{} | kubectl replace --force -f -",
            text::kubectl(&observed.namespace, &patch)
        ))
    })
}
