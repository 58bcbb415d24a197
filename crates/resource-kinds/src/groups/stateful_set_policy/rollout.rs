//! The rules for a rollout that fails (rollouts.md R11 to R16).

use serde::{Deserialize, Serialize};

/// `spec.rollout` of a StatefulSetPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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

    #[test]
    fn fields_have_defaults() {
        let decode = |value| json_tree::from_value::<RolloutRules>(value).unwrap();
        let plain = decode(json!({}));
        assert_eq!(plain.progress_deadline_seconds, 600);
        assert_eq!((plain.max_restarts, plain.on_failure), (5, OnFailure::Hold));
        assert_eq!(plain.strategy, RolloutStrategy::RollingUpdate);
        let back = decode(json!({"onFailure": "Rollback", "maxRestarts": 0}));
        assert_eq!(
            (back.max_restarts, back.on_failure),
            (0, OnFailure::Rollback)
        );
    }
}
