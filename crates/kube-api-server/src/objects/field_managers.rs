//! Field managers: the manager of a write, and the fields that it owns (kubectl.md 0.7).

use http::header::USER_AGENT;
use jiff::Timestamp;
use json_tree::Value;
use object_model::{FieldError, FieldPath, Status};
use openapi_documents::TypeRef;
use structured_merge::apply::{self, ObjectType, OwnableFields, Versions, Writer};

use crate::catalog::Catalog;
use crate::catalog::registry::{Registry, Resource};
use crate::catalog::snapshot::Snapshot;
use crate::http::call::Call;
use crate::http::limits::MANAGER_NAME_BYTES_MAX;
use crate::http::query::Query;
use crate::objects::manager_versions::ManagerVersions;
use crate::objects::metadata;
use crate::objects::storage::{ManagedFields, Managers, Objects};
use crate::objects::write_request::ObjectPart;
use crate::objects::write_request::WriteRequest;

/// The field manager in the request, or the name of the client: the part of its user agent before the first slash.
pub(crate) fn name_of(call: &Call) -> &str {
    if let Some(name) = call.query.get("fieldManager") {
        return name;
    }
    let agent = call.parts.headers.get(USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok());
    let name = agent.unwrap_or_default().split('/').next();
    let name = name.unwrap_or_default();
    // A header contains only ASCII here, so the cut is never inside of a character.
    name.get(..MANAGER_NAME_BYTES_MAX).unwrap_or(name)
}

/// The errors of the query parameters about the field manager. `applies` is true for a server-side apply, and `None`
/// if the write is not a patch.
pub(crate) fn errors(query: &Query, applies: Option<bool>) -> Vec<FieldError> {
    let field = FieldPath::root("fieldManager");
    let name = query.get("fieldManager").unwrap_or_default();
    let mut errors = Vec::new();
    match applies {
        Some(true) if name.is_empty() => {
            errors.push(FieldError::required(&field, "is required for apply patch"));
        }
        Some(false) if query.has("force") => errors.push(FieldError::forbidden(
            &FieldPath::root("force"),
            "may not be specified for non-apply patch",
        )),
        _ => {}
    }
    if name.len() > MANAGER_NAME_BYTES_MAX {
        errors.push(FieldError::too_long(&field, MANAGER_NAME_BYTES_MAX));
    }
    for (at, letter) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(letter)
        );
        errors.push(FieldError::invalid(&field, name, detail));
    }
    errors
}

/// The other versions of a resource.
struct Others<'a> {
    registry: &'a Registry,
    resource: &'a Resource,
    /// The results of the conversion webhook.
    converted: &'a ManagerVersions,
}

impl<'a> Others<'a> {
    fn new(served: &'a Snapshot, resource: &'a Resource, converted: &'a ManagerVersions) -> Self {
        Self {
            registry: &served.registry,
            resource,
            converted,
        }
    }
}

impl Versions for Others<'_> {
    fn type_in(&self, api_version: &str) -> Option<TypeRef<'_>> {
        let other = self.registry.in_version(self.resource, api_version)?;
        let info = other.info();
        other.schema().lookup(info.group, info.version, info.kind)
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let other = self.registry.in_version(self.resource, api_version)?;
        match other.webhook() {
            Some(_) => self.converted.get(object, api_version),
            None => other.convert(object.clone()).ok(),
        }
    }
}

/// Records the changes since `old` (`None` for a new object) by manager. `managers` are the managers of `old`;
/// returns the managers of the object. They are in the tree or apart, as before.
///
/// *Errors.* 500 if a conversion webhook fails.
pub(crate) async fn track(
    objects: &Objects,
    request: &WriteRequest<'_>,
    part: ObjectPart,
    object: &mut Value,
    old: Option<&Value>,
    managers: Managers,
) -> Result<Managers, Status> {
    let versions = ManagerVersions::default();
    if !objects.has_conversion(request.resource) {
        let catalog = &objects.catalog;
        return Ok(track_once(
            catalog, request, part, object, old, managers, &versions,
        ));
    }
    loop {
        let mut tracked = object.clone();
        let attempt = managers.clone();
        let catalog = &objects.catalog;
        let result = track_once(
            catalog,
            request,
            part,
            &mut tracked,
            old,
            attempt,
            &versions,
        );
        if !versions.complete(objects, request.resource).await? {
            *object = tracked;
            return Ok(result);
        }
    }
}

