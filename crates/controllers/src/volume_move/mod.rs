//! The controller that moves local volumes between nodes.

mod calls;

use std::time::Duration;

use controller_framework::{Queue, ReconcileResult, object_key};
use controller_planners::volume_move::{
    Call, DataTransfer, MoveAnswers, Observed, User, VolumeMoveStep, plan, uses,
};
use json_tree::json;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube_api_client::Api;
use kube_api_client::guarded_writes::{Delete, chain, delete, existing_object};
use object_model::IncompleteMetadata;
use resource_kinds::annotations::VOLUME_MOVE;
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_move::{MoveStage, VolumeMove, affinity_to};

use crate::Context;
use crate::node_volumes::{
    ClaimName, claim_of, pods_in_namespace_of, presence, read_node, write_record,
};
pub(crate) use calls::{Address, Nodes};

/// Time until something that a move waits for is checked again.
const WAIT: Duration = Duration::from_secs(1);

/// The error of a step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused the request or did not respond.
    #[error("move a volume")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a volume or a pod")]
    Identity(#[from] IncompleteMetadata),
    /// The address of a step cannot be written.
    #[error("name a step of the move")]
    Request(#[from] http::Error),
    /// The response of a node could not be decoded.
    #[error("read the answer of a node")]
    Answer(#[from] serde_json::Error),
    /// The copy cannot continue: the record changed, or the response of a node was unexpected.
    #[error("{0}")]
    Cut(String),
}

struct VolumeMoves {
    context: Context,
    nodes: Nodes,
}

pub(crate) async fn run(context: Context) {
    let controller = VolumeMoves {
        nodes: Nodes::new(context.client.clone()),
        context: context.clone(),
    };
    context.run("volume_move", controller).await;
}

impl controller_framework::Controller for VolumeMoves {
    type Key = String;
    type Error = Error;

    /// Volumes that are copied at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.context.caches.volumes.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<String>) {
        let mut volumes = self.context.caches.volumes.subscribe();
        while let Some(change) = volumes.next().await {
            let volume = change.object();
            let record = VolumeMove::of(volume);
            if record.is_some_and(|record| !record.stage.is_final()) {
                queue.add(object_key(&**volume).name.to_string());
            }
        }
    }

    async fn reconcile(&self, name: &String) -> Result<ReconcileResult, Error> {
        let mut responses = MoveAnswers::default();
        loop {
            // Fresh reads: a step of a former stage would be a step back.
            let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
            let Some(volume) = existing_object(volumes.get(name).await)? else {
                return Ok(ReconcileResult::Done);
            };
            let Some(record) = VolumeMove::of(&volume) else {
                return Ok(ReconcileResult::Done);
            };
            match self.step(&volume, &record, &responses).await? {
                VolumeMoveStep::Done => return Ok(ReconcileResult::Done),
                VolumeMoveStep::Wait(reason) => {
                    self.report(&volume, record, reason).await?;
                    return Ok(ReconcileResult::RequeueAfter(WAIT));
                }
                VolumeMoveStep::Write(next) => {
                    tracing::info!(volume = name, id = next.id, stage = ?next.stage, "volume moves");
                    self.write(&volume, &next).await?;
                    responses = MoveAnswers::default();
                }
                // The message of an earlier failure is removed while the files are copied.
                VolumeMoveStep::Call(Call::Copy(_)) if record.message.is_some() => {
                    let stage = record.stage;
                    self.write(&volume, &record.in_stage(stage)).await?;
                }
                VolumeMoveStep::Call(call) => {
                    let is_current = || self.is_current(name, &record);
                    let call =
                        self.nodes
                            .carry_out(&volume, &record, call, &mut responses, &is_current);
                    if let Err(error) = call.await {
                        self.report(&volume, record, chain(&error)).await?;
                        return Err(error);
                    }
                }
                VolumeMoveStep::DeletePod(user) => {
                    // Only a volume with a claim has users.
                    let Some(claim) = claim_of(&volume) else {
                        return Ok(ReconcileResult::RequeueAfter(WAIT));
                    };
                    let client = self.context.client.clone();
                    let pods: Api<Pod> = Api::namespaced(client, claim.namespace);
                    delete(&pods, &user.name, Delete::of_uid(user.uid.clone())).await?;
                }
            }
        }
    }
}

impl VolumeMoves {
    async fn step(
        &self,
        volume: &PersistentVolume,
        record: &VolumeMove,
        responses: &MoveAnswers,
    ) -> Result<VolumeMoveStep, Error> {
        let client = &self.context.client;
        let pods = pods_in_namespace_of(client, volume).await?;
        let claim = claim_of(volume).map_or("", |claim| claim.name);
        let users = users(pods.into_iter(), claim);
        let [source, destination] = [&record.from, &record.to].map(|name| read_node(client, name));
        Ok(plan(&Observed {
            record,
            transfer: match Driver::of_volume(volume) {
                Some(Driver::LocalCow) => DataTransfer::Streams,
                Some(Driver::Local) | None => DataTransfer::Files,
            },
            is_bound: self.is_bound(volume).await?,
            users: &users,
            source: presence(source.await?.as_ref()),
            destination: presence(destination.await?.as_ref()),
            responses,
        }))
    }

    /// Whether the cached record still describes this copy in progress.
    fn is_current(&self, name: &str, record: &VolumeMove) -> bool {
        let volume = self.context.caches.volumes.get("", name);
        let now = volume.and_then(|volume| VolumeMove::of(&volume));
        now.is_some_and(|now| {
            // The cache may have an older record.
            now.id == record.id && !now.cancelled && now.stage <= record.stage
        })
    }

    async fn is_bound(&self, volume: &PersistentVolume) -> Result<bool, Error> {
        if volume.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        let Some(ClaimName { namespace, name }) = claim_of(volume) else {
            return Ok(false);
        };
        let client = self.context.client.clone();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
        let claim = existing_object(claims.get(name).await)?;
        Ok(claim.is_some_and(|claim| {
            let spec = claim.spec.as_ref();
            claim.metadata.deletion_timestamp.is_none()
                && spec.and_then(|spec| spec.volume_name.as_ref()) == volume.metadata.name.as_ref()
        }))
    }

    /// Writes the event that the move waits for into the record.
    async fn report(
        &self,
        volume: &PersistentVolume,
        record: VolumeMove,
        reason: String,
    ) -> Result<(), Error> {
        // The reason of an abandoned move stays.
        if record.stage == MoveStage::Abandoned || record.message.as_ref() == Some(&reason) {
            return Ok(());
        }
        let next = VolumeMove {
            message: Some(reason),
            ..record
        };
        self.write(volume, &next).await
    }

    /// Replaces the record, if the volume was not changed since it was read.
    async fn write(&self, volume: &PersistentVolume, record: &VolumeMove) -> Result<(), Error> {
        let before = VolumeMove::of(volume).map(|before| before.stage);
        let is_placed = record.stage == MoveStage::Placed && before != Some(MoveStage::Placed);
        let spec = is_placed.then(|| {
            json!({
                "nodeAffinity": affinity_to(&record.to),
                "local": {"path": record.path},
            })
        });
        let text = record.to_text();
        write_record(&self.context.client, volume, VOLUME_MOVE, &text, spec).await?;
        Ok(())
    }
}

fn users(pods: impl Iterator<Item = PodView>, claim: &str) -> Vec<User> {
    let mut users = Vec::new();
    for pod in pods.filter(|pod| uses(pod, claim)) {
        let Some(node) = &pod.node else {
            continue;
        };
        users.push(User {
            name: pod.name.to_string(),
            uid: pod.uid.clone(),
            node: node.to_string(),
            is_controlled: pod.controller.is_some(),
            is_deleted: pod.is_deleting(),
        });
    }
    users
}

#[cfg(test)]
mod tests {
    use json_tree::Value;

    use super::*;

    fn pod(name: &str, change: &Value) -> PodView {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"},
            "spec": {"nodeName": "one", "containers": [],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data-web-0"}}]},
            "status": {"phase": "Running"},
        });
        for (key, value) in change.as_object().unwrap() {
            *pod.pointer_mut(key).unwrap() = value.clone();
        }
        PodView::try_from(&json_tree::from_value::<Pod>(pod).unwrap()).unwrap()
    }

    #[test]
    fn pods_on_a_node_that_have_not_ended_use_a_claim() {
        let claim = "/spec/volumes/0/persistentVolumeClaim/claimName";
        let pods = [
            pod("used", &json!({})),
            pod("ended", &json!({"/status/phase": "Succeeded"})),
            pod("waiting", &json!({"/spec/nodeName": null})),
            pod("other", &json!({claim: "data-web-1"})),
        ];
        let users = users(pods.into_iter(), "data-web-0");
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["used"]);
        assert!(!users[0].is_controlled && !users[0].is_deleted);
    }
}
