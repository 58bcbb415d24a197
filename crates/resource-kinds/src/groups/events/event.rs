//! events.k8s.io/v1 Event: the stored objects of core/v1 Event under other field names.

use jiff::Timestamp;
use json_tree::Value;
use object_model::FieldError;

use crate::json::decode::DecodeError;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, Selectable, Words, WriteRules};
use crate::printing::{Cell, Column, Printer};

/// events.k8s.io/v1 Event.
#[derive(Debug)]
pub struct Event;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "events.k8s.io",
        kind: "Event",
        list_kind: "EventList",
        plural: "events",
        singular: "event",
        short: &["ev"],
    })
};

/// The field names in core/v1 and in events.k8s.io/v1.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Converts an event to core/v1.
pub(crate) fn to_core(mut event: Value) -> Value {
    if event["apiVersion"] == "events.k8s.io/v1" {
        rename(&mut event, "v1", |(core, new)| (*new, *core));
    }
    event
}

fn from_core(mut event: Value) -> Value {
    if event["apiVersion"] == "v1" {
        rename(&mut event, "events.k8s.io/v1", |(core, new)| (*core, *new));
        if let Some(time) = first_seen(&event) {
            event["eventTime"] = time;
        }
    }
    event
}

/// The first time of an event without an `eventTime`. This group requires the field. Kubernetes returns null for
/// events from the core group, which clients with strict types refuse.
fn first_seen(event: &Value) -> Option<Value> {
    if !event["eventTime"].is_null() {
        return None;
    }
    let times = [
        &event["deprecatedFirstTimestamp"],
        &event["deprecatedLastTimestamp"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().find(|time| time.is_string()).cloned()
}

fn rename(
    event: &mut Value,
    api_version: &str,
    direction: impl Fn(&'static (&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = event.as_object_mut() else {
        return;
    };
    map.insert("apiVersion".to_owned(), Value::from(api_version));
    for pair in RENAMED {
        let (from, to) = direction(pair);
        if let Some(value) = map.shift_remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

impl Kind for Event {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        self.info().decode(from_core(object))
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        crate::groups::core::validate_event_namespace(object, "regarding")
    }

    fn validate_content_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for Event {
    fn columns(&self) -> Vec<Column<'_>> {
        crate::groups::core::Event.columns()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        crate::groups::core::Event.row(&to_core(object.clone()), now)
    }
}

impl Selectable for Event {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let field = match field.strip_prefix("regarding.") {
            Some(rest) => format!("involvedObject.{rest}"),
            None if field == "reportingController" => "reportingComponent".to_owned(),
            None => field.to_owned(),
        };
        crate::groups::core::Event.selectable_field(&to_core(object.clone()), &field)
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingController",
            "reportingComponent",
            "source",
            "type",
        ])
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C1: events of the core group lack this required field.
    #[test]
    fn an_event_of_the_core_group_has_the_time_when_it_was_first_seen() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"},
            "involvedObject": {"kind": "Pod", "name": "p"},
            "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": "2026-01-02T03:05:05Z"});
        let new = Event.decode(core).unwrap();
        assert_eq!(new["eventTime"], "2026-01-02T03:04:05.000000Z");
    }

    #[test]
    fn both_groups_read_what_either_wrote() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m", "count": 2,
            "source": {"component": "c"}, "reason": "R"});
        let new = Event.decode(core.clone()).unwrap();
        assert_eq!(
            (new["note"].as_str(), new["deprecatedCount"].as_i64()),
            (Some("m"), Some(2))
        );
        assert_eq!(new["regarding"]["name"], "p");
        let back = crate::groups::core::Event.decode(new.clone()).unwrap();
        assert_eq!(back["message"], "m");
        assert_eq!(back["involvedObject"], core["involvedObject"]);
        assert_eq!(
            Event.selectable_field(&new, "regarding.name").as_deref(),
            Some("p")
        );
    }
}
