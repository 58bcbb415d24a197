//! Update: PUT, and the write that PATCH and the subresources share with it.

use http::StatusCode;
use json_tree::Value;
use mvcc_store::{KeyValue, Omittable};
use object_model::{FieldError, FieldPath, Status, StatusReason};
use resource_kinds::admission::Operation;
use resource_kinds::{Allocation, own_annotations};

use crate::access::authorize;
use crate::admission::dynamic_admission;
use crate::admission::plugins::{admit, advise};
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::verbs::create::{create, refused};
use crate::handlers::writer::Writer;
use crate::http::call::Call;
use crate::http::decode;
use crate::http::limits::WRITE_ATTEMPTS_MAX;
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::field_managers;
use crate::objects::metadata;
use crate::objects::object_write::{ObjectWrite, WriteResult};
use crate::objects::quota;
use crate::objects::remove::remove;
use crate::objects::storage::{self, Managers, Parts, reading};
use crate::objects::write_request::{
    CompletedWrite, EditedFields, ObjectPart, Validation, WriteOptions, WriteRequest, accept,
    cannot_be_handled,
};

/// The text of a 409 for an object that has changed since the client read it.
pub(crate) const MODIFIED: &str = "the object has been modified; please apply your changes to \
     the latest version and try again";

/// Computes the new object from the stored object; called again after each conflict.
pub(crate) type ObjectEdit<'c> = dyn FnMut(&Value) -> Result<Value, Status> + Send + 'c;

/// Responds to a PUT request.
pub(crate) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    bytes: &[u8],
    part: ObjectPart,
) -> Result<Reply, Status> {
    let sent = || decode::body(&call.parts.headers, bytes, resource.info().kind);
    let decoded = sent()?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let (object, warnings) = accept(resource, decoded, options.validation)?;
    call.warnings.add(warnings);
    // The names are compared before the object is read: otherwise a 404 could concern the other name.
    metadata::must_name(&object, &call.info.name)?;
    let check =
        |object: &Value, old: Option<&Value>| writer.check_escalation(call, resource, object, old);
    let request = WriteRequest::of(call, resource, options);
    let kind = &resource.kind;
    let versioned = !matches!(metadata::text(&object, "resourceVersion"), "" | "0");
    // The body is decoded again for a second attempt, which few writes need.
    let mut object = Some(object);
    let mut take = || match object.take() {
        Some(object) => Ok(object),
        None => accept(resource, sent()?, Validation::Ignore).map(|(object, _)| object),
    };
    let mut change = |old: &Value| {
        let object = take()?;
        check(&object, Some(old))?;
        if versioned || kind.info().writes.unconditional_update {
            Ok(object)
        } else {
            Err(unversioned(resource, &call.info.name))
        }
    };
    let (written, code) = match update(writer, &request, part, &mut change).await {
        Err(status)
            if status.reason == StatusReason::NotFound
                && part == ObjectPart::Whole
                && kind.info().writes.create_on_update =>
        {
            let info = call.info.with_verb("create");
            authorize::authorize(&writer.access.authorizer, &call.user, &info)?;
            let object = take()?;
            check(&object, None)?;
            let created = create(writer, &request, object).await?;
            (created, StatusCode::CREATED)
        }
        updated => (updated?, StatusCode::OK),
    };
    output::written(call, resource, &written, code)
}

/// 422 for a PUT without a resource version, for a kind that requires one.
fn unversioned(resource: &Resource, name: &str) -> Status {
    let info = resource.info();
    let field = FieldPath::root("metadata").child("resourceVersion");
    let error = FieldError::invalid(&field, 0, "must be specified for an update");
    // Upstream's message contains the resource; messages of other refusals contain the kind.
    Status::invalid(info.group, info.plural, name, &[error])
}

