//! Responses with objects of virtual resources, which have their own table columns.

use bytes::Bytes;
use http::StatusCode;
use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::{Column, KindInfo};

use super::table::{Include, heading};
use super::{encoded, json_or_yaml, partial, protobuf_list, value};
use crate::http::call::Call;
use crate::http::negotiate::Representation;
use crate::http::protobuf;
use crate::http::reply::Reply;

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
        form @ (Representation::Table(version) | Representation::TableYaml(version)) => {
            let table = table(call, std::slice::from_ref(object), columns, version)?;
            json_or_yaml(form, &table)
        }
        form @ (Representation::Partial(version) | Representation::PartialYaml(version)) => {
            json_or_yaml(form, &partial(object, version))
        }
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
        Representation::Table(version) | Representation::TableYaml(version) => {
            return json_or_yaml(form, &table(call, &items, columns, version)?);
        }
        Representation::Partial(version)
        | Representation::PartialProtobuf(version)
        | Representation::PartialYaml(version) => {
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
    json_or_yaml(form, &list)
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
) -> Result<Value, Status> {
    let include = Include::parse(&call.query)?;
    let rows = objects.iter().map(|object| {
        let included = include.part_of(object.clone(), version);
        json!({"cells": (columns.cells)(object), "object": included})
    });
    Ok(json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {},
        "columnDefinitions": columns.headings.iter().map(heading).collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    }))
}
