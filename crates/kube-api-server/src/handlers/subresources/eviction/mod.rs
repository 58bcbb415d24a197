//! `eviction`: deletes a pod if its PodDisruptionBudget (kubectl.md 6.3) and the guard of its set allow the deletion.
//!
//! The numbers of the budget come from the last write of the disruption controller. An eviction checks and decrements
//! `disruptionsAllowed` in one write, so that two evictions never use one allowed disruption.

mod guard;
mod hooks;
mod set;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{Cause, LabelSelector, Status, StatusDetails, StatusReason};
use resource_kinds::annotations::{HOOK, PURPOSE};
use resource_kinds::mainstay_annotations;
use resource_kinds::stateful_set_policy::{EVICTION_WITHIN, Purpose};

use self::guard::Guarding;
use self::hooks::HookGate;
use self::set::GovernedSet;
use super::created;
use crate::access::authorize;
use crate::admission::dynamic_admission;
use crate::catalog::registry::Resource;
use crate::handlers::verbs::delete::{DeleteOptions, delete};
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::limits::{DISRUPTED_PODS_MAX, WRITE_ATTEMPTS_MAX};
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::request_info::RequestInfo;
use crate::http::work;
use crate::objects::metadata;
use crate::objects::storage::{self, reading};
use crate::objects::write_request::{ObjectPart, WriteOptions, WriteRequest};
use crate::objects::write_turn::WriteTurn;

const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";

/// Responds to a POST of an Eviction.
pub(super) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let mut write = WriteOptions::parse(&call.query, "CreateOptions")?;
    let bytes = body::read(body, &call.limits).await?;
    let mut eviction = decode::part(&call.parts.headers, &bytes, "Eviction")?.value;
    let name = &call.info.name;
    write.dry_run |= options(&eviction, name)?.1;
    let request = WriteRequest::of(call, resource, write);
    dynamic_admission::admit_part(writer.admission, &request, &mut eviction).await?;
    let eviction = decode::typed("Eviction", eviction)?;
    let (options, _) = options(&eviction, name)?;
    let purpose = purpose(&eviction, name)?;
    if purpose.is_some() {
        authorize_deletion(writer, call)?;
    }
    let request = WriteRequest {
        subresource: "",
        is_reviewed: true,
        ..request
    };
    evict(writer, &request, options, purpose).await?;
    created(call)
}

/// The purpose that the controller of a set gives; `None` for an eviction of a user.
///
/// *Errors.* 422 for an unknown purpose.
fn purpose(eviction: &Value, name: &str) -> Result<Option<Purpose>, Status> {
    let errors = mainstay_annotations::validate("Eviction", eviction, None);
    if !errors.is_empty() {
        return Err(Status::invalid(GROUP, "Eviction", name, &errors));
    }
    let text = eviction["metadata"]["annotations"][PURPOSE].as_str();
    Ok(text.and_then(Purpose::of))
}

/// Checks that the user may delete the pod: budgets do not hold an eviction with a purpose, just as they do not hold a
/// deletion, unless the guard of the set has `budgets`.
///
/// *Errors.* 403.
fn authorize_deletion(writer: Writer<'_>, call: &Call) -> Result<(), Status> {
    let info = RequestInfo {
        subresource: String::new(),
        ..call.info.with_verb("delete")
    };
    authorize::authorize(&writer.access.authorizer, &call.user, &info)
}

fn options(eviction: &Value, name: &str) -> Result<(DeleteOptions, bool), Status> {
    let requested_name = metadata::text(eviction, "name");
    if !requested_name.is_empty() && requested_name != name {
        let text = "name in URL does not match name in Eviction object";
        return Err(Status::bad_request(text));
    }
    DeleteOptions::of_value(&eviction["deleteOptions"], &Query::default())
}

/// Deletes the pod if the guard of its set and its budget allow the deletion.
///
/// *Errors.* 429 if the guard or the budget does not allow the deletion, and the errors of a deletion.
async fn evict(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    mut options: DeleteOptions,
    purpose: Option<Purpose>,
) -> Result<(), Status> {
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let stored = writer
            .objects
            .must_read(request.resource, request.namespace, request.name)
            .await?;
        let pod = storage::decode(request.resource, &stored)?;
        options.check(request.resource, &pod)?;
        let mut guard = None;
        if !is_over(&pod) {
            // The budget is not charged for a pod that the guard holds.
            let namespace = request.namespace;
            let (set, guarding) = reading(writer.objects, |reads| {
                let set = GovernedSet::of(reads, namespace, &pod)?;
                let now = Timestamp::now();
                let guarding = guard::check(reads, None, namespace, set.as_ref(), &pod, now)?;
                Ok((set, guarding))
            })?;
            let budgets_hold = guarding == Guarding::Guarded { has_budgets: true };
            let budget = match purpose.is_none() || budgets_hold {
                true => budget_of(writer, request.namespace, &pod)?,
                false => None,
            };
            let charged = budget.as_ref().filter(|budget| !is_broken(&pod, budget));
            if purpose.is_none() {
                // The hooks do not begin while the budget holds the pod.
                if let Some(budget) = charged {
                    with_disruption(budget, request.name, Timestamp::now())?;
                }
                pass_hooks(writer, request, set.as_ref(), &pod).await?;
            }
            if let Some(budget) = charged {
                record_disruption(writer, request, budget).await?;
            } else if budget.is_some() {
                // The budget does not count the pod, as long as the pod is unchanged.
                guard = Some(metadata::text(&pod, "resourceVersion").to_owned());
            }
        }
        let requested = options.preconditions.clone();
        if let Some(version) = guard.clone() {
            let preconditions = options.preconditions.get_or_insert_default();
            preconditions.resource_version.get_or_insert(version);
        }
        let uid = metadata::text(&pod, "uid");
        let done = remove(writer, request, &options, purpose, uid).await;
        options.preconditions = requested;
        match done {
            Err(status) if status.reason == StatusReason::Conflict && guard.is_some() => {
                work::let_others_go_first().await;
            }
            done => return done,
        }
    }
    let text = "the pod kept changing while it was evicted; try again";
    Err(request.resource.conflict(request.name, text))
}

