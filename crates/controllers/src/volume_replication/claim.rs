//! The state of a replica in the conditions of its claim, and the events.

use controller_planners::volume_replication::condition_message;
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{Api, Patch, PatchParams};
use resource_kinds::MetadataIdentity;
use resource_kinds::storage::volume_replication::{
    CONDITION, ReplicationStage, VolumeReplication, time_text,
};

use super::VolumeReplications;
use crate::node_volumes::{ClaimName, claim_of};
use crate::volume_move::Error;

impl VolumeReplications {
    /// Writes the condition of the claim, if the condition has changed.
    pub(super) async fn show(
        &self,
        volume: &PersistentVolume,
        record: &VolumeReplication,
    ) -> Result<(), Error> {
        let Some(ClaimName { namespace, name }) = claim_of(volume) else {
            return Ok(());
        };
        let Some(claim) = self.context.caches.claims.get(namespace, name) else {
            return Ok(());
        };
        let bound_to = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_ref());
        if bound_to != volume.metadata.name.as_ref() {
            return Ok(());
        }
        let (status, reason) = match (record.stage, record.last) {
            (ReplicationStage::Promoting | ReplicationStage::Promoted, _) => ("False", "Promoting"),
            (ReplicationStage::Replicating, Some(_)) => ("True", "Replicating"),
            (ReplicationStage::Replicating | ReplicationStage::Ended, _) => {
                ("False", "NoCompleteCopy")
            }
        };
        let message = condition_message(record);
        let conditions = claim.status.as_ref();
        let mut conditions = conditions
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let before = conditions.find(|condition| condition.type_ == CONDITION);
        if before.is_some_and(|before| before.message.as_ref() == Some(&message)) {
            return Ok(());
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let same = before.filter(|before| before.status == status);
        let since = same.and_then(|before| before.last_transition_time.as_ref());
        let since = since.map_or(now, |time| time.0);
        let copied = record.last.map(|last| {
            let time = Timestamp::from_second(last.div_euclid(1000)).unwrap_or_default();
            time.to_string()
        });
        let patch = json!({
            "metadata": {"uid": claim.metadata.object_uid()?},
            "status": {"conditions": [{
                "type": CONDITION,
                "status": status,
                "reason": reason,
                "message": message,
                "lastProbeTime": copied,
                "lastTransitionTime": since.to_string(),
            }]},
        });
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.context.client.clone(), namespace);
        let params = PatchParams::default();
        let written = claims
            .patch_status(name, &params, &Patch::Strategic(patch))
            .await;
        unless_outrun(written)?;
        Ok(())
    }

    /// Reports promotions and retained states as events of the claim.
    pub(super) fn report(
        &self,
        volume: &PersistentVolume,
        before: &VolumeReplication,
        next: &VolumeReplication,
    ) {
        let claims = &self.context.caches.claims;
        let claim = claim_of(volume).and_then(|claim| claims.get(claim.namespace, claim.name));
        let Some(claim) = claim else {
            return;
        };
        if let (Some(recovery), ReplicationStage::Promoted) = (&next.recovery, next.stage)
            && before.stage != ReplicationStage::Promoted
        {
            let text = format!(
                "Node {} is lost: the volume is promoted on node {}, with what was there at {}",
                recovery.from,
                next.primary,
                time_text(recovery.time)
            );
            self.recorder.warning(&*claim, "VolumePromoted", text);
        }
        for one in &next.diverged {
            if !before.diverged.contains(one) {
                let text = format!(
                    "The state of the former primary on node {} is kept there as the snapshot {}",
                    one.node, one.snapshot
                );
                self.recorder.warning(&*claim, "VolumeDiverged", text);
            }
        }
    }
}
