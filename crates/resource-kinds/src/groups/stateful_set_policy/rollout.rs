//! The rules for rollouts: their order (rollouts.md R1 to R4), and the answer to one that fails (R11 to R16).

use serde::{Deserialize, Serialize};

use super::steps::UpdateStep;

/// `spec.rollout` of a StatefulSetPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutRules {
    /// Maximum time of a new pod until it is Ready, in seconds.
    #[serde(default = "progress_deadline_seconds")]
    pub progress_deadline_seconds: u32,
    /// Maximum number of restarts of a container of a new pod.
    #[serde(default = "max_restarts")]
    pub max_restarts: i32,
    #[serde(default)]
    pub on_failure: OnFailure,
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// The keys of the order in which pods are replaced; the ordinal decides last.
    #[serde(default)]
    pub order: Vec<OrderKey>,
    /// The parts of the pods that get the update one after the other; the last step has all pods.
    #[serde(default)]
    pub steps: Vec<UpdateStep>,
}

/// A key of the order in which pods are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OrderKey {
    /// Pods of the roles in `last` come when no other pod is outdated.
    Role { last: Vec<String> },
    /// All pods of one zone come before any of the next.
    Zone {},
    /// These ordinals come first, in this order.
    Ordinals(Vec<i64>),
}

/// `spec.roles` of a StatefulSetPolicy: the source of the roles of pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleSource {
    /// The key of the label that has the role of a pod.
    pub from_label: String,
    /// The role of a pod without the label; `None` if it is unknown then.
    #[serde(default)]
    pub default: Option<String>,
}

impl RoleSource {
    /// The role of a pod with this value of the label.
    pub fn role<'r>(&'r self, label: Option<&'r str>) -> Option<&'r str> {
        label.or(self.default.as_deref())
    }
}

fn progress_deadline_seconds() -> u32 {
    600
}

fn max_restarts() -> i32 {
    5
}

/// The answer to a rollout that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum OnFailure {
    /// No further pod gets the revision.
    #[default]
    Hold,
    /// The pods return to the revision before the rollout.
    Rollback,
}

/// The way in which pods get another revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum RolloutStrategy {
    /// As `spec.updateStrategy` of the set says.
    #[default]
    RollingUpdate,
    /// All pods end before the first new one starts (KEP-3541).
    Recreate,
}

/// The evidence against a revision, as the annotation of its ControllerRevision has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The time of the verdict, RFC 3339.
    pub at: String,
    /// The name and the UID of the pod that failed.
    pub pod: String,
    pub uid: String,
    /// A word such as `ImagePullFailed`.
    pub reason: String,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// rollouts.md R1: the three keys of an order.
    #[test]
    fn an_order_has_keys_of_three_kinds() {
        let order = json!([{"zone": {}}, {"role": {"last": ["leader"]}}, {"ordinals": [3, 0]}]);
        let rules: RolloutRules = json_tree::from_value(json!({"order": order})).unwrap();
        let last = vec!["leader".to_owned()];
        let expected = [
            OrderKey::Zone {},
            OrderKey::Role { last },
            OrderKey::Ordinals(vec![3, 0]),
        ];
        assert_eq!(rules.order, expected);
    }

    /// rollouts.md R3: a pod without the label has the default role, or none.
    #[test]
    fn the_role_of_a_pod_is_its_label() {
        let mut source = RoleSource {
            from_label: "role".to_owned(),
            default: None,
        };
        assert_eq!(source.role(Some("leader")), Some("leader"));
        assert_eq!(source.role(None), None);
        source.default = Some("replica".to_owned());
        assert_eq!(source.role(None), Some("replica"));
    }

    #[test]
    fn fields_have_defaults() {
        let decode = |value| json_tree::from_value::<RolloutRules>(value).unwrap();
        let plain = decode(json!({}));
        assert_eq!(plain.progress_deadline_seconds, 600);
        assert_eq!((plain.max_restarts, plain.on_failure), (5, OnFailure::Hold));
        assert_eq!(plain.strategy, RolloutStrategy::RollingUpdate);
        assert_eq!(plain.order, []);
        let back = decode(json!({"onFailure": "Rollback", "maxRestarts": 0}));
        assert_eq!(
            (back.max_restarts, back.on_failure),
            (0, OnFailure::Rollback)
        );
    }
}
