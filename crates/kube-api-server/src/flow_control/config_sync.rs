//! Maintenance of flow control: applies the stored configuration, corrects the default objects, and writes the
//! condition `Dangling` of each FlowSchema.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::flowcontrol::{self, AUTOUPDATE, DANGLING, GROUP, LEVELS, SCHEMAS};
use tokio::task::yield_now;

use super::{FlowControl, PriorityLevel};
use crate::bootstrap::{ensure, this_server, write_request};
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::objects::metadata;
use crate::objects::storage::{Objects, reading};
use crate::objects::write_request::{ObjectPart, WriteRequest};
use crate::server::{ApiServer, StartError};

/// The interval between checks of the default objects (upstream's value).
const INTERVAL: Duration = Duration::from_secs(60);
/// Objects that are written concurrently, so that one sync of the disk stores several of them.
const AT_ONCE: usize = 64;

/// The field managers of default specs and of conditions.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

/// Reads the stored objects and applies them.
///
/// *Errors.* An object that cannot be read; the old configuration stays.
pub(crate) fn put_in_force(flows: &FlowControl, objects: &Objects) -> Result<(), Status> {
    flows.replace(|| stored(objects))
}

/// The stored FlowSchemas and the stored PriorityLevelConfigurations.
fn stored(objects: &Objects) -> Result<(Vec<Value>, Vec<Value>), Status> {
    reading(objects, |reads| {
        let list = |plural: &str| reads.all(GROUP, plural, "");
        Ok((list(SCHEMAS), list(LEVELS)))
    })
}

/// Creates the default objects and counts the stored ones at the start.
pub(crate) async fn start(flows: &FlowControl, writer: Writer<'_>) {
    maintain(writer, true, AT_ONCE).await;
    count(flows, writer.objects).await;
}

/// Applies a change, and corrects the mandatory objects.
///
/// *Errors.* An object that cannot be read.
pub(crate) async fn follow(flows: &FlowControl, writer: Writer<'_>) -> Result<(), Status> {
    put_in_force(flows, writer.objects)?;
    yield_now().await;
    maintain(writer, false, 1).await;
    Ok(())
}

/// Counts the stored objects, and corrects all default objects, at intervals until the server is dropped.
pub(crate) async fn run(server: Weak<ApiServer>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(server) = server.upgrade() else {
            return;
        };
        count(&server.flows, &server.objects).await;
        maintain(server.writer(), true, 1).await;
    }
}

/// Counts the stored objects of each resource. The seats of a list are estimated from the count; a resource that
/// cannot be counted gets one seat.
async fn count(flows: &FlowControl, objects: &Objects) {
    let mut counts = BTreeMap::new();
    for resource in objects.catalog.snapshot().registry.resources() {
        yield_now().await;
        if let Ok(count) = objects.count(resource).await {
            let info = resource.info();
            let key = (info.group.to_owned(), info.plural.to_owned());
            counts.insert(key, count);
        }
    }
    flows.count(counts);
}

/// Corrects the mandatory objects, the conditions of all schemas and, if requested, the suggested objects. A failed
/// write is repeated at the next call. `at_once` schemas are written concurrently.
async fn maintain(writer: Writer<'_>, suggested: bool, at_once: usize) {
    let outcome = maintain_objects(writer, suggested).await;
    let schemas_outcome = match outcome {
        Ok(()) => write_conditions(writer, at_once).await,
        failed => failed,
    };
    if let Err(error) = schemas_outcome {
        tracing::warn!(%error, "default flow schemas or priority levels could not be corrected");
    }
}

async fn maintain_objects(writer: Writer<'_>, suggested: bool) -> Result<(), Status> {
    let (schemas, levels) = stored(writer.objects)?;
    let there: Vec<Value> = schemas.into_iter().chain(levels).collect();
    let mut defaults: Vec<(Value, bool)> = Vec::new();
    defaults.extend(
        flowcontrol::mandatory()
            .into_iter()
            .map(|object| (object, true)),
    );
    if suggested {
        defaults.extend(
            flowcontrol::suggested()
                .into_iter()
                .map(|object| (object, false)),
        );
    }
    for (default, mandatory) in &defaults {
        // A write to a store in memory never waits, so other tasks get the thread here.
        yield_now().await;
        let same = |object: &&Value| {
            object["kind"] == default["kind"]
                && metadata::text(object, "name") == metadata::text(default, "name")
        };
        match there.iter().find(same) {
            Some(there) if put_right(there, default, *mandatory).is_none() => {}
            Some(_) => change(writer, default, *mandatory).await?,
            None => match ensure(writer, &this_server(), default).await {
                Err(StartError::DefaultObject { source, .. }) => return Err(source),
                Err(error) => return Err(Status::internal(error.to_string())),
                Ok(()) => {}
            },
        }
    }
    Ok(())
}

