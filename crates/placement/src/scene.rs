//! One pod held against one node, with certain pods in the cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::devices::Devices;
use crate::resources::{Resources, Room, requests};
use crate::score::{Score, score};
use crate::spread::Preference;
use crate::view::{ClaimStep, ClusterView};
use crate::volumes::Claims;
use crate::{affinity, node, ports, spread};

/// The cluster as a rule sees it: not always with all the pods that are there.
pub(crate) struct Scene<'v> {
    pub view: &'v ClusterView,
    /// Pods with a node, or assumed to have it.
    pub pods: Vec<&'v Arc<PodView>>,
}

impl<'v> Scene<'v> {
    /// The scene of the present cluster.
    pub fn of(view: &'v ClusterView) -> Self {
        let pods = view.pods.iter().collect();
        Self { view, pods }
    }

    /// The pods on a node, without the pod that asks.
    pub fn on<'s>(
        &'s self,
        node: &'s str,
        asking: &'s PodView,
    ) -> impl Iterator<Item = &'v PodView> + 's {
        let there = self
            .pods
            .iter()
            .filter(move |pod| pod.uid != asking.uid && pod.node.as_deref() == Some(node));
        there.map(|pod| &***pod)
    }
}

/// The first failed rule's objection to a node, as user messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Objection {
    pub texts: Vec<String>,
    /// Whether fewer pods on the node would help.
    pub is_of_pods: bool,
}

impl Objection {
    /// An objection that does not depend on pods.
    pub fn lasting(text: &str) -> Self {
        Self {
            texts: vec![text.to_owned()],
            is_of_pods: false,
        }
    }

    /// An objection that depends on the node's pods.
    pub fn of_pods(text: &str) -> Self {
        Self {
            is_of_pods: true,
            ..Self::lasting(text)
        }
    }

    /// Several of a rule; `None` where there is none.
    pub fn all_lasting(texts: impl IntoIterator<Item = String>) -> Option<Self> {
        let texts: Vec<String> = texts.into_iter().collect();
        (!texts.is_empty()).then_some(Self {
            texts,
            is_of_pods: false,
        })
    }

    /// The same, about the pods that are there.
    pub fn all_of_pods(texts: impl IntoIterator<Item = String>) -> Option<Self> {
        Self::all_lasting(texts).map(|all| Self {
            is_of_pods: true,
            ..all
        })
    }
}

/// A pod with everything needed to check it against nodes.
pub(crate) struct Case<'v> {
    pub pod: &'v PodView,
    wanted: Resources,
    claims: Claims<'v>,
    devices: Devices<'v>,
    /// Pods nominated to nodes with a priority that is not lower than this pod's.
    before: Vec<&'v Arc<PodView>>,
}

impl<'v> Case<'v> {
    /// *Errors.* A message that applies to all nodes.
    pub fn of(pod: &'v PodView, view: &'v ClusterView) -> Result<Self, String> {
        let before =
            |other: &&Arc<PodView>| other.uid != pod.uid && priority(other) >= priority(pod);
        Ok(Self {
            pod,
            wanted: requests(pod),
            claims: Claims::of(pod, view)?,
            devices: Devices::of(pod, view)?,
            before: view.nominated.iter().filter(before).collect(),
        })
    }

    /// Checks whether the pod can run on the node, with and without the pods nominated before it.
    pub fn check(&self, node: &Node, room: &Room, scene: &mut Scene<'v>) -> Result<(), Objection> {
        let name = node.metadata.name.as_deref();
        let present = scene.pods.len();
        let coming = self.before.iter().filter(|pod| pod.node.as_deref() == name);
        scene.pods.extend(coming);
        if scene.pods.len() > present {
            let mut less = room.clone();
            for pod in scene.pods.iter().skip(present) {
                less.add(&requests(pod));
            }
            let objection = self.objection(node, &less, scene);
            scene.pods.truncate(present);
            objection.map_or(Ok(()), Err)?;
        }
        self.objection(node, room, scene).map_or(Ok(()), Err)
    }

    /// The objection of the first failed rule (as the scheduler framework reports it).
    fn objection(&self, node: &Node, room: &Room, scene: &Scene<'v>) -> Option<Objection> {
        let (pod, name) = (self.pod, node.metadata.name.as_deref());
        node::objection(pod, node)
            .or_else(|| ports::objection(pod, scene.on(name.unwrap_or_default(), pod)))
            .or_else(|| room.shortage(&self.wanted))
            .or_else(|| self.claims.objection(pod, node, scene))
            .or_else(|| {
                let text = self.devices.objection(node)?;
                Some(Objection::lasting(&text))
            })
            .or_else(|| spread::objection(pod, node, scene))
            .or_else(|| affinity::objection(pod, node, scene))
    }

    /// The score of a feasible node.
    pub fn score(
        &self,
        node: &Node,
        room: &Room,
        scene: &Scene<'v>,
        spread: &Preference<'_>,
    ) -> Score {
        score(self.pod, node, room, &self.wanted, scene, spread)
    }

    /// The writes for the pod's claims before it is bound to the node; `None` if the binding need
    /// not wait.
    pub fn steps(&self, node: &Node, view: &ClusterView) -> Option<Vec<ClaimStep>> {
        let bound = self.claims.are_bound();
        if bound && self.devices.are_reserved() {
            return None;
        }
        let volumes = (!bound).then(|| self.claims.steps(node, view)).flatten();
        let mut steps = volumes.unwrap_or_default();
        steps.extend(self.devices.steps(node));
        Some(steps)
    }
}

/// The priority of a pod.
pub(crate) fn priority(pod: &PodView) -> i32 {
    pod.spec.priority.unwrap_or_default()
}
