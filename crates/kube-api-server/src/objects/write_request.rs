//! The common part of all writes: options, validation, admission, and the result.

use std::fmt::Display;
use std::net::IpAddr;

use bytes::Bytes;
use json_tree::Value;
use mvcc_store::{KeyValue, Omittable, Revision};
use object_model::{FieldError, FieldPath, Status};
use resource_kinds::{FieldRead, KindInfo};

use crate::catalog::registry::Resource;
use crate::http::audit_annotations::{AnnotationLevel, AuditAnnotations};
use crate::http::call::Call;
use crate::http::decode::Decoded;
use crate::http::negotiate::Representation;
use crate::http::query::Query;
use crate::http::warnings::Warnings;
use crate::objects::field_managers;
use crate::objects::metadata;
use crate::objects::storage::ReadObjects;
use crate::objects::write_turn::WriteTurn;

/// The treatment of unknown and duplicate fields (kubectl.md 0.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validation {
    Strict,
    Warn,
    Ignore,
}

/// The query parameters of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: Validation,
}

impl WriteOptions {
    /// Reads the parameters; `kind` is the options' kind, for instance `CreateOptions`.
    ///
    /// *Errors.* 422 for invalid values.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        Self::read(query, kind, None)
    }

    /// Reads the parameters of a patch, which may be a server-side apply.
    ///
    /// *Errors.* As of [`parse`](Self::parse).
    pub(crate) fn parse_patch(query: &Query, applies: bool) -> Result<Self, Status> {
        Self::read(query, "PatchOptions", Some(applies))
    }

    fn read(query: &Query, kind: &str, applies: Option<bool>) -> Result<Self, Status> {
        let mut errors = field_managers::errors(query, applies);
        let dry_run = dry_run(query.all("dryRun").iter().map(String::as_str), &mut errors);
        let validation = match query.get("fieldValidation") {
            Some("Strict") => Validation::Strict,
            None | Some("Warn") => Validation::Warn,
            Some("Ignore") => Validation::Ignore,
            Some(other) => {
                let field = FieldPath::root("fieldValidation");
                errors.push(FieldError::not_supported(
                    &field,
                    other,
                    &["Ignore", "Strict", "Warn"],
                ));
                Validation::Ignore
            }
        };
        if errors.is_empty() {
            Ok(Self {
                dry_run,
                validation,
            })
        } else {
            Err(Status::invalid("meta.k8s.io", kind, "", &errors))
        }
    }
}

/// Whether the write is a dry run; records invalid values.
pub(crate) fn dry_run<'v>(
    values: impl Iterator<Item = &'v str>,
    errors: &mut Vec<FieldError>,
) -> bool {
    let mut dry = false;
    for value in values {
        if value != "All" {
            let field = FieldPath::root("dryRun");
            errors.push(FieldError::not_supported(&field, value, &["All"]));
        }
        dry = true;
    }
    dry
}

/// A write that was performed, or simulated (dry run).
pub(crate) struct CompletedWrite {
    /// The new state of the object; after a deletion, the last state.
    pub(crate) stored: KeyValue,
    /// Whether the object no longer exists.
    pub(crate) is_deleted: bool,
}

impl CompletedWrite {
    /// The result for an object that is not stored.
    pub(crate) fn dry(resource: &Resource, object: &Value, before: Option<&KeyValue>) -> Self {
        let revision = before.map_or(Revision(0), |before| before.mod_revision);
        let value = match before {
            Some(_) => crate::objects::storage::encode_at(&resource.info(), object, revision),
            // As upstream, the object of a dry-run create has no resource version.
            None => Bytes::from(object.to_string()),
        };
        let stored = KeyValue {
            key: Vec::new().into(),
            value,
            create_revision: revision,
            mod_revision: revision,
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
        Self {
            stored,
            is_deleted: false,
        }
    }
}

/// Sets or checks `apiVersion` and `kind`, finds unknown and duplicate fields, and converts the object to its kind's
/// form. Returns warnings.
///
/// *Errors.* 400 with the texts of kubectl.md 0.8.
pub(crate) fn accept(
    resource: &Resource,
    decoded: Decoded,
    validation: Validation,
) -> Result<(Value, Vec<String>), Status> {
    let info = resource.info();
    let mut object = decoded.value;
    if resource.is_custom() {
        check_type_is_set(&object, &info)?;
    }
    set_type(&mut object, &info)?;
    let mut warnings = Vec::new();
    if validation != Validation::Ignore {
        let problems = complaints(resource, &object, &decoded.duplicates);
        if validation == Validation::Strict && !problems.is_empty() {
            let text = format!("strict decoding error: {}", problems.join(", "));
            return Err(cannot_be_handled(&info, &text));
        }
        warnings = problems;
    }
    let managers = detach_managers(&mut object);
    let mut object = resource
        .kind
        .decode(object)
        .map_err(|error| cannot_be_handled(&info, error))?;
    if let Some(managers) = managers {
        metadata::of(&mut object).insert("managedFields".to_owned(), managers);
    }
    Ok((object, warnings))
}

/// Removes the managed fields from an object, so that they are not decoded twice: field tracking parses them.
/// Malformed managed fields stay, and the decoder refuses them.
fn detach_managers(object: &mut Value) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let right = |entry: &Value| {
        entry.as_object().is_some_and(|entry| {
            entry.iter().all(|(field, value)| match field.as_str() {
                "fieldsV1" => value.is_object(),
                _ => value.is_string(),
            })
        })
    };
    let list = metadata.get("managedFields")?.as_array()?;
    if !list.iter().all(right) {
        return None;
    }
    metadata.shift_remove("managedFields")
}

