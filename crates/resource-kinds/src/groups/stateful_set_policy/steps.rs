//! The steps of a rollout, their pauses and approvals (rollouts.md R6 to R8, R10).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::IntOrPercent;
use serde::{Deserialize, Serialize};

/// A step of `spec.rollout.steps`: so many pods get the update, and then the rollout pauses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStep {
    /// The number or the percentage of the pods that may be updated.
    pub pods: IntOrString,
    #[serde(default)]
    pause: Option<StepPause>,
}

impl UpdateStep {
    /// The pause, if there is one.
    pub fn pause(&self) -> Option<StepPause> {
        let pause = self.pause;
        pause.filter(|pause| *pause != StepPause::UntilApproved(false))
    }

    /// The number of pods that have the update after this step, of so many that may be updated: at least one.
    pub fn limit(&self, updatable: i64) -> i64 {
        let part = json_tree::to_value(&self.pods).ok();
        let part = part.and_then(|value| IntOrPercent::from_json(&value));
        let all = i32::try_from(updatable.max(0)).unwrap_or(i32::MAX);
        part.map_or(updatable, |part| i64::from(part.of(all, true)))
            .clamp(1, updatable.max(1))
    }
}

/// The pause after the pods of a step are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepPause {
    Seconds(u32),
    /// Until somebody approves the step; `false` is no pause.
    UntilApproved(bool),
}

/// The progress of a rollout, as the annotation [`ROLLOUT_STEP`](crate::annotations::ROLLOUT_STEP) of the
/// ControllerRevision has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// The number of the revision. A template that returns gets a new number, and its steps begin again.
    pub revision: i64,
    /// The number of steps that have passed.
    #[serde(default)]
    pub passed: usize,
    /// The time from which the pods of the next step have been available: its pause has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Timestamp>,
}

impl StepRecord {
    /// The record in an annotation of a revision of this number; empty if there is none of this rollout.
    pub fn of(text: Option<&str>, revision: i64) -> Self {
        let record = text.and_then(|text| serde_json::from_str::<Self>(text).ok());
        let own = record.filter(|record| record.revision == revision);
        own.unwrap_or(Self {
            revision,
            ..Self::default()
        })
    }

    /// The text of the annotation.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The approval of the next step: the number of the revision and that of the step, from 1.
    pub fn approval(&self) -> String {
        format!("{}/{}", self.revision, self.passed + 1)
    }

    /// Whether the annotation [`APPROVED_STEP`](crate::annotations::APPROVED_STEP) approves the next step. An approval is for one
    /// step of one rollout.
    pub fn is_approved_by(&self, annotation: Option<&str>) -> bool {
        annotation == Some(self.approval().as_str())
    }

    /// The end of a pause; `None` before it has begun, and of one that somebody ends.
    pub fn pause_ends(&self, pause: StepPause) -> Option<Timestamp> {
        let StepPause::Seconds(seconds) = pause else {
            return None;
        };
        let pause = SignedDuration::from_secs(i64::from(seconds));
        Some(self.reached?.checked_add(pause).unwrap_or(Timestamp::MAX))
    }

    /// The record after the next step.
    pub fn next(&self) -> Self {
        Self {
            passed: self.passed + 1,
            reached: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn step(value: json_tree::Value) -> UpdateStep {
        json_tree::from_value(value).unwrap()
    }

    /// rollouts.md R6: a step is a number or a percentage, rounded up, of at least one pod.
    #[test]
    fn a_step_has_a_part_of_the_pods() {
        let limit = |pods, updatable| step(json!({ "pods": pods })).limit(updatable);
        assert_eq!(limit(json!(1), 5), 1);
        assert_eq!(limit(json!(9), 5), 5);
        assert_eq!(limit(json!("50%"), 5), 3);
        assert_eq!(limit(json!("100%"), 5), 5);
        assert_eq!(limit(json!("0%"), 5), 1);
        assert_eq!(limit(json!(1), 0), 1);
        let pause = |value| step(json!({ "pods": 1, "pause": value })).pause();
        assert_eq!(pause(json!({"seconds": 5})), Some(StepPause::Seconds(5)));
        let approved = Some(StepPause::UntilApproved(true));
        assert_eq!(pause(json!({"untilApproved": true})), approved);
        assert_eq!(pause(json!({"untilApproved": false})), None);
    }

    /// rollouts.md R7: an approval is for one step of one rollout.
    #[test]
    fn an_approval_is_for_one_step() {
        let record = StepRecord::of(None, 7);
        assert_eq!(record.approval(), "7/1");
        assert!(record.is_approved_by(Some("7/1")));
        for other in [None, Some(""), Some("6/1"), Some("7/2"), Some("7/10")] {
            assert!(!record.is_approved_by(other), "{other:?}");
        }
        let next = record.next();
        assert_eq!(next.approval(), "7/2");
        assert_eq!(StepRecord::of(Some(&next.text()), 7), next);
        // The template has returned: the steps begin again.
        assert_eq!(
            StepRecord::of(Some(&next.text()), 9),
            StepRecord::of(None, 9)
        );
        assert_eq!(StepRecord::of(Some("{"), 7), record);
    }
}
