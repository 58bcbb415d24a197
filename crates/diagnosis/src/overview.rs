//! The overview of waiting objects: one explanation for each root cause; the objects that a root cause explains are not
//! listed again.

use std::collections::BTreeSet;
use std::sync::Arc;

use controller_planners::ownership::controller;
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::explain::explain;
use super::explanation::{Explanation, Object, WaitState};
use super::kinds::TargetKind;
use super::observed::{ObservedCluster, ObservedNamespace, named};
use super::{metadata, nodes};

/// Explanations of all objects that wait for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// One explanation for each root cause: cluster-wide objects first, then by namespace; owners before their
    /// dependents.
    pub explanations: Vec<Explanation>,
    /// Notes about the overview as a whole, for instance kinds that could not be read.
    pub notes: Vec<String>,
}

impl Overview {
    /// The overview of cluster-wide objects.
    pub fn of_cluster(
        cluster: &Arc<ObservedCluster>,
        namespaces: &[ObservedNamespace],
        now: Timestamp,
    ) -> Self {
        let mut observed = ObservedNamespace::of("", now);
        observed.cluster = Arc::clone(cluster);
        let kinds = TargetKind::ALL.into_iter();
        let kinds = kinds.filter(|kind| !kind.is_namespaced());
        let explanations = kinds.flat_map(|kind| {
            let mut names = observed.names(kind);
            names.sort_unstable();
            let explanations = names
                .into_iter()
                .filter_map(|name| explain(kind, name, &observed));
            explanations.collect::<Vec<_>>()
        });
        let mut explanations: Vec<Explanation> = explanations.filter(is_waiting).collect();
        explanations.extend(missing_nodes(cluster, namespaces));
        Self {
            explanations,
            notes: Vec::new(),
        }
    }

    /// The waiting objects of a namespace.
    pub fn of_namespace(observed: &ObservedNamespace) -> Self {
        let mut reported = ReportedCauses::default();
        let kinds = TargetKind::ALL.into_iter();
        for kind in kinds.filter(|kind| kind.is_namespaced()) {
            let mut names = observed.names(kind);
            names.sort_unstable();
            for name in names {
                reported.look_at(observed, kind, name);
            }
        }
        reported.explanations.extend(metadata::malformed(observed));
        Self {
            explanations: reported.explanations,
            notes: Vec::new(),
        }
    }

    /// Appends the explanations and notes of another overview.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.explanations.extend(other.explanations);
        self.notes.extend(other.notes);
        self
    }

    /// Whether any object waits for something.
    pub fn state(&self) -> WaitState {
        if self.explanations.is_empty() {
            WaitState::Fine
        } else {
            WaitState::Waiting
        }
    }

    /// The overview as text for users.
    pub fn text(&self, now: Timestamp) -> String {
        let mut blocks: Vec<String> = self
            .explanations
            .iter()
            .map(|explanation| explanation.block(now))
            .collect();
        if blocks.is_empty() {
            blocks.push("nothing is waiting\n".to_owned());
        }
        if !self.notes.is_empty() {
            let notes = self.notes.iter().map(|note| format!("Note: {note}\n"));
            blocks.push(notes.collect());
        }
        blocks.join("\n")
    }

    /// The overview as the JSON output of `mainstay why`.
    pub fn json(&self) -> Value {
        let explanations: Vec<Value> = self.explanations.iter().map(Explanation::json).collect();
        json!({ "state": self.state().as_str(), "answers": explanations, "notes": self.notes })
    }
}

fn is_waiting(explanation: &Explanation) -> bool {
    explanation.state() == WaitState::Waiting
}

/// Explanations for nodes that pods name and that do not exist.
fn missing_nodes(cluster: &ObservedCluster, namespaces: &[ObservedNamespace]) -> Vec<Explanation> {
    let Some(nodes) = &cluster.nodes else {
        return Vec::new();
    };
    let mut visited = BTreeSet::new();
    let mut explanations = Vec::new();
    for observed in namespaces {
        for name in observed.pods.iter().filter_map(|pod| pod.node.as_deref()) {
            if named(nodes, name).is_none() && visited.insert(name) {
                let object = Object::new("Node", None, name);
                explanations.extend(nodes::missing(observed, object));
            }
        }
    }
    explanations
}

/// The reported root causes, and the objects that they explain.
#[derive(Default)]
struct ReportedCauses {
    explanations: Vec<Explanation>,
    /// UIDs of the reported waiting objects, and of objects that they own.
    owners: BTreeSet<String>,
    objects: BTreeSet<Object>,
}

impl ReportedCauses {
    fn look_at(&mut self, observed: &ObservedNamespace, kind: TargetKind, name: &str) {
        let (uid, owner) = identity(observed, kind, name);
        let pod = observed.pod(name).filter(|_| kind == TargetKind::Pod);
        // The pod's owner has replaced the ended pod.
        if pod.is_some_and(|pod| pod.has_ended() && pod.controller.is_some()) {
            return;
        }
        let Some(explanation) = explain(kind, name, observed).filter(is_waiting) else {
            return;
        };
        let explained = owner.is_some_and(|owner| self.owners.contains(&owner))
            || self.objects.contains(&explanation.object)
            || (kind >= TargetKind::Claim && self.explains(&explanation));
        self.owners.extend(uid);
        self.objects.insert(explanation.object.clone());
        if explained {
            return;
        }
        for chain in &explanation.chains {
            let linked = chain.links.iter().map(|link| link.object.clone());
            let likewise = chain.likewise.iter().map(|pod| observed.object("Pod", pod));
            self.objects.extend(linked.chain(likewise));
        }
        self.explanations.push(explanation);
    }

    /// Whether each of the chains leads to a reported root cause.
    fn explains(&self, explanation: &Explanation) -> bool {
        explanation.chains.iter().all(|chain| {
            let mut others = chain.links.iter().map(|link| &link.object);
            others.any(|object| *object != explanation.object && self.objects.contains(object))
        })
    }
}

/// The UID of an object, and that of its owner.
fn identity(
    observed: &ObservedNamespace,
    kind: TargetKind,
    name: &str,
) -> (Option<String>, Option<String>) {
    let of = |meta: Option<&ObjectMeta>| {
        let meta = meta?;
        let owner = controller(meta.owner_references.as_deref());
        Some((meta.uid.clone(), owner.map(|owner| owner.uid.clone())))
    };
    let e = observed;
    let identified = match kind {
        TargetKind::Pod => e.pod(name).map(|pod| {
            let owner = pod.controller.as_ref().map(|owner| owner.uid.to_string());
            (Some(pod.uid.to_string()), owner)
        }),
        TargetKind::CronJob => of(named(&e.cron_jobs, name).map(|one| &one.metadata)),
        TargetKind::Deployment => of(named(&e.deployments, name).map(|one| &one.metadata)),
        TargetKind::StatefulSet => of(named(&e.sets, name).map(|one| &one.metadata)),
        TargetKind::DaemonSet => of(named(&e.daemon_sets, name).map(|one| &one.metadata)),
        TargetKind::Job => of(named(&e.jobs, name).map(|one| &one.metadata)),
        TargetKind::ReplicaSet => of(named(&e.replica_sets, name).map(|one| &one.metadata)),
        TargetKind::ReplicationController => {
            of(named(&e.replication_controllers, name).map(|one| &one.metadata))
        }
        _ => None,
    };
    identified.unwrap_or_default()
}
