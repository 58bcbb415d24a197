//! The conditions of a lost node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const KINDS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// All conditions set to `Unknown`, including missing conditions.
pub(super) fn unknown(present: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let mut conditions = present.to_vec();
    for kind in KINDS {
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind)
        {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                // If the node's clock is ahead, the transition may be in the future.
                let before = condition.last_transition_time.as_ref().map(|time| time.0);
                condition.last_transition_time = Some(Time(before.map_or(now, |at| at.max(now))));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: None,
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    conditions
}