/// Changes a stored object.
///
/// A new object with a resource version must name that of the stored one; one without a resource version
/// replaces any version.
///
/// *Errors.* 404, 409 for a stale resource version, and the errors of admission and validation.
pub(crate) async fn update(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    part: ObjectPart,
    change: &mut ObjectEdit<'_>,
) -> Result<CompletedWrite, Status> {
    let resource = request.resource;
    let reads = match part {
        ObjectPart::Status => resource.kind.status_update().reads(),
        ObjectPart::Trusted(reads) => reads,
        ObjectPart::Whole if request.extent == EditedFields::Metadata => {
            resource.kind.reads_for_metadata()
        }
        ObjectPart::Whole | ObjectPart::Subresource => &[],
    };
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let stored = writer.stored(request).await?;
        let (old, managers, parts) = writer.decoded(request, &stored, reads)?;
        let object = change(&old)?;
        let version = metadata::text(&object, "resourceVersion");
        if !matches!(version, "" | "0") && version != stored.mod_revision.0.to_string() {
            return Err(resource.conflict(request.name, MODIFIED));
        }
        let mut draft = prepare(writer, request, part, object, (&old, &managers, &parts)).await?;
        if part == ObjectPart::Whole {
            quota::count(
                writer.objects,
                resource,
                request.namespace,
                &mut draft.object,
            )?;
        }
        if metadata::same(&draft.object, &old) && draft.managers.same(&managers)? {
            return Ok(CompletedWrite {
                stored,
                is_deleted: false,
            });
        }
        let parts = match part {
            ObjectPart::Trusted(_) => parts.changed(&old, &draft.object)?,
            _ => parts,
        };
        if let Some(written) = write(writer, request, (&stored, &old, &parts), draft).await? {
            return Ok(written);
        }
        work::let_others_go_first().await;
    }
    Err(resource.conflict(request.name, MODIFIED))
}

/// A changed object that passed all checks and can be written.
struct Draft {
    object: Value,
    managers: Managers,
    /// The allocations that the object gains, and the allocations that it releases.
    allocated: Vec<Allocation>,
    released: Vec<Allocation>,
    /// The allocations that the user requested.
    requested: Vec<Allocation>,
}

async fn prepare(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    part: ObjectPart,
    mut object: Value,
    (old, managers, parts): (&Value, &Managers, &Parts),
) -> Result<Draft, Status> {
    let resource = request.resource;
    let (kind, sub) = (&resource.kind, request.subresource);
    metadata::prepare_update(resource, &mut object, old)?;
    // Parts that are not in the tree do not change, so they need no defaults.
    let default = |object: &mut Value| {
        if parts.is_empty() {
            kind.default(object);
        }
    };
    default(&mut object);
    match part {
        ObjectPart::Whole if !parts.is_empty() => metadata::restore_all_others(&mut object, old),
        ObjectPart::Whole => kind.prepare_update(&mut object, old),
        ObjectPart::Status => kind.status_update().prepare_status_update(&mut object, old),
        ObjectPart::Subresource => {
            let rules = kind.subresource_update();
            rules.prepare_subresource_update(sub, &mut object, old);
        }
        // Other objects have the form of their kind after validation. This object must be converted, unless its
        // handler kept the form of the few fields in the tree.
        ObjectPart::Trusted(_) if !parts.is_empty() => {}
        ObjectPart::Trusted(_) => {
            let decoded = kind.decode(object);
            object = decoded.map_err(|text| cannot_be_handled(&kind.info(), &text))?;
        }
    }
    let managers = field_managers::track(
        &writer.objects.catalog,
        request,
        part,
        &mut object,
        (Some(old), managers.clone()),
    );
    let (update, before) = (Operation::Update, Some(old));
    // A webhook or policy for the request needs the object decoded as a whole. A webhook or policy that becomes
    // active after the check does not apply to this request, because it would get an incomplete object.
    let is_whole = matches!(managers, Managers::Within);
    let outside = !matches!(part, ObjectPart::Trusted(_)) && is_whole;
    if outside {
        dynamic_admission::admit_and_change(writer.admission, request, update, &mut object, before)
            .await?;
    } else {
        admit(
            &writer.admission.plugins,
            request,
            update,
            &mut object,
            before,
        )?;
    }
    default(&mut object);
    let requested = kind.allocating().allocations(&object);
    if kind.validates_long() {
        work::expect(usize::MAX).await;
    }
    let mut errors = metadata::validate_update(&object, old);
    match part {
        ObjectPart::Whole => {
            reading(writer.objects, |reads| {
                kind.allocating().allocate(&mut object, Some(old), reads)
            })?;
            errors.extend(kind.validate_update(&object, old));
            if kind.info().writes.has_generation {
                metadata::count_generation(&mut object, old);
            }
        }
        ObjectPart::Status => {
            errors.extend(kind.status_update().validate_status_update(&object, old));
        }
        ObjectPart::Subresource => {
            let rules = kind.subresource_update();
            errors.extend(rules.validate_subresource_update(sub, &object, old));
            if kind.info().writes.has_generation {
                metadata::count_generation(&mut object, old);
            }
        }
        ObjectPart::Trusted(_) => {}
    }
    errors.extend(own_annotations::validate(
        kind.info().kind,
        &object,
        Some(old),
    ));
    if !errors.is_empty() {
        return Err(resource.invalid(request.name, &errors));
    }
    if matches!(part, ObjectPart::Whole | ObjectPart::Subresource) {
        request.warn(kind.warnings(&object, before));
    }
    advise(&writer.admission.plugins, request, update, &object, before);
    if outside {
        dynamic_admission::validate(writer.admission, request, update, &object, before).await?;
    }
    let before = kind.allocating().allocations(old);
    let after = kind.allocating().allocations(&object);
    let contains =
        |list: &[Allocation], one: &Allocation| list.iter().any(|other| other.key == one.key);
    Ok(Draft {
        allocated: after
            .iter()
            .filter(|one| !contains(&before, one))
            .cloned()
            .collect(),
        released: before
            .iter()
            .filter(|one| !contains(&after, one))
            .cloned()
            .collect(),
        object,
        managers,
        requested,
    })
}

