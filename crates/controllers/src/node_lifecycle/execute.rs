//! Writes conditions and taints of nodes, and evicts pods.

use controller_framework::{EventType, Recorder};
use controller_planners::node_lifecycle::{Eviction, NodeLifecyclePlan};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, Taint};
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, Client, Patch, PatchParams};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use super::disruption_target;
use crate::api_error::{ApiError, failed};

#[derive(Clone)]
pub(super) struct Executor {
    pub client: Client,
    pub recorder: Recorder,
}

impl Executor {
    pub async fn execute(&self, node: &Node, plan: NodeLifecyclePlan) -> Result<(), ApiError> {
        if let Some(taints) = &plan.taints {
            self.write_taints(node, taints)
                .await
                .map_err(failed("write taints"))?;
        }
        for pod in &plan.pods_not_ready {
            self.mark_not_ready(pod)
                .await
                .map_err(failed("mark pod not ready"))?;
        }
        // The conditions are written last: until they are written, the other writes are repeated.
        if let Some(conditions) = &plan.conditions {
            self.write_conditions(node, conditions)
                .await
                .map_err(failed("write conditions"))?;
        }
        if let Some((reason, text)) = plan.event {
            self.recorder
                .event(reference(node), EventType::Normal, reason, text);
        }
        Ok(())
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> kube_api_client::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        // With the observed resourceVersion, because all writers share one list of taints.
        let meta = json!({
            "uid": node.metadata.object_uid()?,
            "resourceVersion": node.metadata.object_version()?,
        });
        let patch = Patch::Merge(json!({ "metadata": meta, "spec": { "taints": taints } }));
        let written = nodes
            .patch(
                node.metadata.object_name()?,
                &PatchParams::default(),
                &patch,
            )
            .await;
        guarded_writes::existing_object(written).map(drop)
    }

    async fn write_conditions(
        &self,
        node: &Node,
        conditions: &[NodeCondition],
    ) -> kube_api_client::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let meta = json!({ "uid": node.metadata.object_uid()? });
        let status = json!({ "conditions": conditions });
        let patch = Patch::Strategic(json!({ "metadata": meta, "status": status }));
        let name = node.metadata.object_name()?;
        let written = nodes
            .patch_status(name, &PatchParams::default(), &patch)
            .await;
        guarded_writes::existing_object(written).map(drop)
    }

    async fn mark_not_ready(&self, pod: &PodView) -> kube_api_client::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        // If the node's clock is ahead, the transition may be in the future.
        let since = pod.ready().and_then(|ready| ready.since);
        let now = since.map_or_else(Timestamp::now, |since| since.max(Timestamp::now()));
        let condition = json!({
            "type": "Ready",
            "status": "False",
            "lastTransitionTime": Timestamp::from_second(now.as_second()).ok(),
        });
        let meta = json!({ "uid": pod.uid });
        let patch = json!({ "metadata": meta, "status": { "conditions": [condition] } });
        let params = PatchParams::default();
        let written = pods
            .patch_status(&pod.name, &params, &Patch::Strategic(patch))
            .await;
        if guarded_writes::unless_outrun(written)?.is_some() {
            let (kind, text) = (EventType::Warning, "Node is not ready");
            self.recorder
                .event(pod.reference(), kind, "NodeNotReady", text);
        }
        Ok(())
    }

    pub async fn evict(&self, evictions: &[Eviction]) -> Result<(), ApiError> {
        for eviction in evictions {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &eviction.pod.namespace);
            let message = "Taint manager: deleting due to NoExecute taint";
            let status = disruption_target("DeletionByTaintManager", message);
            let patch = json!({ "metadata": { "uid": eviction.uid }, "status": status });
            let (name, params) = (&eviction.pod.name, PatchParams::default());
            let written = pods
                .patch_status(name, &params, &Patch::Strategic(patch))
                .await;
            let is_unchanged =
                guarded_writes::unless_outrun(written).map_err(failed("mark pod"))?;
            if let Some(pod) = is_unchanged {
                let text = format!("Marking for deletion Pod {}", eviction.pod);
                self.recorder.normal(&pod, "TaintManagerEviction", text);
            }
            let how = Delete::of_uid(eviction.uid.clone());
            guarded_writes::delete(&pods, name, how)
                .await
                .map_err(failed("delete pod"))?;
        }
        Ok(())
    }
}

/// Events of nodes have the node's name as UID, because kubectl searches by it.
pub(super) fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.metadata.name.clone(),
        uid: node.metadata.name.clone(),
        ..ObjectReference::default()
    }
}
