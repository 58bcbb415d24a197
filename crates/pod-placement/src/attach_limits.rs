//! Attach limits of CSI drivers: the number of a driver's volumes on one node
//! (`spec.drivers[].allocatable.count` of the CSINode), as kube-scheduler's filter `NodeVolumeLimits`
//! counts them.
//!
//! A volume counts once for each node, whether one pod uses it or several, or a VolumeAttachment
//! names it without a pod. A claim without a volume counts as a volume of its class's provisioner.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::CSINode;
use resource_kinds::pod_view::PodView;
use resource_kinds::volume_fit::requested_class;

use crate::objection::FilterFailure;
use crate::snapshot::SchedulingSnapshot;
use crate::view::ClusterView;

const EXCEEDED: &str = "node(s) exceed max volume count";

/// A volume of a CSI driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DriverVolume<'v> {
    driver: &'v str,
    identity: VolumeIdentity<'v>,
}

/// The identity of a volume among those of its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum VolumeIdentity<'v> {
    Handle(&'v str),
    /// Namespace and name of a claim that has no volume yet.
    Unprovisioned(&'v str, &'v str),
}

/// The volumes of CSI drivers that a pod uses.
#[derive(Debug, Default)]
pub(crate) struct DriverVolumes<'v>(BTreeSet<DriverVolume<'v>>);

impl<'v> DriverVolumes<'v> {
    pub fn of(pod: &PodView, view: &'v ClusterView) -> Self {
        Self(volumes_of(pod, view).collect())
    }

    /// The objection to a node that would have more volumes of a driver than the driver's limit.
    pub fn objection(
        &self,
        node: &Node,
        snapshot: &SchedulingSnapshot<'v>,
    ) -> Option<FilterFailure> {
        if self.0.is_empty() {
            return None;
        }
        let name = node.metadata.name.as_deref()?;
        let limits = limits(snapshot.view.csi_nodes.get(name)?);
        let limits: Vec<_> = limits.filter(|(driver, _)| self.has(driver)).collect();
        if limits.is_empty() {
            return None;
        }
        let pods = snapshot.there(name);
        let used = pods.flat_map(|pod| volumes_of(pod, snapshot.view));
        let there: BTreeSet<_> = used.chain(attached(name, snapshot.view)).collect();
        let exceeds = |(driver, limit): (&str, usize)| {
            let of_driver = |volume: &&DriverVolume<'_>| volume.driver == driver;
            let new = self.0.difference(&there).filter(of_driver).count();
            new > 0 && there.iter().filter(of_driver).count() + new > limit
        };
        let exceeded = limits.into_iter().any(exceeds);
        exceeded.then(|| FilterFailure::of_pods(EXCEEDED))
    }

    fn has(&self, driver: &str) -> bool {
        self.0.iter().any(|volume| volume.driver == driver)
    }
}

/// The drivers of a node that limit their volumes, each with its limit.
fn limits(node: &CSINode) -> impl Iterator<Item = (&str, usize)> {
    node.spec.drivers.iter().filter_map(|driver| {
        let count = driver.allocatable.as_ref()?.count?;
        // A negative count is invalid, and allows no volume.
        Some((&*driver.name, usize::try_from(count).unwrap_or_default()))
    })
}

/// The volumes that are attached to a node, or will be attached, for any pod.
fn attached<'v>(node: &str, view: &'v ClusterView) -> impl Iterator<Item = DriverVolume<'v>> {
    view.attachments.on(node).filter_map(|attachment| {
        let source = &attachment.spec.source;
        let inline = source.inline_volume_spec.as_ref();
        let volume = source.persistent_volume_name.as_ref();
        let volume = volume.and_then(|name| view.volumes.get(name)?.spec.as_ref());
        let csi = volume.or(inline)?.csi.as_ref()?;
        Some(DriverVolume {
            driver: &attachment.spec.attacher,
            identity: VolumeIdentity::Handle(&csi.volume_handle),
        })
    })
}

fn volumes_of<'v>(
    pod: &PodView,
    view: &'v ClusterView,
) -> impl Iterator<Item = DriverVolume<'v>> + use<'v> {
    let claims = pod.claims.iter().filter_map(|used| {
        let key = (pod.namespace.to_string(), used.name.to_string());
        let (key, claim) = view.claims.get_key_value(&key)?;
        volume_of(key, claim, view)
    });
    claims.collect::<Vec<_>>().into_iter()
}

fn volume_of<'v>(
    (namespace, name): &'v (String, String),
    claim: &'v PersistentVolumeClaim,
    view: &'v ClusterView,
) -> Option<DriverVolume<'v>> {
    if let Some(volume) = bound_volume(claim, view) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some(DriverVolume {
            driver: &csi.driver,
            identity: VolumeIdentity::Handle(&csi.volume_handle),
        });
    }
    let class = view.classes.get(requested_class(claim)?)?;
    Some(DriverVolume {
        driver: &class.provisioner,
        identity: VolumeIdentity::Unprovisioned(namespace, name),
    })
}

/// The claim's volume, if the claim names an existing volume.
fn bound_volume<'v>(
    claim: &PersistentVolumeClaim,
    view: &'v ClusterView,
) -> Option<&'v Arc<PersistentVolume>> {
    let name = claim.spec.as_ref()?.volume_name.as_ref()?;
    view.volumes.get(name)
}