fn track_once(
    catalog: &Catalog,
    request: &WriteRequest<'_>,
    part: ObjectPart,
    object: &mut Value,
    old: Option<&Value>,
    managers: Managers,
    versions: &ManagerVersions,
) -> Managers {
    // The merge of an applied object has recorded its owners already.
    if request.applied || matches!(part, ObjectPart::Trusted(_)) {
        return managers;
    }
    let info = request.resource.info();
    let schema = request.resource.schema();
    let object_type = schema.lookup(info.group, info.version, info.kind);
    match object_type {
        Some(object_type) => {
            let (version, now) = (info.api_version(), now());
            let writer = writer(request, &version, &now);
            let served = catalog.snapshot();
            let others = Others::new(&served, request.resource, versions);
            let object_type = ObjectType::with_others(object_type, &others);
            let reach = reach(request, part);
            match managers {
                Managers::Within => {
                    apply::track(old, object, object_type, &writer, reach);
                    Managers::Within
                }
                Managers::Apart(stored) => {
                    let stored = stored.as_ref().map(ManagedFields::text);
                    let after =
                        apply::track_apart(old, stored, object, object_type, &writer, reach);
                    Managers::Apart(after.map(ManagedFields::from))
                }
            }
        }
        None => {
            metadata::of(object).remove("managedFields");
            match managers {
                Managers::Within => Managers::Within,
                Managers::Apart(_) => Managers::Apart(None),
            }
        }
    }
}

/// Merges an applied configuration into `old` (`None` if the object does not exist). The result is incomplete if
/// `versions` lacks an object.
///
/// *Errors.* 400 if the configuration does not fit the object's type, 409 with the conflicts.
pub(crate) fn merge(
    catalog: &Catalog,
    request: &WriteRequest<'_>,
    part: ObjectPart,
    config: &Value,
    old: Option<&Value>,
    force: bool,
    versions: &ManagerVersions,
) -> Result<Value, Status> {
    let info = request.resource.info();
    let schema = request.resource.schema();
    let Some(object_type) = schema.lookup(info.group, info.version, info.kind) else {
        let text = format!(
            "no corresponding type for {}, Kind={}",
            info.api_version(),
            info.kind
        );
        return Err(Status::internal(text));
    };
    let (version, now) = (info.api_version(), now());
    let writer = writer(request, &version, &now);
    let reach = reach(request, part);
    let served = catalog.snapshot();
    let others = Others::new(&served, request.resource, versions);
    let object_type = ObjectType::with_others(object_type, &others);
    apply::apply(old, config, object_type, &writer, reach, force).map_err(|error| error.status())
}

fn now() -> String {
    match metadata::time(Timestamp::now()) {
        Value::String(now) => now,
        _ => String::new(),
    }
}

fn writer<'a>(request: &WriteRequest<'a>, version: &'a str, now: &'a str) -> Writer<'a> {
    Writer {
        manager: request.manager,
        api_version: version,
        subresource: request.subresource,
        now,
    }
}

/// A write does not own fields that it cannot change: the status, or everything except the status.
fn reach(request: &WriteRequest<'_>, part: ObjectPart) -> OwnableFields<'static> {
    match part {
        ObjectPart::Status => OwnableFields::Only(&["metadata", "status"]),
        _ if request.resource.subresource("status").is_some() => OwnableFields::AllBut(&["status"]),
        _ => OwnableFields::Everything,
    }
}
