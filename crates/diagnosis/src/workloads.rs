//! Owners of interchangeable pods: from the number of missing pods to the causes of the pods, or to the refusal of
//! their creation.

use controller_planners::ownership;
use controller_planners::replica_set::converted;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_lifecycle::diagnosis::{Remedy, pod as diagnose, text};
use resource_kinds::MetadataIdentity;
use resource_kinds::labels::{CONTROLLER_REVISION_HASH, POD_TEMPLATE_HASH};
use resource_kinds::pod_view::PodView;

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{CauseChain, Explanation, Object, merged};
use super::kinds::TargetKind;
use super::observed::ObservedNamespace;

/// The state of an owner of pods.
pub(super) struct PodOwner<'e> {
    pub observed: &'e ObservedNamespace,
    /// The owner of the pods.
    pub object: Object,
    pub meta: &'e ObjectMeta,
    /// The object with the template: `deploy/web`.
    pub template: String,
    /// The desired number of pods.
    pub desired: i32,
}

impl PodOwner<'_> {
    fn uid(&self) -> Option<&str> {
        self.meta.uid.as_deref()
    }

    /// The causes of the owner's pods, without pods that are being deleted or have ended.
    pub fn pods(&self) -> Vec<CauseChain> {
        let pods = self.observed.controlled(self.meta.uid.as_deref());
        let pods = pods.into_iter().filter(|pod| is_desired(pod));
        of_pods(self.observed, pods)
    }

    /// The cause why pods are missing.
    pub fn missing(&self) -> Option<CauseChain> {
        let pods = self.observed.controlled(self.meta.uid.as_deref());
        let there = pods.into_iter().filter(|pod| is_desired(pod)).count();
        let missing = self.desired - i32::try_from(there).unwrap_or(i32::MAX);
        if missing <= 0 {
            return None;
        }
        let mut builder = ChainBuilder::of(self.observed);
        let noun = if missing == 1 { "pod is" } else { "pods are" };
        let message = format!("{missing} {noun} to be made");
        builder.link(self.object.clone(), "Acting", message, None);
        builder.remedy(format!(
            "nothing to do; the {} controller is about to do it; if it stays so, see that the \
             controller runs",
            self.object.kind
        ));
        builder.refusal(&self.object, self.uid(), "", &self.template, missing);
        Some(builder.chain())
    }
}

/// Whether the pod counts for its owner: it is neither being deleted nor ended.
fn is_desired(pod: &PodView) -> bool {
    !pod.is_deleting() && !pod.has_ended()
}

/// The causes of each of these pods.
pub(super) fn of_pods<'e>(
    observed: &'e ObservedNamespace,
    pods: impl Iterator<Item = &'e PodView>,
) -> Vec<CauseChain> {
    let unwell = pods.filter(|pod| diagnose(pod).is_some());
    let chains = unwell.map(|pod| {
        let mut builder = ChainBuilder::of(observed);
        builder.pod(pod);
        builder.chain()
    });
    merged(chains.collect())
}

/// `2 of 3 pods are available`
fn counted(available: i32, desired: i32) -> String {
    match (available, desired) {
        (0, 0) => "no pods are wanted (replicas: 0)".to_owned(),
        (available, desired) => format!("{available} of {desired} pods are available"),
    }
}

fn template_owner(kind: TargetKind, meta: &ObjectMeta) -> String {
    format!("{}/{}", kind.short(), text::name(meta))
}

pub(super) fn controller(meta: &ObjectMeta) -> Option<(&str, &str)> {
    let owner = ownership::controller(meta.owner_references.as_deref())?;
    Some((&owner.kind, &owner.name))
}

/// Whether the owner controls the object; false for an owner without a UID.
fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let owners = meta.owner_references.as_deref();
    let uid = owner.object_uid();
    uid.is_ok_and(|uid| ownership::is_controlled_by(owners, &uid))
}

