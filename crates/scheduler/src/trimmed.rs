//! All pods of the cluster, without what does not decide where they go: that is most of them.

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use kube::{Api, Client};
use reconcile::{Cache, Identity, WatchConfig};
use tokio_util::sync::CancellationToken;

/// The pods as `placement` looks at them.
pub(crate) fn pods(client: Client, shutdown: CancellationToken) -> Cache<Pod> {
    let kept = |mut pod: Pod| {
        pod.metadata.managed_fields = None;
        trim(&mut pod);
        pod.clone()
    };
    let config = WatchConfig::default();
    Cache::spawn_as(
        Api::all(client),
        config,
        shutdown,
        |pod| Identity::of(pod),
        kept,
    )
}

fn trim(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        let init = spec.init_containers.iter_mut().flatten();
        spec.containers.iter_mut().chain(init).for_each(container);
        spec.ephemeral_containers = None;
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(|one| one.persistent_volume_claim.is_some() || one.ephemeral.is_some());
            volumes.iter_mut().for_each(volume);
        }
    }
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
}

/// What a container needs of its node: resources and ports.
fn container(one: &mut Container) {
    let full = std::mem::take(one);
    *one = Container {
        name: full.name,
        ports: full.ports,
        resources: full.resources,
        restart_policy: full.restart_policy,
        ..Container::default()
    };
}

/// Of a claim that is made for the pod, its name says everything.
fn volume(one: &mut Volume) {
    if let Some(ephemeral) = &mut one.ephemeral {
        ephemeral.volume_claim_template = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_decides_stays() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "labels": {"app": "a"}},
            "spec": {
                "nodeName": "n",
                "priority": 7,
                "tolerations": [{"key": "k"}],
                "containers": [{
                    "name": "main",
                    "image": "i",
                    "env": [{"name": "E", "value": "v"}],
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1"}},
                }],
                "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data-a"}},
                    {"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                    {"name": "scratch", "emptyDir": {}},
                ],
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "PodScheduled", "status": "True"}],
                "containerStatuses": [{
                    "name": "main", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                }],
            },
        }))
        .unwrap();
        trim(&mut pod);
        let kept: Value = serde_json::to_value(&pod).unwrap();
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a", "labels": {"app": "a"}},
            "spec": {
                "nodeName": "n",
                "priority": 7,
                "tolerations": [{"key": "k"}],
                "containers": [{
                    "name": "main",
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1"}},
                }],
                "initContainers": [{"name": "side", "restartPolicy": "Always"}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data-a"}},
                    {"name": "own", "ephemeral": {}},
                ],
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "PodScheduled", "status": "True"}],
            },
        });
        assert_eq!(kept, expected);
    }
}
