//! Objects in responses: JSON, YAML, protobuf, Tables or metadata only.

mod table;
mod virtual_objects;

use bytes::Bytes;
use http::StatusCode;
use json_tree::{Value, json};
use mvcc_store::{KeyValue, Revision};
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::http::call::Call;
use crate::http::limits::WORK_SLICE_BYTES;
use crate::http::negotiate::{Representation, wants_managed_fields};
use crate::http::protobuf::{self, PROTOBUF, WriteError};
use crate::http::reply::{JSON, Reply};
use crate::http::work;
use crate::objects::storage::{self, Objects};
use crate::objects::write_request::CompletedWrite;

pub(crate) use table::{Include, TableStyle};
pub(crate) use virtual_objects::{Columns, virtual_list, virtual_object};

/// The format of the objects in a response.
#[derive(Clone, Copy)]
pub(crate) struct OutputFormat {
    pub(crate) form: Representation,
    include: Include,
    /// Whether JSON objects contain `metadata.managedFields`.
    pub(crate) managed_fields: bool,
}

impl OutputFormat {
    /// Reads the `Accept` header and the parameter `includeObject`.
    pub(crate) fn of(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let info = resource.info();
        let has_protobuf = || protobuf::has_message(&info.api_version(), info.kind);
        let form = Representation::of(&call.parts.headers, has_protobuf)?;
        Ok(Self {
            form,
            include: Include::parse(&call.query)?,
            managed_fields: wants_managed_fields(&call.parts.headers),
        })
    }

    /// Reads `Accept` and `includeObject` for the events of a watch.
    pub(crate) fn of_stream(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let info = resource.info();
        let has_protobuf = || protobuf::has_message(&info.api_version(), info.kind);
        Ok(Self {
            form: Representation::of_stream(&call.parts.headers, has_protobuf)?,
            include: Include::parse(&call.query)?,
            managed_fields: wants_managed_fields(&call.parts.headers),
        })
    }

    /// The bytes of a JSON object, without managed fields if the client does not want them.
    fn json_bytes(&self, resource: &Resource, stored: &KeyValue) -> Result<Bytes, Status> {
        match self.managed_fields {
            true => storage::bytes(resource, stored),
            false => storage::bytes_without_managed_fields(resource, stored),
        }
    }

    /// The metadata of a stored object, as the bytes of a `PartialObjectMetadata`.
    fn partial_bytes(&self, stored: &KeyValue, version: &str) -> Bytes {
        let metadata = match self.managed_fields {
            true => [
                storage::encoded_metadata(&stored.value).unwrap_or(b"{}"),
                b"",
            ],
            false => storage::metadata_without_managed_fields(stored),
        };
        let head = "{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/";
        let parts = [head.as_bytes(), version.as_bytes(), b"\",\"metadata\":"];
        [&parts[..], &metadata, &[b"}"]].concat().concat().into()
    }

    /// One object as the bytes of a response or of a watch event; `headings` is whether a table contains its column
    /// definitions.
    pub(crate) fn one(
        &self,
        resource: &Resource,
        stored: &KeyValue,
        headings: bool,
    ) -> Result<Bytes, Status> {
        storage::check_form(resource, stored)?;
        match self.form {
            Representation::Json => self.json_bytes(resource, stored),
            Representation::Yaml => yaml(&storage::decode(resource, stored)?),
            Representation::Partial(version) => Ok(self.partial_bytes(stored, version)),
            Representation::Protobuf => {
                let info = resource.info();
                let text = storage::bytes(resource, stored)?;
                transcoded(&info.api_version(), info.kind, &text)
            }
            Representation::PartialProtobuf(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                // Every form of the object has equal metadata.
                transcoded(&api_version, "PartialObjectMetadata", &stored.value)
            }
            Representation::Table(version) => {
                let style = TableStyle {
                    version,
                    include: self.include,
                    headings,
                };
                let meta = json!({"resourceVersion": stored.mod_revision.0.to_string()});
                table::table(resource, std::slice::from_ref(stored), meta, style)
            }
            form @ (Representation::TableYaml(_) | Representation::PartialYaml(_)) => {
                let form = form.in_json();
                let json = Self { form, ..*self }.one(resource, stored, headings)?;
                yaml(&storage::parse(&json)?)
            }
        }
    }
}

/// The metadata of a list.
pub(crate) struct ListMeta {
    pub(crate) revision: Revision,
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.0.to_string()});
        if let Some(next) = &self.next {
            meta["continue"] = json!(next);
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        meta
    }
}

