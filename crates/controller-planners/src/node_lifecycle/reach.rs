//! The condition of a Node about the connection from a server to its kubelet API.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The type of the condition.
pub const KUBELET_REACHABLE: &str = "mainstay.dev/KubeletReachable";

/// The time between two attempts to connect to a node that was reached at its address.
const AT_ADDRESS: Duration = Duration::from_secs(300);
/// The time between two attempts to connect to a node with a tunnel, because a tunnel may close.
const IN_TUNNEL: Duration = Duration::from_secs(30);
/// The time between two attempts to connect to a node that was not reached; a new node may still wait for its
/// certificate.
const UNREACHED: Duration = Duration::from_secs(10);

/// The path from a server to the kubelet API of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletPath {
    /// At this address and port of the Node object.
    AtAddress(String),
    /// Through the tunnel of the node; a connection to this address and port failed.
    ThroughTunnel(String),
    /// No connection, for this reason.
    Not(String),
}

impl KubeletPath {
    /// The time until the next attempt.
    pub fn again(&self) -> Duration {
        match self {
            Self::AtAddress(_) => AT_ADDRESS,
            Self::ThroughTunnel(_) => IN_TUNNEL,
            Self::Not(_) => UNREACHED,
        }
    }
}

/// The condition to write, if the present conditions differ. The transition time changes only with the status, and
/// never goes back.
pub fn condition(
    present: &[NodeCondition],
    reached: &KubeletPath,
    now: Timestamp,
) -> Option<NodeCondition> {
    let (status, reason, message) = match reached {
        KubeletPath::AtAddress(address) => (
            "True",
            "Address",
            format!("the server reaches the kubelet API at {address}"),
        ),
        KubeletPath::ThroughTunnel(address) => (
            "True",
            "Tunnel",
            format!(
                "the server reaches the kubelet API through the tunnel of the node: {address} does not \
                 answer"
            ),
        ),
        KubeletPath::Not(cause) => (
            "False",
            "NoWay",
            format!("the server does not reach the kubelet API: {cause}"),
        ),
    };
    let of_type = |one: &&NodeCondition| one.type_ == KUBELET_REACHABLE;
    let before = present.iter().find(of_type);
    let is_reported = before.is_some_and(|before| {
        before.status == status
            && before.reason.as_deref() == Some(reason)
            && before.message.as_deref() == Some(message.as_str())
    });
    if is_reported {
        return None;
    }
    let changed = before.and_then(|before| before.last_transition_time.as_ref());
    let since = match (before, changed) {
        (Some(before), Some(changed)) if before.status == status => changed.0,
        (_, Some(changed)) => changed.0.max(now),
        (_, None) => now,
    };
    Some(NodeCondition {
        type_: KUBELET_REACHABLE.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(since)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node_address() -> String {
        "10.0.0.1:10250".to_owned()
    }

    /// docs/many-machines.md: the server chooses the path, and the condition reports the path to an administrator.
    #[test]
    fn each_way_has_its_reason() {
        let cases = [
            (KubeletPath::AtAddress(node_address()), "True", "Address"),
            (KubeletPath::ThroughTunnel(node_address()), "True", "Tunnel"),
            (
                KubeletPath::Not("no answer in time".to_owned()),
                "False",
                "NoWay",
            ),
        ];
        for (reached, status, reason) in cases {
            let written = condition(&[], &reached, at(1)).unwrap();
            assert_eq!(
                (written.status.as_str(), written.reason.as_deref()),
                (status, Some(reason))
            );
            assert_eq!(condition(&[written], &reached, at(2)), None);
        }
    }

    #[test]
    fn the_transition_time_is_that_of_the_status() {
        let first = condition(&[], &KubeletPath::AtAddress(node_address()), at(5)).unwrap();
        let second =
            condition(&[first], &KubeletPath::ThroughTunnel(node_address()), at(7)).unwrap();
        assert_eq!(second.last_transition_time, Some(Time(at(5))));
        let cause = KubeletPath::Not("refused".to_owned());
        let third = condition(&[second], &cause, at(9)).unwrap();
        assert_eq!(third.last_transition_time, Some(Time(at(9))));
        // The clock of the next writer is behind.
        let fourth = condition(&[third], &KubeletPath::AtAddress(node_address()), at(3)).unwrap();
        assert_eq!(fourth.last_transition_time, Some(Time(at(9))));
    }
}