async fn change(writer: Writer<'_>, default: &Value, mandatory: bool) -> Result<(), Status> {
    let Some(resource) = writer.objects.catalog.snapshot().registry.of(default) else {
        return Ok(());
    };
    let user = this_server();
    let name = metadata::text(default, "name");
    let request = WriteRequest {
        manager: PRODUCER,
        ..write_request(&resource, &user, "", name)
    };
    let mut change =
        |there: &Value| Ok(put_right(there, default, mandatory).unwrap_or_else(|| there.clone()));
    let done = update(writer, &request, ObjectPart::Whole, &mut change).await;
    done.map(drop)
}

/// The corrected form of a stored default object; `None` if the object is correct. A suggested object that a user has
/// changed keeps its spec, unless its annotation allows a correction, and the annotation records the user's change.
fn put_right(there: &Value, default: &Value, mandatory: bool) -> Option<Value> {
    let annotation = &there["metadata"]["annotations"][AUTOUPDATE];
    let autoupdate = annotation.as_str().and_then(parse_bool);
    let unchanged = there["metadata"]["generation"] == 1;
    let automatic = mandatory || autoupdate.unwrap_or(unchanged);
    let mut right = there.clone();
    if autoupdate != Some(automatic) {
        right["metadata"]["annotations"][AUTOUPDATE] = json!(automatic.to_string());
    }
    if automatic {
        cov_mark::hit!(findings_c51);
        right["spec"] = default["spec"].clone();
        // Users may change the shares of the exempt level.
        if default["spec"]["type"] == "Exempt" && there["spec"]["exempt"].is_object() {
            right["spec"]["exempt"] = there["spec"]["exempt"].clone();
        }
    }
    (right != *there).then_some(right)
}

/// Booleans in the spellings that Kubernetes accepts.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Writes the condition `Dangling` of each schema.
async fn write_conditions(writer: Writer<'_>, at_once: usize) -> Result<(), Status> {
    let (schemas, levels) = stored(writer.objects)?;
    let levels: Vec<String> = levels
        .iter()
        .filter_map(PriorityLevel::read)
        .map(|level| level.name)
        .collect();
    let now = metadata::time(Timestamp::now());
    let mut wrong = schemas;
    wrong.retain(|schema| with_condition(schema, &levels, &now).is_some());
    let tasks = wrong.iter();
    let tasks = tasks.map(|schema| write_condition(writer, schema, &levels, &now).boxed());
    let tasks: Vec<BoxFuture<'_, Result<(), Status>>> = tasks.collect();
    let done: Vec<Result<(), Status>> = stream::iter(tasks)
        .buffer_unordered(at_once)
        .collect()
        .await;
    done.into_iter().collect()
}

async fn write_condition(
    writer: Writer<'_>,
    schema: &Value,
    levels: &[String],
    now: &Value,
) -> Result<(), Status> {
    let Some(resource) = writer.objects.catalog.any_version(GROUP, SCHEMAS) else {
        return Ok(());
    };
    let user = this_server();
    let request = WriteRequest {
        subresource: "status",
        manager: CONSUMER,
        ..write_request(&resource, &user, "", metadata::text(schema, "name"))
    };
    yield_now().await;
    let mut change =
        |there: &Value| Ok(with_condition(there, levels, now).unwrap_or_else(|| there.clone()));
    match update(writer, &request, ObjectPart::Status, &mut change).await {
        // The schema was deleted meanwhile.
        Err(status) if status.code == 404 => Ok(()),
        done => done.map(drop),
    }
}