/// A stored object in the version of a response, if the response contains more than the metadata.
///
/// *Errors.* 500 if the webhook of the kind fails.
pub(crate) async fn answer(
    objects: &Objects,
    resource: &Resource,
    call: &Call,
    stored: KeyValue,
) -> Result<KeyValue, Status> {
    let is_converted = objects.has_conversion(resource)
        && !Representation::requests_metadata_only(&call.parts.headers);
    match is_converted {
        true => objects.one_in_version(resource, stored).await,
        false => Ok(stored),
    }
}

/// Responds with one stored object.
pub(crate) fn object(
    call: &Call,
    resource: &Resource,
    stored: &KeyValue,
    code: StatusCode,
) -> Result<Reply, Status> {
    let view = OutputFormat::of(call, resource)?;
    let bytes = view.one(resource, &storage::readable(resource, stored), true)?;
    Ok(Reply::bytes(view.form.content_type(), bytes).with_code(code))
}

/// Responds with the result of a write.
pub(crate) fn written(
    call: &Call,
    resource: &Resource,
    written: &CompletedWrite,
    code: StatusCode,
) -> Result<Reply, Status> {
    object(call, resource, &written.stored, code)
}

/// Responds with an object that is not stored in this form (a Scale).
pub(crate) fn value(call: &Call, value: &Value, code: StatusCode) -> Result<Reply, Status> {
    rendered(
        Representation::of(&call.parts.headers, || has_protobuf(value))?,
        value,
        code,
    )
}

/// Responds with the result of a review or another request without a table form.
pub(crate) fn outcome(call: &Call, value: &Value) -> Result<Reply, Status> {
    let form = Representation::of_outcome(&call.parts.headers, || has_protobuf(value))?;
    rendered(form, value, StatusCode::CREATED)
}

fn has_protobuf(value: &Value) -> bool {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    protobuf::has_message(text("apiVersion"), text("kind"))
}

fn rendered(form: Representation, value: &Value, code: StatusCode) -> Result<Reply, Status> {
    match form {
        Representation::Protobuf => Ok(Reply::bytes(PROTOBUF, encoded(value)?).with_code(code)),
        Representation::Yaml | Representation::PartialYaml(_) => {
            Ok(Reply::bytes(form.content_type(), yaml(value)?).with_code(code))
        }
        Representation::Table(version) | Representation::TableYaml(version) => {
            Ok(json_or_yaml(form, &table::of_value(value, version))?.with_code(code))
        }
        Representation::Json | Representation::Partial(_) | Representation::PartialProtobuf(_) => {
            Ok(Reply::json(value).with_code(code))
        }
    }
}

/// Responds with a list. If possible, the response consists of the stored bytes.
pub(crate) async fn list(
    call: &Call,
    resource: &Resource,
    items: &[KeyValue],
    meta: &ListMeta,
) -> Result<Reply, Status> {
    let view = OutputFormat::of(call, resource)?;
    let info = resource.info();
    for item in items {
        storage::check_form(resource, item)?;
    }
    match view.form {
        Representation::Table(version) | Representation::TableYaml(version) => {
            let style = TableStyle {
                version,
                include: view.include,
                headings: true,
            };
            let table = table::table(resource, items, meta.json(), style)?;
            let table = match view.form.is_yaml() {
                true => yaml(&storage::parse(&table)?)?,
                false => table,
            };
            Ok(Reply::bytes(view.form.content_type(), table))
        }
        Representation::Json => {
            let head = json!({
                "kind": info.list_kind, "apiVersion": info.api_version(), "metadata": meta.json(),
            });
            // Stored items of built-in kinds are listed without `kind` and `apiVersion`, as upstream; custom
            // resources are listed with both.
            let custom = resource.is_custom();
            let parts = items.iter().map(|item| {
                let bytes = view.json_bytes(resource, item)?;
                Ok(match custom {
                    true => [Bytes::new(), bytes],
                    false => storage::without_type(&bytes),
                })
            });
            concatenated(&head, parts)
        }
        Representation::Partial(version) => {
            let head = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": meta.json(),
            });
            let parts = items
                .iter()
                .map(|item| Ok([Bytes::new(), view.partial_bytes(item, version)]));
            concatenated(&head, parts)
        }
        Representation::PartialYaml(version) => {
            let items = items
                .iter()
                .map(|item| storage::parse(&view.partial_bytes(item, version)));
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": meta.json(),
                "items": items.collect::<Result<Vec<Value>, Status>>()?,
            });
            json_or_yaml(view.form, &list)
        }
        Representation::Protobuf => {
            let api_version = info.api_version();
            let texts = items.iter().map(|item| storage::bytes(resource, item));
            let texts: Vec<Bytes> = texts.collect::<Result<_, _>>()?;
            protobuf_list(&api_version, info.list_kind, &meta.json(), &texts).await
        }
        Representation::PartialProtobuf(version) => {
            let api_version = format!("meta.k8s.io/{version}");
            let texts: Vec<Bytes> = items.iter().map(|item| item.value.clone()).collect();
            let kind = "PartialObjectMetadataList";
            protobuf_list(&api_version, kind, &meta.json(), &texts).await
        }
        Representation::Yaml => {
            let items: Result<Vec<Value>, Status> = items
                .iter()
                .map(|item| {
                    let mut object = storage::decode(resource, item)?;
                    if !resource.is_custom()
                        && let Some(fields) = object.as_object_mut()
                    {
                        fields.retain(|name, _| name != "kind" && name != "apiVersion");
                    }
                    Ok(object)
                })
                .collect();
            let whole = json!({
                "kind": info.list_kind,
                "apiVersion": info.api_version(),
                "metadata": meta.json(),
                "items": items?,
            });
            json_or_yaml(view.form, &whole)
        }
    }
}

