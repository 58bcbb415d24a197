//! In which order pods end with their node (statefulset.md §12.17).
//!
//! As kubelet's graceful shutdown: what the cluster itself lives on ends last.

use k8s_openapi::api::core::v1::Pod;

/// Priority from which on a pod is critical (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Pods of one wave end together; the next wave begins when they are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wave {
    /// Everybody's pods.
    Regular,
    /// Pods that others depend upon.
    Critical,
}

impl Wave {
    /// All of them, in order.
    pub const ALL: [Wave; 2] = [Wave::Regular, Wave::Critical];

    /// The wave that the pod ends in.
    pub fn of(pod: &Pod) -> Self {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
        if priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY) {
            Wave::Critical
        } else {
            Wave::Regular
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn critical_pods_end_last() {
        // statefulset.md 12.17
        let of = |priority: Option<i32>| {
            let spec = serde_json::json!({"containers": [], "priority": priority});
            let pod = serde_json::json!({"spec": spec});
            Wave::of(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(of(None), Wave::Regular);
        assert_eq!(of(Some(1_000_000_000)), Wave::Regular);
        assert_eq!(of(Some(2_000_000_000)), Wave::Critical);
        assert!(Wave::ALL.is_sorted());
    }
}
