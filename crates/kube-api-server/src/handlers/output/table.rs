//! `meta.k8s.io` Tables, for `kubectl get` (kubectl.md 1.1, 1.2).

use bytes::Bytes;
use jiff::Timestamp;
use json_tree::{Map, Value, json};
use mvcc_store::KeyValue;
use object_model::{FieldError, FieldPath, Status, duration};
use resource_kinds::Column;

use super::partial;
use crate::catalog::registry::Resource;
use crate::http::query::Query;
use crate::objects::storage;

/// The part of the object in a row (`includeObject`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    /// The value of `object` in a row of a table.
    pub(super) fn part_of(self, object: Value, version: &str) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Metadata => partial(&object, version),
            Self::Object => object,
        }
    }

    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        match query.get("includeObject") {
            Some("None") => Ok(Self::Nothing),
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("Object") => Ok(Self::Object),
            Some(other) => {
                let field = FieldPath::root("includeObject");
                let allowed = ["Metadata", "None", "Object"];
                let error = FieldError::not_supported(&field, other, &allowed);
                Err(Status::invalid("meta.k8s.io", "TableOptions", "", &[error]))
            }
        }
    }
}

/// The version of a Table and the parts that it contains.
#[derive(Clone, Copy)]
pub(crate) struct TableStyle {
    pub(crate) version: &'static str,
    pub(crate) include: Include,
    /// Whether the table contains its column definitions. In a watch only the first event contains them.
    pub(crate) headings: bool,
}

/// A table of stored objects.
pub(super) fn table(
    resource: &Resource,
    items: &[KeyValue],
    meta: Value,
    style: TableStyle,
) -> Result<Bytes, Status> {
    let now = Timestamp::now();
    let mut head = json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", style.version),
        "metadata": meta,
        "columnDefinitions": Value::Null,
    });
    head["columnDefinitions"] = if style.headings {
        resource.kind.columns().iter().map(heading).collect()
    } else {
        json!([])
    };
    let mut text = head.to_string();
    text.pop();
    text.push_str(",\"rows\":[");
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        // Each row is decoded separately, so that only one object is in memory as a tree.
        let object = storage::decode(resource, item)?;
        let rank = resource.kind.row_rank(&object);
        rows.push((rank, row(resource, object, style, now).to_string()));
    }
    rows.sort_by_key(|(rank, _)| *rank);
    for (index, (_, row)) in rows.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(row);
    }
    text.push_str("]}\n");
    Ok(text.into())
}

pub(super) fn heading(column: &Column<'_>) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn row(resource: &Resource, object: Value, style: TableStyle, now: Timestamp) -> Value {
    let mut row = Map::new();
    row.insert(
        "cells".to_owned(),
        Value::Array(resource.kind.row(&object, now)),
    );
    let conditions: Vec<Value> = resource
        .kind
        .row_conditions(&object)
        .into_iter()
        .map(|(kind, status, reason, message)| {
            json!({"type": kind, "status": status, "reason": reason, "message": message})
        })
        .collect();
    if !conditions.is_empty() {
        row.insert("conditions".to_owned(), Value::Array(conditions));
    }
    let included = style.include.part_of(object, style.version);
    row.insert("object".to_owned(), included);
    Value::Object(row)
}

/// A table of one object that is not stored in this form. A Scale has its own columns.
pub(super) fn of_value(object: &Value, version: &str) -> Value {
    let name = &object["metadata"]["name"];
    let created = object["metadata"]["creationTimestamp"].as_str();
    let age = json!(duration::age(created, Timestamp::now()));
    let text = |name, kind, format| {
        heading(&Column {
            name,
            kind,
            format,
            description: "",
            priority: 0,
        })
    };
    let (columns, cells) = if object["kind"] == "Scale" {
        let number = |path: &str| {
            let (part, field) = path.split_once('.').unwrap_or((path, ""));
            json!(object[part][field].as_i64().unwrap_or(0))
        };
        (
            json!([
                text("Name", "string", "name"),
                text("Desired", "integer", ""),
                text("Available", "integer", ""),
                text("Age", "string", ""),
            ]),
            json!([
                name,
                number("spec.replicas"),
                number("status.replicas"),
                age
            ]),
        )
    } else {
        (
            json!([text("Name", "string", "name"), text("Age", "string", "")]),
            json!([name, age]),
        )
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {},
        "columnDefinitions": columns,
        "rows": [{"cells": cells, "object": partial(object, version)}],
    })
}