/// The chain if the pods are Ready, but not for `minReadySeconds` yet.
fn only_young(
    observed: &ObservedNamespace,
    object: &Object,
    min_ready: Option<i32>,
) -> Option<CauseChain> {
    let seconds = min_ready.filter(|seconds| *seconds > 0)?;
    let mut builder = ChainBuilder::of(observed);
    let message = format!(
        "its pods are Ready, but count as available only {seconds} seconds later (minReadySeconds)"
    );
    builder.link(object.clone(), "NotAvailable", message, None);
    builder.remedy("nothing to do as long as the pods stay Ready");
    Some(builder.chain())
}

/// The chain if the controller has not acted yet.
fn not_done(observed: &ObservedNamespace, object: &Object, what: &str) -> CauseChain {
    let mut builder = ChainBuilder::of(observed);
    builder.link(object.clone(), "Acting", what, None);
    builder.remedy(format!(
        "nothing to do; the {} controller is about to do it; if it stays so, see that the \
         controller runs",
        object.kind
    ));
    builder.chain()
}

pub(super) fn deployment(
    observed: &ObservedNamespace,
    deployment: &Deployment,
    object: Object,
) -> Explanation {
    let meta = &deployment.metadata;
    if let Some(chain) = blocked_deletion(observed, &object, meta) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let desired = spec.replicas.unwrap_or(1);
    let number = |count: Option<i32>| count.unwrap_or_default();
    let available = number(status.available_replicas);
    let mut explanation = Explanation::fine(object.clone(), counted(available, desired));
    let template = template_owner(TargetKind::Deployment, meta);
    let sets = observed.replica_sets.iter();
    let sets = sets.filter(|set| is_controlled_by(&set.metadata, meta));
    let sets: Vec<&ReplicaSet> = sets.map(AsRef::as_ref).collect();
    let mut chains = Vec::new();
    for set in &sets {
        let work = of_set(observed, set, "ReplicaSet", template.clone());
        chains.extend(work.missing());
        chains.extend(work.pods());
    }
    let chains = merged(chains);
    let current = sets.iter().find(|set| has_template(set, &spec.template));
    let paused = spec.paused == Some(true);
    let resume = text::kubectl(text::namespace(meta), &format!("rollout resume {template}"));
    let updated = number(status.updated_replicas);
    let complete = available >= desired && updated >= desired && number(status.replicas) == desired;
    let deadline = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing"
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    let unseen = status.observed_generation < meta.generation;
    explanation = explanation.waits(chains);
    if explanation.chains.is_empty() && paused && current.is_none() {
        let mut builder = ChainBuilder::of(observed);
        let message = "its rollout is paused: the changed template is not rolled out";
        builder.link(object.clone(), "Paused", message, None);
        builder.remedy(Remedy::new("resume it").with(resume.clone()));
        explanation = explanation.waits([builder.chain()]);
    } else if explanation.chains.is_empty() && !paused && !complete {
        let chain = only_young(observed, &object, spec.min_ready_seconds)
            .unwrap_or_else(|| not_done(observed, &object, "its pods are to be replaced or made"));
        explanation = explanation.waits([chain]);
    } else if explanation.chains.is_empty() && unseen {
        explanation =
            explanation.waits([not_done(observed, &object, "its last change is to be seen")]);
    } else if paused {
        explanation = explanation.note(format!("its rollout is paused; to continue: {resume}"));
    }
    if deadline {
        explanation = explanation.note("the progress deadline is exceeded");
    }
    if !complete && updated < desired && current.is_some() && sets.len() > 1 {
        let old_pods = number(status.replicas) - updated;
        if old_pods > 0 && !paused {
            explanation = explanation.note(format!(
                "{old_pods} pods of the former template stay until new ones are available \
                 (maxUnavailable); to go back: {}",
                text::kubectl(text::namespace(meta), &format!("rollout undo {template}"))
            ));
        }
    }
    explanation
}

