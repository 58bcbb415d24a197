//! The check of one pod against one node, given the pods in the cluster.

use std::cell::OnceCell;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::affinity::Neighbours;
use crate::attach_limits::DriverVolumes;
use crate::devices::Devices;
use crate::objection::FilterFailure;
use crate::ports::{HostPort, host_ports};
use crate::refusal::PodRefusal;
use crate::resources::{FreeResources, Resources, requests};
use crate::snapshot::SchedulingSnapshot;
use crate::spread::SpreadConstraints;
use crate::view::{ClaimStep, ClusterView};
use crate::volumes::Claims;
use crate::{node, ports};

/// A pod with all data for checks against nodes.
pub(crate) struct PodToPlace<'v> {
    pub pod: &'v PodView,
    pub requests: Resources,
    ports: Vec<HostPort<'v>>,
    claims: Claims<'v>,
    driver_volumes: DriverVolumes<'v>,
    devices: Devices<'v>,
    /// Pods nominated to nodes whose priority is at least this pod's priority.
    before: Vec<&'v Arc<PodView>>,
    /// The pods of the present cluster, counted once for all nodes.
    present: OnceCell<Counted<'v>>,
}

/// The pods of a snapshot, with the sums for rules that compare several nodes.
struct Counted<'v> {
    spread: SpreadConstraints<'v>,
    neighbours: Neighbours<'v>,
}

impl<'v> Counted<'v> {
    fn of(pod: &'v PodView, snapshot: &SchedulingSnapshot<'v>) -> Self {
        Self {
            spread: SpreadConstraints::of(pod, snapshot),
            neighbours: Neighbours::of(pod, snapshot),
        }
    }

    fn objection(&self, node: &Node) -> Option<FilterFailure> {
        let skewed = self.spread.objection(node);
        skewed.or_else(|| self.neighbours.objection(node))
    }
}

impl<'v> PodToPlace<'v> {
    /// Fails if the pod fits no node.
    pub fn of(pod: &'v PodView, view: &'v ClusterView) -> Result<Self, PodRefusal> {
        let before =
            |other: &&Arc<PodView>| other.uid != pod.uid && priority(other) >= priority(pod);
        Ok(Self {
            pod,
            requests: requests(pod),
            ports: host_ports(pod),
            claims: Claims::of(pod, view)?,
            driver_volumes: DriverVolumes::of(pod, view),
            devices: Devices::of(pod, view)?,
            before: view.nominated.iter().filter(before).collect(),
            present: OnceCell::new(),
        })
    }

    /// Checks whether the pod can run on the node, with and without the pods nominated before it.
    pub fn check(
        &self,
        node: &Node,
        free: &FreeResources<'_>,
        snapshot: &SchedulingSnapshot<'v>,
    ) -> Result<(), FilterFailure> {
        let name = node.metadata.name.as_deref();
        let coming = self.before.iter().filter(|pod| pod.node.as_deref() == name);
        let coming: Vec<_> = coming.copied().collect();
        if let Some(name) = name.filter(|_| !coming.is_empty()) {
            let mut less = free.clone();
            for pod in &coming {
                less.add(&requests(pod));
            }
            let crowded = snapshot.with(name, coming);
            let objection = self.objection(node, &less, &crowded);
            objection.map_or(Ok(()), Err)?;
        }
        self.objection(node, free, snapshot).map_or(Ok(()), Err)
    }

    /// The objection of the first violated rule (as the scheduler framework reports it).
    fn objection(
        &self,
        node: &Node,
        free: &FreeResources<'_>,
        snapshot: &SchedulingSnapshot<'v>,
    ) -> Option<FilterFailure> {
        let (pod, name) = (self.pod, node.metadata.name.as_deref());
        node::objection(pod, node)
            .or_else(|| {
                ports::objection(&self.ports, || snapshot.on(name.unwrap_or_default(), pod))
            })
            .or_else(|| free.shortage(&self.requests))
            .or_else(|| self.claims.restriction(pod, snapshot))
            .or_else(|| self.driver_volumes.objection(node, snapshot))
            .or_else(|| self.claims.objection(node, snapshot.view))
            .or_else(|| {
                let text = self.devices.objection(node)?;
                Some(FilterFailure::lasting(&text))
            })
            .or_else(|| {
                let count = || Counted::of(pod, snapshot);
                match snapshot.is_present() {
                    true => self.present.get_or_init(count).objection(node),
                    false => count().objection(node),
                }
            })
    }

    /// The writes for the pod's claims before the pod is bound to the node; `None` if no claim delays the binding.
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
