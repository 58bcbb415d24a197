//! The spec in a pod view: its own part, and the part that pods of one template share.

use k8s_openapi::api::core::v1::{Container, Lifecycle, PodSpec, Volume};

use super::record::{ContainerRecord, SpecRecord, VolumeRecord};
use super::{Claim, PodView, Sharing, Text};

pub(super) fn fill(view: &mut PodView, sharing: &mut Sharing, spec: SpecRecord) {
    let not_empty = |text: &&str| !text.is_empty();
    let node = spec.node_name.as_deref().filter(not_empty);
    view.node = node.map(|node| sharing.text(node));
    let hostname = spec.hostname.as_deref().filter(not_empty);
    view.hostname = hostname.map(|hostname| sharing.text_or(hostname, &view.name));
    let volumes = spec.volumes.iter().flatten();
    view.claims = volumes
        .filter_map(|volume| claim(&view.name, volume))
        .collect();
    view.spec = sharing.spec(view.controller.as_deref(), shared(spec));
}

fn claim(pod: &str, volume: &VolumeRecord) -> Option<Claim> {
    let (name, ephemeral): (Text, bool) = match &volume.persistent_volume_claim {
        Some(source) => (source.claim_name.as_str().into(), false),
        None => {
            volume.ephemeral.as_ref()?;
            (format!("{pod}-{}", volume.name).into(), true)
        }
    };
    Some(Claim { name, ephemeral })
}

/// The fields for scheduling, diagnosis and the loss of a node.
fn shared(spec: SpecRecord) -> PodSpec {
    let containers = |all: Vec<ContainerRecord>| all.into_iter().map(container).collect();
    PodSpec {
        affinity: spec.affinity,
        containers: spec.containers.map(containers).unwrap_or_default(),
        host_network: spec.host_network,
        init_containers: spec.init_containers.map(containers),
        node_selector: spec.node_selector,
        overhead: spec.overhead,
        // The default is not stored.
        preemption_policy: spec.preemption_policy.filter(|policy| policy == "Never"),
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
        volumes: spec.volumes.map(directories).filter(|all| !all.is_empty()),
        ..PodSpec::default()
    }
}

/// The volumes that are directories of the node: a pod that uses one cannot follow its set elsewhere.
fn directories(volumes: Vec<VolumeRecord>) -> Vec<Volume> {
    let of_node = volumes.into_iter().filter(|one| one.host_path.is_some());
    let mut directories: Vec<Volume> = of_node
        .map(|volume| Volume {
            name: volume.name,
            host_path: volume.host_path,
            ..Volume::default()
        })
        .collect();
    directories.shrink_to_fit();
    directories
}

fn container(full: ContainerRecord) -> Container {
    let post_start = full.lifecycle.and_then(|lifecycle| lifecycle.post_start);
    Container {
        image: full.image,
        lifecycle: post_start.map(|hook| Lifecycle {
            post_start: Some(hook),
            ..Lifecycle::default()
        }),
        name: full.name,
        ports: full.ports,
        readiness_probe: full.readiness_probe,
        resources: full.resources,
        restart_policy: full.restart_policy,
        startup_probe: full.startup_probe,
        ..Container::default()
    }
}
