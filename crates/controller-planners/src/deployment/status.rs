//! The status: counters, and the progress of the rollout.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSetCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::{ParsedDeployment, Set};
use super::plan::stored;
use super::sets::Sets;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The cause of the `Progressing` condition in this plan.
pub(super) enum Progress {
    /// No rollout is in progress: the condition is not changed.
    Leave,
    /// The counts of pods decide.
    Judge,
    /// The ReplicaSet of this name was just created.
    Created(String),
}

/// The new status, and the time of the next check.
pub(super) fn next(
    parsed: &ParsedDeployment<'_>,
    sets: &Sets<'_>,
    collisions: Option<i32>,
    progress: &Progress,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = count(parsed, sets, collisions);
    let mut conditions = Conditions {
        parsed,
        all: status.conditions.take().unwrap_or_default(),
    };
    conditions.pause();
    let available = status.available_replicas.unwrap_or_default();
    conditions.availability(available >= parsed.replicas - parsed.unavailable);
    if parsed.deadline.is_none() {
        conditions.remove(PROGRESSING);
    } else {
        match progress {
            Progress::Leave => {}
            Progress::Created(name) => {
                let text = format!("Created new replica set \"{name}\"");
                conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", text);
            }
            Progress::Judge => conditions.judge(sets, &status),
        }
    }
    conditions.failures(sets);
    let wake = match progress {
        Progress::Leave => None,
        _ => conditions.deadline_in(&status),
    };
    let all = conditions.all;
    status.conditions = (!all.is_empty()).then_some(all);
    (status, wake)
}

fn sum<'a>(sets: &Sets<'a>, of: impl Fn(&Set<'a>) -> i32) -> i32 {
    sets.all().map(of).fold(0, i32::saturating_add)
}

fn count(
    parsed: &ParsedDeployment<'_>,
    sets: &Sets<'_>,
    collisions: Option<i32>,
) -> DeploymentStatus {
    let before = stored(parsed).cloned().unwrap_or_default();
    let available = sum(sets, Set::available);
    let unavailable = (sum(sets, |set| set.target) - available).max(0);
    let some = |number: i32| (number != 0).then_some(number);
    let terminating = sets.all().map(|set| {
        let status = set.set.status.as_ref();
        status.and_then(|status| status.terminating_replicas)
    });
    DeploymentStatus {
        replicas: some(sum(sets, Set::actual)),
        updated_replicas: some(sets.new.as_ref().map_or(0, Set::actual)),
        ready_replicas: some(sum(sets, Set::ready)),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        terminating_replicas: Some(terminating.flatten().fold(0, i32::saturating_add)),
        observed_generation: parsed
            .deployment
            .metadata
            .generation
            .max(before.observed_generation),
        collision_count: collisions.max(before.collision_count),
        conditions: before.conditions,
    }
}

/// Whether all pods exist and have the current template, and no other pods exist.
pub(super) fn is_complete(parsed: &ParsedDeployment<'_>, status: &DeploymentStatus) -> bool {
    let all = |count: Option<i32>| count.unwrap_or_default() == parsed.replicas;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation >= parsed.deployment.metadata.generation
}

struct Conditions<'w, 'a> {
    parsed: &'w ParsedDeployment<'a>,
    all: Vec<DeploymentCondition>,
}

