//! Calls to the nodes of a replicated volume.

use std::collections::BTreeSet;

use controller_planners::volume_expansion::bytes as whole_bytes;
use controller_planners::volume_move::CopyResult as Sent;
use controller_planners::volume_replication::{
    Call, CommonSnapshot, CopyResult, ReplicationAnswers, Role,
};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube_api_client::guarded_writes::chain;
use resource_kinds::MetadataIdentity;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_replication::VolumeReplication;
use resource_kinds::volume_fit::capacity;

use super::VolumeReplications;
use crate::volume_move::{Address, Error};

/// Carries out a call, and adds its response.
pub(super) async fn carry_out(
    controller: &VolumeReplications,
    volume: &PersistentVolume,
    record: &VolumeReplication,
    call: Call,
    responses: &mut ReplicationAnswers,
) -> Result<(), Error> {
    let nodes = &controller.nodes;
    let name = volume.metadata.object_name()?;
    let bytes = whole_bytes(capacity(volume));
    let epoch = record.epoch.to_string();
    let address = |node| Address {
        node,
        volume: name,
        id: &epoch,
        driver: Driver::LocalCow,
    };
    let to = address(call.node(record).unwrap_or_default());
    let refused = |reason| {
        controller.refusals.note(name, to.node);
        CopyResult::Impossible(reason)
    };
    match call.clone() {
        Call::Inspect(Role::Primary) => {
            responses.primary = Some(nodes.ask(&to, "replica-inspect").await?);
        }
        Call::Inspect(Role::Replica) => match nodes.ask_or_refusal(&to, "replica-inspect").await? {
            Ok(holdings) => responses.replica = Some(holdings),
            Err(refusal) => responses.copied = Some(refused(refusal.to_string())),
        },
        Call::Seal => responses.sealed = Some(nodes.ask(&to, "replica-seal").await?),
        Call::Demote(common) => {
            let step = match common {
                None => "replica-demote".to_owned(),
                Some(CommonSnapshot { time, here, there }) => {
                    format!("replica-demote?common={time}&here={here}&there={there}")
                }
            };
            match nodes.ask_or_refusal(&to, &step).await? {
                // The copies on the node have changed, so the stored response is outdated.
                Ok(()) => responses.replica = None,
                // Without copies, it makes its pool in this step.
                Err(refusal) => responses.copied = Some(refused(refusal.to_string())),
            }
        }
        Call::Copy { time, base } => {
            let copy = match base {
                None => format!("copy={time}"),
                Some(base) => format!("copy={time}&base={base}"),
            };
            let steps = ["replica-read", "replica-receive"];
            let is_current = || controller.is_current(name, record);
            let receiver = address(record.receiver().unwrap_or_default());
            let sent = nodes.stream(&to, &receiver, steps, &copy, bytes, &is_current);
            responses.copied = Some(match sent.await? {
                Sent::Complete(_) => CopyResult::Complete(time),
                Sent::Impossible(reason) => {
                    controller.refusals.note(name, receiver.node);
                    CopyResult::Impossible(reason)
                }
            });
        }
        Call::Keep(role, copies) => {
            let step = format!(
                "replica-keep?role={}&keep={}",
                role_name(role),
                list(&copies)
            );
            let () = nodes.ask(&to, &step).await?;
            responses.reduced.insert(role);
        }
        Call::Promote { time } => {
            let step = format!("replica-promote?copy={time}&bytes={bytes}");
            let () = nodes.ask(&to, &step).await?;
            responses.promoted = true;
        }
        Call::Forget(node) => {
            let () = nodes.ask(&to, "replica-forget").await?;
            responses.forgotten.insert(node);
        }
        Call::Retire(node) => {
            let remaining = nodes.ask(&to, "replica-retire").await;
            let failed = remaining.as_ref().err().map(|error| chain(error));
            if let Some(error) = failed {
                tracing::warn!(volume = name, node, error, "former copies are not removed");
            }
            responses.retired.insert(node, remaining.ok());
        }
    }
    Ok(())
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
    }
}

fn list(times: &BTreeSet<i64>) -> String {
    let texts: Vec<String> = times.iter().map(i64::to_string).collect();
    texts.join(".")
}
