//! core/v1 Event.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, duration};

use crate::groups::events::to_core;
use crate::json::decode::DecodeError;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, Selectable, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;

#[derive(Debug)]
pub struct Event;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "",
        kind: "Event",
        list_kind: "EventList",
        plural: "events",
        singular: "event",
        short: &["ev"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::column("Last Seen", "Time since this was seen last."),
    table::column("Type", "Normal or Warning."),
    table::column("Reason", "Why, in one word."),
    table::column("Object", "What the event is about."),
    table::wide(
        "Subobject",
        "The part of the object that the event is about.",
    ),
    table::wide("Source", "Who reports."),
    table::column("Message", "What happened."),
    table::wide("First Seen", "Time since this was seen first."),
    table::wide("Count", "How often this was seen."),
    Column {
        priority: 1,
        ..table::NAME
    },
];

impl Kind for Event {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        self.info().decode(to_core(object))
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate_event_namespace(object, "involvedObject")
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for Event {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let first = first_of(object, &["firstTimestamp", "eventTime"]);
        let last = last_seen(object);
        let count = last_count(object);
        let about = &object["involvedObject"];
        let kind = about["kind"].as_str().unwrap_or_default().to_lowercase();
        let name = about["name"].as_str().unwrap_or_default();
        vec![
            json!(duration::age(last, now)),
            table::text_or(&object["type"], ""),
            table::text_or(&object["reason"], ""),
            json!(if name.is_empty() {
                kind.clone()
            } else {
                format!("{kind}/{name}")
            }),
            table::text_or(&about["fieldPath"], ""),
            json!(source(object)),
            json!(object["message"].as_str().unwrap_or_default().trim()),
            json!(duration::age(first, now)),
            json!(count),
            table::name(object),
        ]
    }
}

impl Selectable for Event {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let text = |value: &Value| Some(value.as_str().unwrap_or_default().to_owned());
        match field {
            "reason" | "reportingComponent" | "type" => text(&object[field]),
            "source" => {
                let component = text(&object["source"]["component"]);
                component
                    .filter(|c| !c.is_empty())
                    .or_else(|| text(&object["reportingComponent"]))
            }
            _ if self.selectable_fields().contains(field) => {
                text(&object["involvedObject"][field.strip_prefix("involvedObject.")?])
            }
            _ => None,
        }
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ])
    }
}

fn first_of<'a>(object: &'a Value, fields: &[&str]) -> Option<&'a str> {
    fields.iter().find_map(|field| object[*field].as_str())
}

fn last_seen(object: &Value) -> Option<&str> {
    let series = object["series"]["lastObservedTime"].as_str();
    series.or_else(|| first_of(object, &["lastTimestamp", "eventTime", "firstTimestamp"]))
}

fn last_count(object: &Value) -> i64 {
    let counts = [&object["series"]["count"], &object["count"]];
    counts
        .iter()
        .find_map(|count| count.as_i64())
        .unwrap_or(1)
        .max(1)
}

fn source(object: &Value) -> String {
    let (component, instance) = match object["source"]["component"].as_str() {
        Some(component) => (component, object["source"]["host"].as_str()),
        None => (
            object["reportingComponent"].as_str().unwrap_or_default(),
            object["reportingInstance"].as_str(),
        ),
    };
    let rest = instance.filter(|text| !text.is_empty());
    rest.map_or_else(
        || component.to_owned(),
        |rest| format!("{component}, {rest}"),
    )
}

/// The namespace of an event must be the namespace of its object; for a cluster-wide object, `default` or
/// `kube-system`.
pub(crate) fn validate_event_namespace(object: &Value, about: &str) -> Vec<FieldError> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let about = Field::of(object, about);
    let at = about.get("namespace");
    let fits = match at.text() {
        "" => matches!(namespace, "default" | "kube-system"),
        other => other == namespace,
    };
    if fits {
        return Vec::new();
    }
    let path = Field::of(object, "involvedObject.namespace").path();
    vec![FieldError::invalid(
        &path,
        at.text(),
        "does not match event.namespace",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_what_happened() {
        let event = json!({"metadata": {"name": "web.1"}, "type": "Normal", "reason": "Created",
            "involvedObject": {"kind": "StatefulSet", "name": "web"}, "message": "hello\n",
            "lastTimestamp": "2024-01-01T00:00:00Z", "firstTimestamp": "2024-01-01T00:00:00Z",
            "source": {"component": "c", "host": "n"}});
        let row = Event.row(&event, "2024-01-01T00:00:09Z".parse().unwrap());
        assert_eq!(
            Value::from(row),
            json!([
                "9s",
                "Normal",
                "Created",
                "statefulset/web",
                "",
                "c, n",
                "hello",
                "9s",
                1,
                "web.1"
            ])
        );
    }

    #[test]
    fn an_event_lives_beside_its_object() {
        let mut event = json!({"metadata": {"name": "a", "namespace": "x"},
            "involvedObject": {"namespace": "y"}});
        assert_eq!(
            Event.validate_create(&event)[0].to_string(),
            "involvedObject.namespace: Invalid value: \"y\": does not match event.namespace"
        );
        event["involvedObject"]["namespace"] = json!("x");
        assert_eq!(Event.validate_create(&event), []);
    }
}
