//! The status of a scaler.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition as Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether the controller can read and write the target's scale.
pub(super) const ABLE_TO_SCALE: &str = "AbleToScale";
/// Whether a number of replicas can be said.
pub(super) const SCALING_ACTIVE: &str = "ScalingActive";
/// Whether something keeps the number from what the metrics ask for.
pub(super) const SCALING_LIMITED: &str = "ScalingLimited";

/// Says something anew; the time is that of the last change of the status.
pub(super) fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let found = conditions.iter().position(|known| known.type_ == kind);
    let index = found.unwrap_or_else(|| {
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
        // A status keeps whole seconds.
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        condition.last_transition_time = Some(Time(seconds));
    }
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.into());
}