/// An object in protobuf.
fn encoded(object: &Value) -> Result<Bytes, Status> {
    let bytes = protobuf::object(object).map(Bytes::from);
    bytes.ok_or_else(|| Status::internal("a kind without a protobuf form"))
}

/// A stored object in protobuf.
fn transcoded(api_version: &str, kind: &str, text: &[u8]) -> Result<Bytes, Status> {
    let bytes = protobuf::encode(api_version, kind, text);
    bytes.map(Bytes::from).map_err(|error| unwritten(&error))
}

/// A list in protobuf, from objects as JSON texts. Other requests can run between its parts.
async fn protobuf_list(
    api_version: &str,
    kind: &str,
    meta: &Value,
    texts: &[Bytes],
) -> Result<Reply, Status> {
    let mut list = protobuf::List::new(api_version, kind).map_err(|error| unwritten(&error))?;
    let mut since = 0;
    for text in texts {
        list.push(text).map_err(|error| unwritten(&error))?;
        since += text.len();
        if since > WORK_SLICE_BYTES {
            since = 0;
            work::let_others_go_first().await;
        }
    }
    let parts = list.finish(meta).map_err(|error| unwritten(&error))?;
    Ok(Reply::segments(PROTOBUF, parts))
}

fn unwritten(error: &WriteError) -> Status {
    Status::internal(error.to_string())
}

fn concatenated(
    head: &Value,
    items: impl Iterator<Item = Result<[Bytes; 2], Status>>,
) -> Result<Reply, Status> {
    let mut text = head.to_string();
    text.pop();
    text.push_str(",\"items\":[");
    let mut parts = vec![Bytes::from(text)];
    for (index, item) in items.enumerate() {
        if index > 0 {
            parts.push(Bytes::from_static(b","));
        }
        parts.extend(item?);
    }
    parts.push(Bytes::from_static(b"]}\n"));
    Ok(Reply::segments(JSON, parts))
}

/// One event of a watch. `object` comes from [`OutputFormat::one`].
pub(crate) fn event(form: Representation, kind: &str, object: &[u8]) -> Bytes {
    match form {
        Representation::Protobuf | Representation::PartialProtobuf(_) => {
            protobuf::event(kind, object).into()
        }
        Representation::Json
        | Representation::Yaml
        | Representation::Table(_)
        | Representation::TableYaml(_)
        | Representation::Partial(_)
        | Representation::PartialYaml(_) => line(kind, object),
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object.trim_ascii_end());
    line.extend_from_slice(b"}\n");
    line.into()
}

/// One event of a watch with an object that is not stored (a bookmark, a Status).
pub(crate) fn event_of_value(form: Representation, kind: &str, object: &Value) -> Bytes {
    match form {
        Representation::Protobuf | Representation::PartialProtobuf(_) => {
            let bytes = protobuf::object(object).unwrap_or_default();
            protobuf::event(kind, &bytes).into()
        }
        _ => line(kind, object.to_string().as_bytes()),
    }
}

/// An object's metadata as a PartialObjectMetadata.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

/// A response with a value in YAML if the representation is YAML, otherwise in JSON.
fn json_or_yaml(form: Representation, value: &Value) -> Result<Reply, Status> {
    match form.is_yaml() {
        true => Ok(Reply::bytes(form.content_type(), yaml(value)?)),
        false => Ok(Reply::json(value)),
    }
}

fn yaml(value: &Value) -> Result<Bytes, Status> {
    serde_saphyr::to_string(value)
        .map(Bytes::from)
        .map_err(|e| Status::internal(format!("write YAML: {e}")))
}