impl Conditions<'_, '_> {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.all.iter().find(|condition| condition.type_ == kind)
    }

    fn remove(&mut self, kind: &str) {
        self.all.retain(|condition| condition.type_ != kind);
    }

    fn progress_reason(&self) -> Option<&str> {
        self.get(PROGRESSING)?.reason.as_deref()
    }

    /// Sets a condition, unless an equal condition is stored.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let same = self.get(kind).is_some_and(|current| {
            current.status == status && current.reason.as_deref() == Some(reason)
        });
        if !same {
            self.renew(kind, status, reason, message);
        }
    }

    /// Sets a condition with the present time. Its transition time changes only with its status.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let now = Time(self.parsed.now);
        let before = self.get(kind).filter(|current| current.status == status);
        let since = before.and_then(|current| current.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(since.unwrap_or(now)),
        };
        self.remove(kind);
        self.all.push(condition);
    }

    fn pause(&mut self) {
        if self.parsed.deadline.is_none() || self.progress_reason() == Some(TIMED_OUT) {
            return;
        }
        let noted = self.progress_reason() == Some(PAUSED);
        if self.parsed.paused && !noted {
            let text = "Deployment is paused".to_owned();
            self.set(PROGRESSING, "Unknown", PAUSED, text);
        } else if !self.parsed.paused && noted {
            let text = "Deployment is resumed".to_owned();
            self.set(PROGRESSING, "Unknown", "DeploymentResumed", text);
        }
    }

    fn availability(&mut self, enough: bool) {
        let (status, reason, text) = if enough {
            ("True", "MinimumReplicasAvailable", "has")
        } else {
            ("False", "MinimumReplicasUnavailable", "does not have")
        };
        let text = format!("Deployment {text} minimum availability.");
        self.set(AVAILABLE, status, reason, text);
    }

    fn judge(&mut self, sets: &Sets<'_>, status: &DeploymentStatus) {
        let name = match &sets.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.name),
            None => format!("Deployment \"{}\"", self.parsed.owner.name),
        };
        if let (None, Some(new)) = (self.get(PROGRESSING), &sets.new) {
            let text = format!("Found new replica set \"{}\"", new.name);
            self.set(PROGRESSING, "True", "FoundNewReplicaSet", text);
        }
        // A complete rollout stays complete until the template changes, even if pods fail.
        let was_complete = status.replicas == status.updated_replicas
            && self.progress_reason() == Some(NEW_SET_AVAILABLE);
        if was_complete {
            return;
        }
        if is_complete(self.parsed, status) {
            let text = format!("{name} has successfully progressed.");
            self.set(PROGRESSING, "True", NEW_SET_AVAILABLE, text);
        } else if self.gets_on(status) {
            let text = format!("{name} is progressing.");
            self.renew(PROGRESSING, "True", "ReplicaSetUpdated", text);
        } else if self.timed_out() {
            let text = format!("{name} has timed out progressing.");
            self.set(PROGRESSING, "False", TIMED_OUT, text);
        }
    }

    /// Whether there are more new or fewer old pods than in the stored status.
    fn gets_on(&self, status: &DeploymentStatus) -> bool {
        let before = stored(self.parsed).cloned().unwrap_or_default();
        let number = |count: Option<i32>| count.unwrap_or_default();
        let old = |status: &DeploymentStatus| {
            number(status.replicas).saturating_sub(number(status.updated_replicas))
        };
        number(status.updated_replicas) > number(before.updated_replicas)
            || old(status) < old(&before)
            || number(status.ready_replicas) > number(before.ready_replicas)
            || number(status.available_replicas) > number(before.available_replicas)
    }

    fn timed_out(&self) -> bool {
        match self.progress_reason() {
            None | Some(NEW_SET_AVAILABLE) => false,
            Some(TIMED_OUT) => true,
            Some(_) => self.seconds_left().is_some_and(|seconds| seconds < 0),
        }
    }

    /// The seconds until the progress deadline, counted from the last progress.
    fn seconds_left(&self) -> Option<i64> {
        let since = self.get(PROGRESSING)?.last_update_time.as_ref()?;
        let until = since.0.checked_add(self.parsed.deadline?).ok()?;
        Some(until.as_second() - self.parsed.now.as_second())
    }

    /// The time until the progress deadline.
    fn deadline_in(&self, status: &DeploymentStatus) -> Option<Duration> {
        let judged = matches!(
            self.progress_reason(),
            None | Some(NEW_SET_AVAILABLE | TIMED_OUT | PAUSED)
        );
        if judged || is_complete(self.parsed, status) {
            return None;
        }
        let seconds = self.seconds_left()?.max(0);
        let seconds = u64::try_from(seconds).unwrap_or_default();
        Some(Duration::from_secs(seconds.saturating_add(1)))
    }

    /// The condition `ReplicaFailure` of the new ReplicaSet, or of an old ReplicaSet.
    fn failures(&mut self, sets: &Sets<'_>) {
        let failure = |set: &Set<'_>| -> Option<ReplicaSetCondition> {
            let conditions = set.set.status.as_ref()?.conditions.as_ref()?;
            let mut failures = conditions.iter().filter(|c| c.type_ == REPLICA_FAILURE);
            failures.next().cloned()
        };
        let condition = sets.new.iter().chain(&sets.old).find_map(failure);
        match condition {
            None => self.remove(REPLICA_FAILURE),
            Some(failure) => {
                let reason = failure.reason.unwrap_or_default();
                let message = failure.message.unwrap_or_default();
                self.set(REPLICA_FAILURE, &failure.status, &reason, message);
            }
        }
    }
}