fn has_template(set: &ReplicaSet, expected: &PodTemplateSpec) -> bool {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone());
    let Some(mut template) = template else {
        return false;
    };
    let labels = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut());
    if let Some(labels) = labels {
        labels.remove(POD_TEMPLATE_HASH);
    }
    template == *expected
}

fn of_set<'e>(
    observed: &'e ObservedNamespace,
    set: &'e ReplicaSet,
    kind: &'static str,
    template: String,
) -> PodOwner<'e> {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    PodOwner {
        observed,
        object: observed.object(kind, text::name(&set.metadata)),
        meta: &set.metadata,
        template,
        desired: replicas.unwrap_or(1),
    }
}

pub(super) fn replica_set(
    observed: &ObservedNamespace,
    set: &ReplicaSet,
    object: Object,
) -> Explanation {
    numbered(observed, set, "ReplicaSet", TargetKind::ReplicaSet, object)
}

pub(super) fn replication_controller(
    observed: &ObservedNamespace,
    controller: &ReplicationController,
    object: Object,
) -> Explanation {
    let kind = TargetKind::ReplicationController;
    let set = converted(controller);
    numbered(observed, &set, "ReplicationController", kind, object)
}

fn numbered(
    observed: &ObservedNamespace,
    set: &ReplicaSet,
    name: &'static str,
    kind: TargetKind,
    object: Object,
) -> Explanation {
    let meta = &set.metadata;
    if let Some(chain) = blocked_deletion(observed, &object, meta) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    // The template of a ReplicaSet is changed in its Deployment.
    let template = match controller(meta) {
        Some(("Deployment", owner)) => format!("deploy/{owner}"),
        _ => template_owner(kind, meta),
    };
    let work = of_set(observed, set, name, template);
    let available = set.status.as_ref().and_then(|s| s.available_replicas);
    let available = available.unwrap_or_default();
    let mut chains: Vec<CauseChain> = work.missing().into_iter().collect();
    chains.extend(work.pods());
    if chains.is_empty() && available < work.desired {
        let young = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        chains.extend(only_young(observed, &object, young));
    }
    Explanation::fine(object, counted(available, work.desired)).waits(merged(chains))
}

pub(super) fn daemon_set(
    observed: &ObservedNamespace,
    set: &DaemonSet,
    object: Object,
) -> Explanation {
    let meta = &set.metadata;
    if let Some(chain) = blocked_deletion(observed, &object, meta) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let status = set.status.clone().unwrap_or_default();
    let spec = set.spec.clone().unwrap_or_default();
    let desired = status.desired_number_scheduled;
    let available = status.number_available.unwrap_or_default();
    let work = PodOwner {
        observed,
        object: object.clone(),
        meta,
        template: template_owner(TargetKind::DaemonSet, meta),
        desired,
    };
    let mut chains: Vec<CauseChain> = work.missing().into_iter().collect();
    chains.extend(work.pods());
    let is_observed = status.observed_generation >= meta.generation;
    if desired == 0 && is_observed {
        chains.extend(no_node(observed, &object, &spec.template));
    }
    let outdated = desired - status.updated_number_scheduled.unwrap_or_default();
    let strategy = spec.update_strategy.and_then(|strategy| strategy.type_);
    if chains.is_empty() && strategy.as_deref() == Some("OnDelete") && outdated > 0 && is_observed {
        chains.push(on_delete(observed, set, &object, outdated));
    }
    if chains.is_empty() && available < desired {
        chains.extend(only_young(observed, &object, spec.min_ready_seconds));
    }
    let summary =
        format!("{available} of {desired} pods are available, one for each node that fits");
    Explanation::fine(object, summary).waits(merged(chains))
}

