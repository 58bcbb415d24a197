//! Objects that are made when they are asked for, and stored nowhere, with columns of their own.

use http::StatusCode;
use object_model::Status;
use resource_kinds::KindInfo;
use serde_json::{Value, json};

use super::table::Include;
use super::{encoded, listed, partial, value, yaml};
use crate::negotiate::Form;
use crate::pipeline::Call;
use crate::protobuf;
use crate::reply::{JSON, Reply};

/// The headings and cells of a row; the first is the name.
pub(crate) type Cells = fn(&Value) -> Vec<(&'static str, Value)>;

/// Answers with one object.
pub(crate) fn computed(call: &Call, object: &Value, cells: Cells) -> Result<Reply, Status> {
    match form(call, object["apiVersion"].as_str(), object["kind"].as_str())? {
        Form::Table(version) => table(call, std::slice::from_ref(object), cells, version),
        Form::Partial(version) => Ok(Reply::json(&partial(object, version))),
        form @ Form::PartialProtobuf(version) => {
            let bytes = encoded(&partial(object, version))?;
            Ok(Reply::bytes(form.content_type(), bytes))
        }
        Form::Json | Form::Yaml | Form::Protobuf => value(call, object, StatusCode::OK),
    }
}

/// Answers with a list.
pub(crate) fn computed_list(
    call: &Call,
    info: &KindInfo,
    items: &[Value],
    cells: Cells,
) -> Result<Reply, Status> {
    let api_version = info.api_version();
    let whole = |api_version: &str, kind: &str, items: Vec<Value>| json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": items});
    let partials = |version: &str| -> Vec<Value> {
        let items = items.iter();
        items.map(|item| partial(item, version)).collect()
    };
    let meta = json!({});
    Ok(match form(call, Some(&api_version), Some(info.kind))? {
        Form::Json => Reply::json(&whole(&api_version, info.list_kind, items.to_vec())),
        Form::Yaml => {
            let text = yaml(&whole(&api_version, info.list_kind, items.to_vec()))?;
            Reply::bytes("application/yaml", text)
        }
        Form::Table(version) => table(call, items, cells, version)?,
        Form::Protobuf => {
            let items = items.iter().cloned().map(Ok);
            listed((&api_version, info.list_kind), &meta, items)?
        }
        Form::Partial(version) => {
            let api_version = format!("meta.k8s.io/{version}");
            let list = whole(&api_version, "PartialObjectMetadataList", partials(version));
            Reply::json(&list)
        }
        Form::PartialProtobuf(version) => {
            let api_version = format!("meta.k8s.io/{version}");
            let items = partials(version).into_iter().map(Ok);
            listed((&api_version, "PartialObjectMetadataList"), &meta, items)?
        }
    })
}

fn form(call: &Call, api_version: Option<&str>, kind: Option<&str>) -> Result<Form, Status> {
    let known = protobuf::is_known(api_version.unwrap_or_default(), kind.unwrap_or_default());
    Form::of(&call.parts.headers, known)
}

fn table(
    call: &Call,
    objects: &[Value],
    cells: Cells,
    version: &'static str,
) -> Result<Reply, Status> {
    let include = Include::parse(&call.query)?;
    // What an object without anything in it has for headings, all have.
    let headings = cells(&Value::Null).into_iter().enumerate();
    let headings = headings.map(|(index, (name, _))| {
        let format = if index == 0 { "name" } else { "" };
        json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0})
    });
    let rows = objects.iter().map(|object| {
        let cells: Vec<Value> = cells(object).into_iter().map(|(_, cell)| cell).collect();
        let shown = match include {
            Include::Nothing => Value::Null,
            Include::Metadata => partial(object, version),
            Include::Object => object.clone(),
        };
        json!({"cells": cells, "object": shown})
    });
    let table = json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {},
        "columnDefinitions": headings.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    });
    Ok(Reply::bytes(JSON, table.to_string()))
}
