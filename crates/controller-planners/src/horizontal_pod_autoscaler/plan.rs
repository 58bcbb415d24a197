//! The plan for an autoscaler.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition as Condition,
    HorizontalPodAutoscalerStatus as Status, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use object_model::LabelSelector;

use super::bounds::{self, DesiredReplicas};
use super::demand;
use super::memory::Memory;
use super::observed::{Observed, Scale};
use super::status::{ABLE_TO_SCALE, SCALING_ACTIVE, SCALING_LIMITED, set_condition};

/// An event for the HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalerEvent {
    /// Whether its type is `Warning` (otherwise `Normal`).
    pub warning: bool,
    /// Reason of the event, for instance `SuccessfulRescale`.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
}

/// A new size for the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescale {
    /// The current number of replicas.
    pub from: i32,
    /// The new number of replicas.
    pub to: i32,
    /// The reason of the new size, for the message of the event.
    pub reason: String,
}

/// The plan: first rescale the target, if planned, then call [`conclude`](Plan::conclude).
#[derive(Clone, Debug)]
pub struct AutoscalerPlan {
    /// The new number of replicas, if it changes.
    pub rescale: Option<Rescale>,
    draft: Draft,
}

/// The writes and the memory after the rescale.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoscalerResult {
    /// The new status, if it differs from the stored one.
    pub status: Option<Status>,
    /// Events to report, in order.
    pub notices: Vec<AutoscalerEvent>,
    /// The memory for the next decision.
    pub memory: Memory,
}

#[derive(Clone, Debug)]
struct Draft {
    autoscaler: Arc<HorizontalPodAutoscaler>,
    conditions: Vec<Condition>,
    notices: Vec<AutoscalerEvent>,
    memory: Memory,
    /// The numbers of the status; `None` as long as the scale is unknown.
    counts: Option<Counts>,
    now: Timestamp,
}

#[derive(Clone, Debug)]
struct Counts {
    current: i32,
    desired: i32,
    metrics: Option<Vec<MetricStatus>>,
}

/// Plans the number of replicas of an autoscaler's target. Total.
pub fn plan(observed: &Observed, memory: &Memory, now: Timestamp) -> AutoscalerPlan {
    let autoscaler = &observed.autoscaler;
    let stored = autoscaler.status.as_ref();
    let mut draft = Draft {
        autoscaler: autoscaler.clone(),
        conditions: stored
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default(),
        notices: Vec::new(),
        memory: memory.clone(),
        counts: None,
        now,
    };
    let scale = match &observed.scale {
        Ok(scale) => scale,
        Err(error) => {
            draft.warn("FailedGetScale", error.clone());
            let text =
                format!("the HPA controller was unable to get the target's current scale: {error}");
            draft.say(ABLE_TO_SCALE, false, "FailedGetScale", text);
            return draft.without_rescale();
        }
    };
    draft.say(
        ABLE_TO_SCALE,
        true,
        "SucceededGetScale",
        "the HPA controller was able to get the target's current scale",
    );
    draft.memory.begin(scale.replicas, now);
    draft.with_scale(observed, scale)
}

