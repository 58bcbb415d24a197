//! The spec in a pod view: the part of the single pod, and the part that pods of one template share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, HostPathVolumeSource, Lifecycle, PodReadinessGate,
    PodResourceClaim, PodSchedulingGate, PodSpec, Probe, ResourceRequirements, Toleration,
    TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

use super::text::{ClaimText, SpecText};
use super::{Claim, PodView, Sharing, Text};

pub(super) fn fill(
    view: &mut PodView,
    sharing: &mut Sharing,
    spec: SpecText<'_>,
) -> serde_json::Result<()> {
    let present = |text: &&str| !text.is_empty();
    let node = Some(&*spec.node).filter(present);
    view.node = node.map(|node| sharing.text(node));
    let hostname = Some(&*spec.hostname).filter(present);
    view.hostname = hostname.map(|hostname| sharing.text_or(hostname, &view.name));
    let claims = spec.claims.into_iter();
    view.claims = claims.map(|one| claim(&view.name, one)).collect();
    view.spec = sharing.spec(view.controller.as_deref(), spec.shared)?;
    Ok(())
}

fn claim(pod: &str, claim: ClaimText<'_>) -> Claim {
    let name: Text = match claim.ephemeral {
        true => format!("{pod}-{}", claim.name).into(),
        false => claim.name.into(),
    };
    Claim {
        name,
        ephemeral: claim.ephemeral,
    }
}

/// The fields of the shared text. A decoder for all fields of a spec would be one of the largest functions of the
/// program.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SharedSpec {
    affinity: Option<Affinity>,
    containers: Vec<SharedContainer>,
    host_network: Option<bool>,
    init_containers: Option<Vec<SharedContainer>>,
    node_selector: Option<BTreeMap<String, String>>,
    overhead: Option<BTreeMap<String, Quantity>>,
    preemption_policy: Option<String>,
    priority: Option<i32>,
    readiness_gates: Option<Vec<PodReadinessGate>>,
    resource_claims: Option<Vec<PodResourceClaim>>,
    resources: Option<ResourceRequirements>,
    restart_policy: Option<String>,
    scheduler_name: Option<String>,
    scheduling_gates: Option<Vec<PodSchedulingGate>>,
    subdomain: Option<String>,
    tolerations: Option<Vec<Toleration>>,
    topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    volumes: Option<Vec<SharedVolume>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SharedContainer {
    image: Option<String>,
    lifecycle: Option<Lifecycle>,
    name: String,
    ports: Option<Vec<ContainerPort>>,
    readiness_probe: Option<Probe>,
    resources: Option<ResourceRequirements>,
    restart_policy: Option<String>,
    startup_probe: Option<Probe>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SharedVolume {
    name: String,
    host_path: Option<HostPathVolumeSource>,
}

impl From<SharedSpec> for PodSpec {
    fn from(spec: SharedSpec) -> Self {
        let containers = |all: Vec<SharedContainer>| all.into_iter().map(Container::from).collect();
        let volumes = |all: Vec<SharedVolume>| all.into_iter().map(Volume::from).collect();
        Self {
            affinity: spec.affinity,
            containers: containers(spec.containers),
            host_network: spec.host_network,
            init_containers: spec.init_containers.map(containers),
            node_selector: spec.node_selector,
            overhead: spec.overhead,
            preemption_policy: spec.preemption_policy,
            priority: spec.priority,
            readiness_gates: spec.readiness_gates,
            resource_claims: spec.resource_claims,
            resources: spec.resources,
            restart_policy: spec.restart_policy,
            scheduler_name: spec.scheduler_name,
            scheduling_gates: spec.scheduling_gates,
            subdomain: spec.subdomain,
            tolerations: spec.tolerations,
            topology_spread_constraints: spec.topology_spread_constraints,
            volumes: spec.volumes.map(volumes),
            ..Self::default()
        }
    }
}

impl From<SharedContainer> for Container {
    fn from(container: SharedContainer) -> Self {
        Self {
            image: container.image,
            lifecycle: container.lifecycle,
            name: container.name,
            ports: container.ports,
            readiness_probe: container.readiness_probe,
            resources: container.resources,
            restart_policy: container.restart_policy,
            startup_probe: container.startup_probe,
            ..Self::default()
        }
    }
}

impl From<SharedVolume> for Volume {
    fn from(volume: SharedVolume) -> Self {
        Self {
            name: volume.name,
            host_path: volume.host_path,
            ..Self::default()
        }
    }
}
