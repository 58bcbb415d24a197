//! The fields of a pod of which its view is made. The decoder skips all others, which are most of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, HostPathVolumeSource, Lifecycle,
    PersistentVolumeClaimVolumeSource, Pod, PodReadinessGate, PodResourceClaim, PodSchedulingGate,
    PodSpec, PodStatus, Probe, ResourceRequirements, Toleration, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A pod with the fields for its view.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodRecord {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<SpecRecord>,
    pub(super) status: Option<PodStatus>,
}

impl k8s_openapi::Resource for PodRecord {
    const API_VERSION: &'static str = Pod::API_VERSION;
    const GROUP: &'static str = Pod::GROUP;
    const KIND: &'static str = Pod::KIND;
    const VERSION: &'static str = Pod::VERSION;
    const URL_PATH_SEGMENT: &'static str = Pod::URL_PATH_SEGMENT;
    type Scope = <Pod as k8s_openapi::Resource>::Scope;
}

impl k8s_openapi::Metadata for PodRecord {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<Pod> for PodRecord {
    fn from(pod: Pod) -> Self {
        Self {
            metadata: pod.metadata,
            spec: pod.spec.map(SpecRecord::from),
            status: pod.status,
        }
    }
}

/// The fields of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SpecRecord {
    pub affinity: Option<Affinity>,
    pub containers: Option<Vec<ContainerRecord>>,
    pub host_network: Option<bool>,
    pub hostname: Option<String>,
    pub init_containers: Option<Vec<ContainerRecord>>,
    pub node_name: Option<String>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub overhead: Option<BTreeMap<String, Quantity>>,
    pub preemption_policy: Option<String>,
    pub priority: Option<i32>,
    pub readiness_gates: Option<Vec<PodReadinessGate>>,
    pub resource_claims: Option<Vec<PodResourceClaim>>,
    pub resources: Option<ResourceRequirements>,
    pub restart_policy: Option<String>,
    pub scheduler_name: Option<String>,
    pub scheduling_gates: Option<Vec<PodSchedulingGate>>,
    pub subdomain: Option<String>,
    pub tolerations: Option<Vec<Toleration>>,
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    pub volumes: Option<Vec<VolumeRecord>>,
}

impl From<PodSpec> for SpecRecord {
    fn from(spec: PodSpec) -> Self {
        let containers = |all: Vec<Container>| all.into_iter().map(ContainerRecord::from).collect();
        let volumes = |all: Vec<Volume>| all.into_iter().map(VolumeRecord::from).collect();
        Self {
            volumes: spec.volumes.map(volumes),
            topology_spread_constraints: spec.topology_spread_constraints,
            tolerations: spec.tolerations,
            subdomain: spec.subdomain,
            scheduling_gates: spec.scheduling_gates,
            scheduler_name: spec.scheduler_name,
            restart_policy: spec.restart_policy,
            resources: spec.resources,
            resource_claims: spec.resource_claims,
            readiness_gates: spec.readiness_gates,
            priority: spec.priority,
            preemption_policy: spec.preemption_policy,
            overhead: spec.overhead,
            node_selector: spec.node_selector,
            node_name: spec.node_name,
            init_containers: spec.init_containers.map(containers),
            hostname: spec.hostname,
            host_network: spec.host_network,
            containers: Some(containers(spec.containers)),
            affinity: spec.affinity,
        }
    }
}

/// The fields of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerRecord {
    pub image: Option<String>,
    pub lifecycle: Option<Lifecycle>,
    pub name: String,
    pub ports: Option<Vec<ContainerPort>>,
    pub readiness_probe: Option<Probe>,
    pub resources: Option<ResourceRequirements>,
    pub restart_policy: Option<String>,
    pub startup_probe: Option<Probe>,
}

impl From<Container> for ContainerRecord {
    fn from(full: Container) -> Self {
        Self {
            startup_probe: full.startup_probe,
            restart_policy: full.restart_policy,
            resources: full.resources,
            readiness_probe: full.readiness_probe,
            ports: full.ports,
            name: full.name,
            lifecycle: full.lifecycle,
            image: full.image,
        }
    }
}

/// The fields of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct VolumeRecord {
    pub name: String,
    pub host_path: Option<HostPathVolumeSource>,
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// Whether there is one is enough.
    pub ephemeral: Option<IgnoredAny>,
}

impl From<Volume> for VolumeRecord {
    fn from(full: Volume) -> Self {
        Self {
            name: full.name,
            host_path: full.host_path,
            persistent_volume_claim: full.persistent_volume_claim,
            ephemeral: full.ephemeral.map(|_| IgnoredAny),
        }
    }
}