impl Draft {
    fn with_scale(mut self, observed: &Observed, scale: &Scale) -> AutoscalerPlan {
        let spec = &observed.autoscaler.spec;
        let current = scale.replicas;
        let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        self.count(current, current, None);
        if current == 0 && least != 0 {
            self.say(
                SCALING_ACTIVE,
                false,
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            return self.without_rescale();
        }
        if current > most {
            let reason = "Current number of replicas above Spec.MaxReplicas";
            return self.to(current, most, reason.to_owned());
        }
        if current < least {
            let reason = "Current number of replicas below Spec.MinReplicas";
            return self.to(current, least, reason.to_owned());
        }
        self.by_metrics(observed, scale, least, most)
    }

    fn by_metrics(
        mut self,
        observed: &Observed,
        scale: &Scale,
        least: i32,
        most: i32,
    ) -> AutoscalerPlan {
        let current = scale.replicas;
        let desired = observed.autoscaler.status.as_ref();
        let desired = desired.map_or(0, |status| status.desired_replicas);
        if let Err(problem) = self.check_selector(observed, &scale.selector) {
            self.count(current, desired, None);
            self.warn("FailedComputeMetricsReplicas", problem);
            return self.without_rescale();
        }
        let outcome = demand::of_all(observed, current, self.now);
        for failure in &outcome.failures {
            self.warn(failure.reason, failure.error.clone());
        }
        let demand = match outcome.demand {
            Ok(demand) => demand,
            Err(problem) => {
                if let Some(first) = outcome.failures.first() {
                    let error = &first.error;
                    let text = format!("the HPA was unable to compute the replica count: {error}");
                    self.say(SCALING_ACTIVE, false, first.reason, text);
                }
                self.count(current, desired, Some(outcome.statuses));
                self.warn("FailedComputeMetricsReplicas", problem);
                return self.without_rescale();
            }
        };
        let metric = &demand.metric;
        self.say(
            SCALING_ACTIVE,
            true,
            "ValidMetricFound",
            format!("the HPA was able to successfully calculate a replica count from {metric}"),
        );
        let wish = DesiredReplicas {
            current,
            demand: demand.replicas,
            least,
            most,
        };
        let behavior = observed.autoscaler.spec.behavior.as_ref();
        let bounded = bounds::bound(&wish, behavior, &mut self.memory, self.now);
        let (reason, message) = bounded.able;
        self.say(ABLE_TO_SCALE, true, reason, message);
        let (reason, message) = bounded.limit;
        self.say(SCALING_LIMITED, bounded.limited, reason, message);
        self.count(current, bounded.replicas, Some(outcome.statuses));
        if bounded.replicas == current {
            return self.without_rescale();
        }
        let reason = match demand.replicas {
            replicas if replicas > current => format!("{metric} above target"),
            replicas if replicas < current => "All metrics below target".to_owned(),
            _ => String::new(),
        };
        self.to(current, bounded.replicas, reason)
    }

    fn check_selector(&mut self, observed: &Observed, selector: &str) -> Result<(), String> {
        if selector.is_empty() {
            let problem = "selector is required".to_owned();
            self.warn("SelectorRequired", problem.clone());
            let text = "the HPA target's scale is missing a selector";
            self.say(SCALING_ACTIVE, false, "InvalidSelector", text);
            return Err(problem);
        }
        if let Err(error) = LabelSelector::parse(selector) {
            let problem = format!(
                "couldn't convert selector into a corresponding internal selector object: {error}"
            );
            self.warn("InvalidSelector", problem.clone());
            self.say(SCALING_ACTIVE, false, "InvalidSelector", problem.clone());
            return Err(problem);
        }
        if observed.selecting.len() > 1 {
            let all = observed.selecting.join(" ");
            let problem =
                format!("pods by selector {selector} are controlled by multiple HPAs: [{all}]");
            self.warn("AmbiguousSelector", problem.clone());
            self.say(SCALING_ACTIVE, false, "AmbiguousSelector", problem.clone());
            return Err(problem);
        }
        Ok(())
    }

    fn say(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let now = self.now;
        set_condition(&mut self.conditions, kind, holds, reason, message, now);
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.notices.push(AutoscalerEvent {
            warning: true,
            reason,
            message,
        });
    }

    fn count(&mut self, current: i32, desired: i32, metrics: Option<Vec<MetricStatus>>) {
        self.counts = Some(Counts {
            current,
            desired,
            metrics,
        });
    }

    fn without_rescale(self) -> AutoscalerPlan {
        AutoscalerPlan {
            rescale: None,
            draft: self,
        }
    }

    fn to(mut self, from: i32, to: i32, reason: String) -> AutoscalerPlan {
        if let Some(counts) = &mut self.counts {
            counts.desired = to;
        }
        AutoscalerPlan {
            rescale: Some(Rescale { from, to, reason }),
            draft: self,
        }
    }
}

impl AutoscalerPlan {
    /// The conclusion after the rescale succeeded, failed with the given message, or was not
    /// planned.
    pub fn conclude(self, outcome: Result<(), String>) -> AutoscalerResult {
        let Self { rescale, mut draft } = self;
        let stored = draft.autoscaler.status.clone().unwrap_or_default();
        let mut scaled_at = stored.last_scale_time.clone();
        match (&rescale, &outcome) {
            (Some(Rescale { from, to, reason }), Ok(())) => {
                draft.notices.push(AutoscalerEvent {
                    warning: false,
                    reason: "SuccessfulRescale",
                    message: format!("New size: {to}; reason: {reason}"),
                });
                let text =
                    format!("the HPA controller was able to update the target scale to {to}");
                draft.say(ABLE_TO_SCALE, true, "SucceededRescale", text);
                if let Some(behavior) = &draft.autoscaler.spec.behavior {
                    let window = bounds::longest_period(behavior);
                    let by = to.saturating_sub(*from);
                    draft.memory.change(by, window, draft.now);
                }
                let seconds = Timestamp::from_second(draft.now.as_second());
                scaled_at = Some(Time(seconds.unwrap_or(draft.now)));
            }
            (Some(Rescale { to, reason, .. }), Err(error)) => {
                let message = format!("New size: {to}; reason: {reason}; error: {error}");
                draft.warn("FailedRescale", message);
                let text =
                    format!("the HPA controller was unable to update the target scale: {error}");
                draft.say(ABLE_TO_SCALE, false, "FailedUpdateScale", text);
                if let Some(counts) = &mut draft.counts {
                    counts.desired = stored.desired_replicas;
                }
            }
            (None, _) => {}
        }
        let conditions = Some(draft.conditions);
        let status = match draft.counts {
            Some(counts) => Status {
                conditions,
                current_metrics: counts.metrics,
                current_replicas: Some(counts.current),
                desired_replicas: counts.desired,
                last_scale_time: scaled_at,
                observed_generation: draft.autoscaler.metadata.generation,
            },
            None => Status {
                conditions,
                ..stored.clone()
            },
        };
        AutoscalerResult {
            status: (status != stored).then_some(status),
            notices: draft.notices,
            memory: draft.memory,
        }
    }
}
