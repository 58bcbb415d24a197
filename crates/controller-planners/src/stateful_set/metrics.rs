//! The metrics of a set for dashboards (`statefulset.md` 3.47).

use k8s_openapi::api::apps::v1::StatefulSet;

use object_model::IncompleteMetadata;

use super::observed::{Spec, Strategy};

/// The numbers of a set that is updated automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Pods that a rolling update may make unavailable.
    pub max_unavailable: i64,
    /// Desired pods that are not available.
    pub unavailable: i64,
    /// `spec.podManagementPolicy`: `OrderedReady` or `Parallel`.
    pub pod_management_policy: &'static str,
}

/// The metrics of a set; `None` with the strategy `OnDelete`.
pub fn metrics(set: &StatefulSet) -> Result<Option<Metrics>, IncompleteMetadata> {
    let spec = Spec::of(set)?;
    if spec.strategy == Strategy::OnDelete {
        return Ok(None);
    }
    let status = set.status.as_ref();
    let available = status.and_then(|status| status.available_replicas);
    Ok(Some(Metrics {
        max_unavailable: spec.budget().unwrap_or(1),
        unavailable: (spec.replicas - i64::from(available.unwrap_or_default())).max(0),
        pod_management_policy: if spec.ordered {
            "OrderedReady"
        } else {
            "Parallel"
        },
    }))
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn of(strategy: Value, policy: &str, available: i32) -> Option<Metrics> {
        let set = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"replicas": 4, "podManagementPolicy": policy, "updateStrategy": strategy},
            "status": {"replicas": 4, "availableReplicas": available},
        });
        metrics(&json_tree::from_value(set).unwrap()).unwrap()
    }

    /// statefulset.md 3.47: the metrics contain the allowed and the actual number of unavailable pods.
    #[test]
    fn a_set_says_what_may_be_and_what_is_unavailable() {
        let metrics = |max_unavailable, unavailable, pod_management_policy| {
            Some(Metrics {
                max_unavailable,
                unavailable,
                pod_management_policy,
            })
        };
        let half = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}});
        assert_eq!(of(half, "Parallel", 1), metrics(2, 3, "Parallel"));
        assert_eq!(
            of(json!({}), "OrderedReady", 4),
            metrics(1, 0, "OrderedReady")
        );
        assert_eq!(
            of(json!({}), "OrderedReady", 6),
            metrics(1, 0, "OrderedReady")
        );
        assert_eq!(of(json!({"type": "OnDelete"}), "OrderedReady", 0), None);
    }
}