/// The unknown and duplicate fields of an object, as texts.
pub(crate) fn complaints(
    resource: &Resource,
    object: &Value,
    duplicates: &[String],
) -> Vec<String> {
    let unknown = resource
        .unknown_fields(object)
        .into_iter()
        .map(|path| format!("unknown field {path:?}"));
    let duplicates = duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"));
    let mut all: Vec<String> = duplicates.chain(unknown).collect();
    all.dedup();
    all
}

pub(crate) fn cannot_be_handled(info: &KindInfo<'_>, why: impl Display) -> Status {
    let (kind, version) = (info.kind, info.version);
    Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
    ))
}

/// Checks that a custom object has `apiVersion` and `kind`, which the server sets only for its own kinds (upstream's decoder
/// of unstructured objects).
fn check_type_is_set(object: &Value, info: &KindInfo<'_>) -> Result<(), Status> {
    let is_empty = |field: &str| object[field].as_str().is_none_or(str::is_empty);
    if is_empty("kind") {
        let text = "Object 'Kind' is missing in 'object has no kind field '";
        return Err(Status::bad_request(text));
    }
    if is_empty("apiVersion") {
        return Err(other_version("", &info.api_version()));
    }
    Ok(())
}

fn other_version(actual: &str, expected: &str) -> Status {
    Status::bad_request(format!(
        "the API version in the data ({actual}) does not match the expected API version ({expected})"
    ))
}

/// Checks `apiVersion` and `kind` against the kind at the path; sets them if they are missing.
fn set_type(object: &mut Value, info: &KindInfo<'_>) -> Result<(), Status> {
    let api_version = info.api_version();
    let actual = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (actual_version, actual_kind) = (actual("apiVersion"), actual("kind"));
    if !actual_version.is_empty() && actual_version != api_version {
        return Err(other_version(&actual_version, &api_version));
    }
    if !actual_kind.is_empty() && actual_kind != info.kind {
        return Err(Status::bad_request(format!(
            "{actual_kind} in version {:?} cannot be handled as a {}: converting ({}.{actual_kind}) \
             to ({}): unknown conversion",
            info.version, info.kind, info.version, info.kind
        )));
    }
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), api_version.into());
        map.insert("kind".to_owned(), info.kind.into());
    }
    Ok(())
}

/// The part of an object that a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectPart {
    /// The object without its status.
    Whole,
    Status,
    /// The part that the kind allows for the sub-resource (`resize`).
    Subresource,
    /// The handler itself makes the change (`binding`, `finalize`, `eviction`): the kind's validation and field
    /// managers are skipped, and webhooks and policies too, except those for `finalize`. The handler reads and sets only these fields of the listed parts,
    /// and removes none; with an empty list, it may read and change all of the object.
    Trusted(&'static [FieldRead]),
}

/// The fields of the stored object that a write reads and edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EditedFields {
    /// All fields, including the managed fields (a JSON patch).
    Any,
    /// The fields of one [`ObjectPart`].
    Part,
    /// The fields of the metadata, without the managed fields (a patch of labels, a finalizer).
    Metadata,
}

/// A write of an object: the object, its user and the options.
#[derive(Clone, Copy)]
pub(crate) struct WriteRequest<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) user: &'a crate::http::user::UserInfo,
    /// The address of the client; `None` for a component of this process.
    pub(crate) source: Option<IpAddr>,
    pub(crate) dry_run: bool,
    /// The name of the field manager.
    pub(crate) manager: &'a str,
    /// Whether the object comes from a server-side apply, which updates its managers itself.
    pub(crate) applied: bool,
    /// The fields that the change reads and edits.
    pub(crate) extent: EditedFields,
    /// Whether webhooks and policies were called already, for the request that this write belongs to.
    pub(crate) is_reviewed: bool,
    /// Whether the caller reads no more of the written object than its metadata, which every version has.
    pub(crate) metadata_only: bool,
    /// Collects warnings; `None` for the server's own writes.
    pub(crate) warnings: Option<&'a Warnings>,
    /// Collects annotations of the audit event; `None` if there is no event.
    pub(crate) annotations: Option<&'a AuditAnnotations>,
    /// The objects that the admission of this request has read before; `None` if every read goes to the store.
    pub(crate) cached: Option<&'a ReadObjects>,
    /// The sequence of writes that this write belongs to, if its decision takes a turn.
    pub(crate) turn: Option<&'a WriteTurn>,
}

impl<'a> WriteRequest<'a> {
    pub(crate) fn of(call: &'a Call, resource: &'a Resource, options: WriteOptions) -> Self {
        Self {
            resource,
            namespace: if resource.namespaced() {
                &call.info.namespace
            } else {
                ""
            },
            name: &call.info.name,
            subresource: &call.info.subresource,
            user: &call.user,
            source: call.source(),
            dry_run: options.dry_run,
            manager: field_managers::name_of(call),
            applied: false,
            extent: EditedFields::Part,
            is_reviewed: false,
            // Versions of built-in kinds have no webhook.
            metadata_only: resource.is_custom()
                && Representation::requests_metadata_only(&call.parts.headers),
            warnings: Some(&call.warnings),
            annotations: call.annotations.as_deref(),
            cached: None,
            turn: None,
        }
    }

    pub(crate) fn annotate(&self, key: &str, value: &str, level: AnnotationLevel) {
        if let Some(annotations) = self.annotations {
            annotations.add(key, value, level);
        }
    }

    pub(crate) fn warn(&self, texts: impl IntoIterator<Item = String>) {
        if let Some(warnings) = self.warnings {
            warnings.add(texts);
        }
    }
}
