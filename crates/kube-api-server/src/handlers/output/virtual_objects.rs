//! Responses with objects of virtual resources, which have their own table columns.

use bytes::Bytes;
use http::StatusCode;
use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::{Column, KindInfo};

use super::table::{Include, heading};
use super::{encoded, partial, protobuf_list, value, yaml};
use crate::http::call::Call;
use crate::http::negotiate::Representation;
use crate::http::protobuf;
use crate::http::reply::{JSON, Reply};

/// The columns of a table.
pub(crate) struct Columns {
    pub(crate) headings: &'static [Column<'static>],
    pub(crate) cells: fn(&Value) -> Vec<Value>,
}

/// Responds with one computed object.
pub(crate) fn virtual_object(
    call: &Call,
    info: &KindInfo<'_>,
    object: &Value,
    columns: &Columns,
) -> Result<Reply, Status> {
    match form(call, info)? {
        Representation::Table(version) => {
            table(call, std::slice::from_ref(object), columns, version)
        }
        Representation::Partial(version) => Ok(Reply::json(&partial(object, version))),
        form @ Representation::PartialProtobuf(version) => {
            let bytes = encoded(&partial(object, version))?;
            Ok(Reply::bytes(form.content_type(), bytes))
        }
        Representation::Json | Representation::Yaml | Representation::Protobuf => {
            value(call, object, StatusCode::OK)
        }
    }
}

/// Responds with a list of computed objects.
pub(crate) async fn virtual_list(
    call: &Call,
    info: &KindInfo<'_>,
    items: Vec<Value>,
    columns: &Columns,
) -> Result<Reply, Status> {
    let form = form(call, info)?;
    let (api_version, kind, items) = match form {
        Representation::Table(version) => return table(call, &items, columns, version),
        Representation::Partial(version) | Representation::PartialProtobuf(version) => {
            let partials = items.iter().map(|item| partial(item, version)).collect();
            let api_version = format!("meta.k8s.io/{version}");
            (api_version, "PartialObjectMetadataList", partials)
        }
        Representation::Json | Representation::Yaml | Representation::Protobuf => {
            (info.api_version(), info.list_kind, items)
        }
    };
    if matches!(
        form,
        Representation::Protobuf | Representation::PartialProtobuf(_)
    ) {
        let texts: Vec<Bytes> = items.iter().map(|item| item.to_string().into()).collect();
        return protobuf_list(&api_version, kind, &json!({}), &texts).await;
    }
    let list = json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": items});
    if form == Representation::Yaml {
        return Ok(Reply::bytes(form.content_type(), yaml(&list)?));
    }
    Ok(Reply::json(&list))
}

fn form(call: &Call, info: &KindInfo<'_>) -> Result<Representation, Status> {
    let has_protobuf = || protobuf::has_message(&info.api_version(), info.kind);
    Representation::of(&call.parts.headers, has_protobuf)
}

fn table(
    call: &Call,
    objects: &[Value],
    columns: &Columns,
    version: &'static str,
) -> Result<Reply, Status> {
    let include = Include::parse(&call.query)?;
    let rows = objects.iter().map(|object| {
        let included = include.part_of(object.clone(), version);
        json!({"cells": (columns.cells)(object), "object": included})
    });
    let table = json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {},
        "columnDefinitions": columns.headings.iter().map(heading).collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    });
    Ok(Reply::bytes(JSON, table.to_string()))
}
