//! The status of an autoscaler.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition as Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether the controller can read and write the target's scale.
pub(super) const ABLE_TO_SCALE: &str = "AbleToScale";
/// Whether the metrics give a number of replicas.
pub(super) const SCALING_ACTIVE: &str = "ScalingActive";
/// Whether bounds or rates keep the number from the metrics' demand.
pub(super) const SCALING_LIMITED: &str = "ScalingLimited";

/// Sets a condition; its transition time changes only with its status.
pub(super) fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let position = conditions.iter().position(|stored| stored.type_ == kind);
    let index = position.unwrap_or_else(|| {
        conditions.push(Condition {
            type_: kind.to_owned(),
            ..Condition::default()
        });
        conditions.len() - 1
    });
    let Some(condition) = conditions.get_mut(index) else {
        return;
    };
    if condition.status != status {
        // A status has whole seconds.
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        condition.last_transition_time = Some(Time(seconds));
    }
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.into());
}