/// The schema with the correct condition `Dangling`; `None` if the condition is correct already.
fn with_condition(schema: &Value, levels: &[String], now: &Value) -> Option<Value> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str();
    let level = level.unwrap_or_default();
    let exists = levels.iter().any(|other| other == level);
    let about =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = if exists {
        ("False", "Found", format!("{about} and it exists"))
    } else {
        (
            "True",
            "NotFound",
            format!("{about} but there is no such object"),
        )
    };
    let conditions = schema["status"]["conditions"].as_array();
    let mut conditions = conditions.cloned().unwrap_or_default();
    let at = conditions.iter().position(|one| one["type"] == DANGLING);
    let before = at.map_or(Value::Null, |at| conditions[at].clone());
    let since = match before["status"] == status {
        true => before["lastTransitionTime"].clone(),
        false => now.clone(),
    };
    let after = json!({"type": DANGLING, "status": status, "lastTransitionTime": since,
        "reason": reason, "message": message});
    if after == before {
        return None;
    }
    match at {
        Some(at) => conditions[at] = after,
        None => conditions.push(after),
    }
    let mut schema = schema.clone();
    schema["status"]["conditions"] = conditions.into();
    Some(schema)
}

#[cfg(test)]
mod tests {
    use resource_kinds::flowcontrol::EXEMPT;

    use super::*;

    fn level(name: &str) -> Value {
        let all = flowcontrol::mandatory().into_iter();
        let mut all = all.chain(flowcontrol::suggested());
        let is = |object: &Value| {
            object["kind"] == "PriorityLevelConfiguration" && object["metadata"]["name"] == name
        };
        let mut existing = all.find(is).unwrap();
        existing["metadata"]["generation"] = json!(1);
        existing
    }

    /// findings C51: a suggested object that a user has changed keeps its spec.
    #[test]
    fn suggested_objects_are_kept_until_somebody_changes_them() {
        let default = level("workload-low");
        assert_eq!(put_right(&default, &default, false), None);
        let mut changed = default.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(7);
        // The annotation allows the server to correct the spec.
        let right = put_right(&changed, &default, false).unwrap();
        assert_eq!(right["spec"], default["spec"]);
        changed["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(put_right(&changed, &default, false), None);
        // Without the annotation, a changed spec is not corrected.
        changed["metadata"]["annotations"] = Value::Null;
        changed["metadata"]["generation"] = json!(2);
        let marked = put_right(&changed, &default, false).unwrap();
        assert_eq!(marked["metadata"]["annotations"][AUTOUPDATE], "false");
        assert_eq!(marked["spec"], changed["spec"]);
        changed["metadata"]["generation"] = json!(1);
        let right = put_right(&changed, &default, false).unwrap();
        assert_eq!(right["spec"], default["spec"]);
    }

    /// findings C51: mandatory objects are corrected, except for the shares of the exempt level.
    #[test]
    fn mandatory_objects_are_kept_whatever_is_said() {
        cov_mark::check!(findings_c51);
        let default = level("catch-all");
        let mut changed = default.clone();
        changed["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(7);
        assert_eq!(put_right(&changed, &default, true), Some(default));
        let default = level(EXEMPT);
        let mut changed = default.clone();
        changed["spec"]["exempt"]["nominalConcurrencyShares"] = json!(7);
        assert_eq!(put_right(&changed, &default, true), None);
    }

    /// findings C51: the condition `Dangling`.
    #[test]
    fn a_schema_is_told_whether_its_level_is_there() {
        let schema = json!({"spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let (before, now) = (json!("2026-01-01T00:00:00Z"), json!("2026-01-02T00:00:00Z"));
        let dangling = with_condition(&schema, &[], &before).unwrap();
        assert_eq!(
            dangling["status"]["conditions"],
            json!([{"type": "Dangling", "status": "True", "lastTransitionTime": before,
                "reason": "NotFound", "message": "This FlowSchema references the \
                 PriorityLevelConfiguration object named \"l\" but there is no such object"}])
        );
        assert_eq!(with_condition(&dangling, &[], &now), None);
        let updated = with_condition(&dangling, &["l".to_owned()], &now).unwrap();
        let condition = &updated["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["lastTransitionTime"]),
            (&json!("False"), &now)
        );
    }
}
