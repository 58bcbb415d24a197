//! Admission: the node accepts or rejects each pod that is bound to it.
//!
//! A pod is checked once, when it is new on the node. A pod that a former agent admitted is not
//! checked again.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_framework::{Cache, WatchConfig};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_api_client::{Api, Client};
use object_model::Uid;
use pod_lifecycle::PodIdentity;
use pod_lifecycle::resources::admission::{PodRejection, rejection, under_pressure};
use pod_placement::{AdmissionFailure, misfit};
use process_telemetry::Component;
use process_telemetry::refusals::{self, Budget};
use resource_kinds::pod_view::PodView;

use crate::limits::OBJECTS_PER_POD_MAX;
use crate::machine::pressure::Monitor;
use crate::node_context::NodeContext;
use crate::pods::pod_manager::PodManager;
use crate::volumes::watched_objects;

/// The cached pods of the node, and the cached Node object, that the admission checks read.
pub struct Admission {
    node: Arc<NodeContext>,
    client: Client,
    monitor: Arc<Monitor>,
    admitted: Arc<PodManager>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
}

impl Admission {
    /// Starts the watches of the node's pods and of the Node object.
    pub fn new(
        node: Arc<NodeContext>,
        client: &Client,
        monitor: Arc<Monitor>,
        admitted: Arc<PodManager>,
        component: &Component,
    ) -> Self {
        let name = &node.config.node_name;
        let follow = |fields: String| WatchConfig::default().fields(&fields);
        let pods = follow(format!("spec.nodeName={name}"));
        let nodes = follow(format!("metadata.name={name}"));
        Self {
            pods: Cache::spawn(Api::all(client.clone()), pods, component.clone()),
            nodes: Cache::spawn(Api::all(client.clone()), nodes, component.clone()),
            client: client.clone(),
            node,
            monitor,
            admitted,
        }
    }

    pub fn pods(&self) -> &Cache<Pod> {
        &self.pods
    }

    pub fn node(&self) -> &Cache<Node> {
        &self.nodes
    }

    /// The reason why the node rejects a new pod; `None` if it admits the pod.
    pub async fn rejection(&self, identity: &PodIdentity, pod: &Pod) -> Option<PodRejection> {
        let conditions = self.monitor.conditions();
        if let Some(rejection) = under_pressure(pod, &conditions) {
            return Some(rejection);
        }
        let policy = &self.node.config.admission;
        if let Some(rejection) = rejection(pod, policy) {
            return Some(rejection);
        }
        if let Some(rejection) = too_many_objects(watched_objects(pod).len()) {
            return Some(rejection);
        }
        // Without the Node object, the agent checks only its own limits: the labels of the node are
        // missing.
        let node = self.nodes.get("", &self.node.config.node_name)?;
        // The pod has an identity, so it has a view.
        let view = PodView::try_from(pod).ok()?;
        let others = self.other_pods(&identity.uid);
        let mut failure = misfit(&view, &node, &others);
        let depends_on_node = match &failure {
            Some(AdmissionFailure::NodeAffinity) => true,
            Some(AdmissionFailure::Resource { name, .. }) => name.contains('/'),
            _ => false,
        };
        if depends_on_node {
            // The scheduler may have read newer labels or devices than the agent's cache has.
            let api: Api<Node> = Api::all(self.client.clone());
            match api.get(&self.node.config.node_name).await {
                Ok(node) => failure = misfit(&view, &node, &others),
                Err(error) => tracing::warn!(%error, "labels of the node not read"),
            }
        }
        failure.map(|misfit| PodRejection {
            reason: misfit.reason(),
            message: misfit.message(),
        })
    }

    /// The admitted pods of the node that have not ended, without the pod with this UID.
    fn other_pods(&self, uid: &Uid) -> Vec<PodView> {
        let admitted = self.admitted.list();
        let admitted = admitted
            .iter()
            .map(|view| (view.identity.uid.as_str(), view));
        let admitted: BTreeMap<&str, _> = admitted.collect();
        let uses_resources = |pod: &&Arc<Pod>| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            let pod_uid = pod.metadata.uid.as_deref();
            let view = pod_uid.and_then(|uid| admitted.get(uid));
            pod_uid != Some(uid.as_str())
                && !matches!(phase, Some("Succeeded" | "Failed"))
                && view.is_some_and(|v| v.record.failure.is_none() || v.record.anything_runs())
        };
        let pods = self.pods.list();
        let using_pods = pods.iter().filter(uses_resources);
        using_pods
            .filter_map(|pod| PodView::try_from(&**pod).ok())
            .collect()
    }
}

/// The rejection of a pod whose volumes have `count` ConfigMaps and Secrets. The limit exists because the
/// agent watches each of these objects for as long as the pod runs.
fn too_many_objects(count: usize) -> Option<PodRejection> {
    if count <= OBJECTS_PER_POD_MAX {
        return None;
    }
    cov_mark::hit!(findings_2_s39_objects);
    refusals::count(Budget::WatchedObjects);
    Some(PodRejection {
        reason: "TooManyVolumeSources".to_owned(),
        message: format!(
            "the volumes of the pod have {count} ConfigMaps and Secrets; a pod may have {OBJECTS_PER_POD_MAX}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S39
    #[test]
    fn a_pod_with_too_many_objects_is_rejected_with_the_number() {
        cov_mark::check!(findings_2_s39_objects);
        assert_eq!(too_many_objects(OBJECTS_PER_POD_MAX), None);
        let before = refusals::counted(Budget::WatchedObjects);
        let rejection = too_many_objects(700).unwrap();
        assert_eq!(refusals::counted(Budget::WatchedObjects), before + 1);
        assert_eq!(rejection.reason, "TooManyVolumeSources");
        assert!(rejection.message.contains("700"), "{rejection:?}");
    }
}