/// Checks that the hooks before an eviction are done; begins them if they have not begun.
///
/// *Errors.* 429 if they are not done.
async fn pass_hooks(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    set: Option<&GovernedSet>,
    pod: &Value,
) -> Result<(), Status> {
    let gate = hooks::gate(set, pod, Timestamp::now());
    let HookGate::Held { annotation, status } = gate else {
        return Ok(());
    };
    if let Some(text) = annotation.filter(|_| !request.dry_run) {
        let version = metadata::text(pod, "resourceVersion");
        let mut hold = |stored: &Value| {
            if metadata::text(stored, "resourceVersion") != version {
                let text = "the pod changed while it was evicted; try again";
                return Err(request.resource.conflict(request.name, text));
            }
            let mut pod = stored.clone();
            if !pod["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = json!({});
            }
            pod["metadata"]["annotations"][HOOK] = json!(text);
            Ok(pod)
        };
        match update(writer, request, ObjectPart::Trusted(&[]), &mut hold).await {
            // The next attempt of the client begins them.
            Err(conflict) if conflict.reason == StatusReason::Conflict => {}
            written => {
                written?;
            }
        }
    }
    Err(*status)
}

/// Sets the pod's `DisruptionTarget` condition, then deletes it. The condition announces the deletion: in its transaction
/// the guard of the pod's set decides finally, and counts the pod as unhealthy from then on.
async fn remove(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    options: &DeleteOptions,
    purpose: Option<Purpose>,
    uid: &str,
) -> Result<(), Status> {
    let mut options = options.clone();
    if !request.dry_run {
        let version = options
            .preconditions
            .as_ref()
            .and_then(|preconditions| preconditions.resource_version.clone());
        let turn = WriteTurn::of_evictions(request.namespace);
        let mut mark = |pod: &Value| {
            if metadata::text(pod, "uid") != uid {
                let text = "the pod was replaced while it was evicted";
                return Err(request.resource.conflict(request.name, text));
            }
            let now = Timestamp::now();
            let guarding = reading(writer.objects, |reads| {
                let set = GovernedSet::of(reads, request.namespace, pod)?;
                if purpose.is_none()
                    && let HookGate::Held { status, .. } = hooks::gate(set.as_ref(), pod, now)
                {
                    return Err(*status);
                }
                guard::check(
                    reads,
                    Some(&turn),
                    request.namespace,
                    set.as_ref(),
                    pod,
                    now,
                )
            })?;
            let is_guarded = guarding != Guarding::Unguarded;
            let mut marked = marked(pod, is_guarded, now);
            if let Some(version) = &version {
                metadata::of(&mut marked)
                    .insert("resourceVersion".to_owned(), version.clone().into());
            }
            Ok(marked)
        };
        let mark_request = WriteRequest {
            turn: Some(&turn),
            ..*request
        };
        let written = update(writer, &mark_request, ObjectPart::Trusted(&[]), &mut mark).await?;
        if version.is_some() {
            options
                .preconditions
                .get_or_insert_default()
                .resource_version = Some(written.stored.mod_revision.0.to_string());
        }
    }
    delete(writer, request, &options).await.map(|_| ())
}

/// The pod with the condition `DisruptionTarget`.
fn marked(pod: &Value, is_guarded: bool, now: Timestamp) -> Value {
    let mut pod = pod.clone();
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Value::Array(list) = conditions {
        // For a guard, the condition of an eviction that no deletion followed is set again, because its time counts.
        let is_recent = |condition: &Value| {
            let since = condition["lastTransitionTime"].as_str();
            let since = since.and_then(|text| text.parse::<Timestamp>().ok());
            !is_guarded
                || since.is_some_and(|since| now.duration_since(since) < EVICTION_WITHIN / 2)
        };
        let there = list
            .iter()
            .any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True" && is_recent(c));
        if !there {
            list.retain(|condition| condition["type"] != "DisruptionTarget");
            list.push(json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastTransitionTime": metadata::time(now),
            }));
        }
    }
    pod
}

/// Whether the eviction needs no budget: the pod has finished, has not started, or is being deleted.
fn is_over(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || metadata::is_deleting(pod)
}