/// Writes the draft; `None` if the stored object has changed meanwhile.
async fn write(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    (stored, old, parts): (&KeyValue, &Value, &Parts),
    draft: Draft,
) -> Result<Option<CompletedWrite>, Status> {
    let resource = request.resource;
    let Draft {
        mut object,
        managers,
        allocated,
        released,
        requested,
    } = draft;
    let write = ObjectWrite {
        subresource: request.subresource,
        resource,
        namespace: request.namespace,
        name: request.name,
        old: Some((stored, old)),
        new: &object,
        managers: &managers,
        parts,
        allocated: &allocated,
        released: &released,
    };
    if request.dry_run {
        write.check_quota(writer.objects).await?;
        return Ok(Some(CompletedWrite::dry(resource, &object, Some(stored))));
    }
    if may_go(resource, &object) {
        parts.restore(&mut object)?;
        if let Some(managed) = managers.apart() {
            managed.restore(&mut object)?;
        }
        let removed = remove(writer.objects, resource, (stored, old, parts)).await?;
        return Ok(removed.map(|revision| {
            let value = storage::encode_at(&resource.info(), &object, revision);
            let stored = KeyValue {
                value,
                mod_revision: revision,
                omittable: Omittable::UNKNOWN,
                ..stored.clone()
            };
            CompletedWrite {
                stored,
                is_deleted: true,
            }
        }));
    }
    match write.store(writer.objects).await? {
        WriteResult::Stored(stored) => Ok(Some(CompletedWrite {
            stored,
            is_deleted: false,
        })),
        WriteResult::Refused {
            conflict: Some(allocation),
            ..
        } if requested.iter().any(|one| one.key == allocation.key) => {
            Err(resource.invalid(request.name, &[refused(&object, &allocation)]))
        }
        WriteResult::Refused { .. } => Ok(None),
    }
}

/// Whether an object in deletion has no finalizers left.
fn may_go(resource: &Resource, object: &Value) -> bool {
    let finalizers = metadata::finalizers(object).len();
    metadata::is_deleting(object)
        && is_free(
            resource,
            object,
            metadata::grace_seconds(object),
            finalizers,
        )
}

/// Whether an object in deletion with this grace period and number of finalizers can be removed now.
pub(super) fn is_free(
    resource: &Resource,
    object: &Value,
    grace_seconds: i64,
    finalizers: usize,
) -> bool {
    grace_seconds == 0 && finalizers == 0 && !is_held_by_spec(resource, object)
}

/// Whether the object waits for its `finalize` sub-resource: namespaces have a second list of finalizers in the spec,
/// which only that sub-resource changes.
pub(crate) fn is_held_by_spec(resource: &Resource, object: &Value) -> bool {
    resource.subresource("finalize").is_some()
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
}