/// The chain if no node is feasible for a pod of the set.
fn no_node(
    observed: &ObservedNamespace,
    object: &Object,
    template: &PodTemplateSpec,
) -> Option<CauseChain> {
    let nodes = observed.cluster.nodes.as_ref()?;
    let selector = template
        .spec
        .as_ref()
        .and_then(|spec| spec.node_selector.as_ref());
    let required: Vec<String> = selector
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mut builder = ChainBuilder::of(observed);
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let edit = text::kubectl(namespace, &format!("edit {}", object.short()));
    match nodes.first() {
        None => {
            builder.link(object.clone(), "NoNode", "there is no node", None);
            builder.remedy("a node: mainstay up makes that of its machine");
        }
        Some(node)
            if !required.is_empty() && !nodes.iter().any(|node| has_labels(node, &required)) =>
        {
            let message = format!("no node has the labels {}", required.join(", "));
            builder.link(object.clone(), "NoNode", message, None);
            let label = format!(
                "kubectl label node {} {}",
                text::name(&node.metadata),
                required.join(" ")
            );
            let text = "add these labels to a node, or change the nodeSelector of the template";
            builder.remedy(Remedy::new(text).with(label));
        }
        Some(_) => {
            let message = "no node fits: its affinity, or taints that it does not tolerate";
            builder.link(object.clone(), "NoNode", message, None);
            builder.remedy(Remedy::new("correct its affinity and tolerations").with(edit));
        }
    }
    Some(builder.chain())
}

fn has_labels(node: &Node, required: &[String]) -> bool {
    let labels = node.metadata.labels.iter().flatten();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    required.iter().all(|one| labels.contains(one))
}

fn on_delete(
    observed: &ObservedNamespace,
    set: &DaemonSet,
    object: &Object,
    outdated: i32,
) -> CauseChain {
    let pods = observed.controlled(set.metadata.uid.as_deref());
    let mut hashes: Vec<(i64, &str)> = observed
        .revisions
        .iter()
        .filter(|revision| is_controlled_by(&revision.metadata, &set.metadata))
        .filter_map(|revision| {
            let labels = revision.metadata.labels.as_ref()?;
            let hash = labels.get(CONTROLLER_REVISION_HASH)?;
            Some((revision.revision, hash.as_str()))
        })
        .collect();
    hashes.sort_unstable();
    let newest = hashes.last().map(|(_, hash)| *hash);
    let old = pods.iter().filter(|pod| {
        let hash = pod.label(CONTROLLER_REVISION_HASH);
        hash.is_some() && hash != newest
    });
    let names: Vec<&str> = old.map(|pod| &*pod.name).collect();
    let mut builder = ChainBuilder::of(observed);
    let noun = if outdated == 1 { "pod is" } else { "pods are" };
    let message =
        format!("{outdated} {noun} of a former template and replaced only when deleted (OnDelete)");
    builder.link(object.clone(), "OnDelete", message, None);
    let delete = text::kubectl(
        &observed.namespace,
        &format!("delete pod {}", names.join(" ")),
    );
    builder.remedy(Remedy::new("delete them when it suits").with(delete));
    builder.chain()
}

/// The causes of a missing pod whose name has the form that an owner generates.
pub(super) fn of_missing_pod(
    observed: &ObservedNamespace,
    pod: &str,
    object: Object,
) -> Option<Explanation> {
    let is_of = |name: &&str| {
        let rest = pod.strip_prefix(*name);
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let kinds = [
        TargetKind::ReplicaSet,
        TargetKind::Deployment,
        TargetKind::DaemonSet,
        TargetKind::Job,
        TargetKind::ReplicationController,
    ];
    let owners = kinds.into_iter().flat_map(|kind| {
        let names = observed.names(kind).into_iter().filter(is_of);
        names.map(move |name| (name.len(), kind, name))
    });
    let (_, kind, name) = owners.max_by_key(|(length, ..)| *length)?;
    let owner = super::explain(kind, name, observed)?;
    let summary = format!(
        "does not exist; {} {name} makes pods of such names: {}",
        kind.kind(),
        owner.summary
    );
    Some(Explanation::fine(object, summary).waits(owner.chains))
}