/// The budget that selects the pod; `None` if no budget selects the pod.
///
/// *Errors.* 500 if several budgets select the pod (as upstream).
fn budget_of(writer: Writer<'_>, namespace: &str, pod: &Value) -> Result<Option<Value>, Status> {
    let mut budgets = reading(writer.objects, |reads| {
        Ok(reads.all(GROUP, BUDGETS, namespace))
    })?;
    budgets.retain(|budget| {
        let selector = LabelSelector::from_json(&budget["spec"]["selector"]);
        !budget["spec"]["selector"].is_null()
            && selector.is_ok_and(|selector| selector.matches_object(pod))
    });
    if budgets.len() > 1 {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction \
                    subresource does not support.";
        let mut status = Status::new(StatusReason::InternalError, text);
        status.code = 500;
        return Err(status);
    }
    Ok(budgets.pop())
}

/// Whether the pod is not ready, so that the budget does not count it as healthy, and the budget's
/// `unhealthyPodEvictionPolicy` allows its eviction.
fn is_broken(pod: &Value, budget: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    if ready {
        return false;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy"))
}

/// Decrements the allowed disruptions of the budget.
async fn record_disruption(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    budget: &Value,
) -> Result<(), Status> {
    let resource = writer.objects.catalog.any_version(GROUP, BUDGETS);
    let resource = resource.ok_or_else(|| Status::internal("disruption budgets are not served"))?;
    let mut change = |budget: &Value| with_disruption(budget, request.name, Timestamp::now());
    let request = WriteRequest {
        resource: &resource,
        name: metadata::text(budget, "name"),
        subresource: "status",
        ..*request
    };
    match update(writer, &request, ObjectPart::Trusted(&[]), &mut change).await {
        // The budget was deleted, so it forbids nothing.
        Err(status) if status.reason == StatusReason::NotFound => Ok(()),
        done => done.map(|_| ()),
    }
}

/// The budget with one allowed disruption less, and with the pod in `disruptedPods`.
///
/// *Errors.* 429 with upstream's cause if no disruption is allowed.
fn with_disruption(budget: &Value, pod: &str, now: Timestamp) -> Result<Value, Status> {
    let name = metadata::text(budget, "name");
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if number("observedGeneration") < generation {
        let text = format!("The disruption budget {name} is still being processed by the writer.");
        return Err(refused(text, 10));
    }
    let left = number("disruptionsAllowed");
    let forbidden = |why: &str| Status::forbidden(GROUP, "poddisruptionbudget", name, why);
    if left < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let going = budget["status"]["disruptedPods"].as_object();
    if going.map_or(0, json_tree::Map::len) > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(why));
    }
    if left == 0 {
        let text = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return Err(refused(text, 0));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = json!(left - 1);
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][pod] = metadata::time(now);
    Ok(budget)
}

fn refused(message: String, retry_after_seconds: u32) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(StatusReason::TooManyRequests, text);
    status.details = Some(Box::new(StatusDetails {
        causes: vec![Cause {
            reason: "DisruptionBudget".to_owned(),
            message,
            field: String::new(),
        }],
        retry_after_seconds,
        ..StatusDetails::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(left: i64, observed: i64) -> Value {
        json!({
            "metadata": {"name": "b", "generation": 2},
            "status": {"disruptionsAllowed": left, "observedGeneration": observed,
                "desiredHealthy": 2, "currentHealthy": 2},
        })
    }

    #[test]
    fn a_disruption_is_taken_once() {
        // kubectl.md 6.3
        let now = Timestamp::UNIX_EPOCH;
        let one = with_disruption(&budget(1, 2), "p", now).unwrap();
        assert_eq!(one["status"]["disruptionsAllowed"], 0);
        assert_eq!(one["status"]["disruptedPods"]["p"], "1970-01-01T00:00:00Z");
        let none = with_disruption(&one, "q", now).unwrap_err();
        assert_eq!(
            (none.code, none.reason),
            (429, StatusReason::TooManyRequests)
        );
        let details = none.details.unwrap();
        assert_eq!(details.causes[0].reason, "DisruptionBudget");
        assert_eq!(
            details.causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
        let stale = with_disruption(&budget(1, 1), "p", now).unwrap_err();
        assert_eq!(stale.details.unwrap().retry_after_seconds, 10);
        assert_eq!(
            with_disruption(&budget(-1, 2), "p", now).unwrap_err().code,
            403
        );
    }

    #[test]
    fn a_pod_that_is_not_ready_goes_if_enough_others_are() {
        let ready = |status: &str| {
            json!({"status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": status}]}})
        };
        assert!(is_broken(&ready("False"), &budget(0, 2)));
        assert!(!is_broken(&ready("True"), &budget(0, 2)));
        let mut short = budget(0, 2);
        short["status"]["currentHealthy"] = json!(1);
        assert!(!is_broken(&ready("False"), &short));
        short["spec"] = json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"});
        assert!(is_broken(&ready("False"), &short));
        assert!(is_over(&json!({"status": {"phase": "Pending"}})));
        assert!(!is_over(&ready("True")));
    }
}
