//! One pod held against one node, with certain pods in the cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::attach_limits::DriverVolumes;
use crate::devices::Devices;
use crate::objection::Objection;
use crate::resources::{Resources, Room, requests};
use crate::score::{Images, Marks, marks};
use crate::snapshot::SchedulingSnapshot;
use crate::spread::Preference;
use crate::view::{ClaimStep, ClusterView};
use crate::volumes::Claims;
use crate::{affinity, node, ports, spread};

/// A pod with everything needed to check it against nodes.
pub(crate) struct Case<'v> {
    pub pod: &'v PodView,
    wanted: Resources,
    claims: Claims<'v>,
    driver_volumes: DriverVolumes<'v>,
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
            driver_volumes: DriverVolumes::of(pod, view),
            devices: Devices::of(pod, view)?,
            before: view.nominated.iter().filter(before).collect(),
        })
    }

    /// Checks whether the pod can run on the node, with and without the pods nominated before it.
    pub fn check(
        &self,
        node: &Node,
        room: &Room,
        snapshot: &SchedulingSnapshot<'v>,
    ) -> Result<(), Objection> {
        let name = node.metadata.name.as_deref();
        let coming = self.before.iter().filter(|pod| pod.node.as_deref() == name);
        let coming: Vec<_> = coming.copied().collect();
        if let Some(name) = name.filter(|_| !coming.is_empty()) {
            let mut less = room.clone();
            for pod in &coming {
                less.add(&requests(pod));
            }
            let crowded = snapshot.with(name, coming);
            let objection = self.objection(node, &less, &crowded);
            objection.map_or(Ok(()), Err)?;
        }
        self.objection(node, room, snapshot).map_or(Ok(()), Err)
    }

    /// The objection of the first failed rule (as the scheduler framework reports it).
    fn objection(
        &self,
        node: &Node,
        room: &Room,
        snapshot: &SchedulingSnapshot<'v>,
    ) -> Option<Objection> {
        let (pod, name) = (self.pod, node.metadata.name.as_deref());
        node::objection(pod, node)
            .or_else(|| ports::objection(pod, snapshot.on(name.unwrap_or_default(), pod)))
            .or_else(|| room.shortage(&self.wanted))
            .or_else(|| self.claims.restriction(pod, snapshot))
            .or_else(|| self.driver_volumes.objection(node, snapshot))
            .or_else(|| self.claims.objection(node, snapshot.view))
            .or_else(|| {
                let text = self.devices.objection(node)?;
                Some(Objection::lasting(&text))
            })
            .or_else(|| spread::objection(pod, node, snapshot))
            .or_else(|| affinity::objection(pod, node, snapshot))
    }

    /// The properties of a feasible node for its score.
    pub fn marks(
        &self,
        node: &Node,
        room: &Room,
        snapshot: &SchedulingSnapshot<'v>,
        preferences: (&Preference<'_>, &Images<'_>),
    ) -> Marks {
        marks(self.pod, node, room, &self.wanted, snapshot, preferences)
    }

    /// The writes for the pod's claims before it is bound to the node; `None` if the binding need
    /// not wait.
    pub fn steps(&self, node: &Node, view: &ClusterView) -> Option<Vec<ClaimStep>> {
        let bound = self.claims.are_bound();
        if bound && self.devices.are_reserved() {
            return None;
        }
        let mut steps = match bound {
            true => Vec::new(),
            false => self.claims.steps(node, view).unwrap_or_default(),
        };
        steps.extend(self.devices.steps(node));
        Some(steps)
    }
}

/// The priority of a pod.
pub(crate) fn priority(pod: &PodView) -> i32 {
    pod.spec.priority.unwrap_or_default()
}
