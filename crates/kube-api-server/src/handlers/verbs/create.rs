//! Create: defaults, admission, validation and the first write of an object.

use http::StatusCode;
use jiff::Timestamp;
use json_tree::Value;
use mvcc_store::KeyValue;
use object_model::{FieldError, FieldPath, Status, StatusReason};
use resource_kinds::admission::Operation;
use resource_kinds::{Allocation, mainstay_annotations};

use crate::access::authorize;
use crate::admission::default_account;
use crate::admission::dynamic_admission;
use crate::admission::plugins::advise;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::verbs::update::MODIFIED;
use crate::handlers::writer::Writer;
use crate::http::call::Call;
use crate::http::decode::Decoded;
use crate::http::limits::{NAME_ATTEMPTS_MAX, WRITE_ATTEMPTS_MAX};
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::field_managers;
use crate::objects::metadata;
use crate::objects::object_write::{ObjectWrite, WriteResult};
use crate::objects::quota;
use crate::objects::storage::{Managers, Objects, Parts, ReadObjects, reading};
use crate::objects::write_request::ObjectPart;
use crate::objects::write_request::{CompletedWrite, WriteOptions, WriteRequest, accept};

/// Responds to a POST to a collection.
pub(crate) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    decoded: Decoded,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let (object, warnings) = accept(resource, decoded, options.validation)?;
    call.warnings.add(warnings);
    let (namespace, name) = (&call.info.namespace, metadata::text(&object, "name"));
    authorize::check_escalation(
        &writer.access.authorizer,
        &call.user,
        namespace,
        name,
        resource,
        &object,
        None,
    )?;
    let request = WriteRequest::of(call, resource, options);
    let written = create(writer, &request, object).await?;
    output::written(call, resource, &written, StatusCode::CREATED)
}

/// Creates an object of this kind; generates its name if requested.
pub(crate) async fn create(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    mut object: Value,
) -> Result<CompletedWrite, Status> {
    let cached = ReadObjects::default();
    let request = &WriteRequest {
        cached: Some(&cached),
        ..*request
    };
    let resource = request.resource;
    default_account::await_it(writer.objects, request, &object).await;
    resource.kind.default(&mut object);
    // The fields that are present now belong to the user. Fields that the server adds later have no manager.
    let managers = match writer.has_separate_managers(request) {
        true => Managers::Apart(None),
        false => Managers::Within,
    };
    let managers = field_managers::track(
        writer.objects,
        request,
        ObjectPart::Whole,
        &mut object,
        None,
        managers,
    )
    .await?;
    metadata::prepare_create(resource, request.namespace, &mut object, Timestamp::now())?;
    let prefix = metadata::text(&object, "generateName").to_owned();
    let generated = metadata::text(&object, "name").is_empty() && !prefix.is_empty();
    if !generated {
        return create_named(writer, request, object, &managers).await;
    }
    let name = free_name(writer.objects, request, &prefix).await?;
    metadata::of(&mut object).insert("name".to_owned(), name.as_str().into());
    match create_named(writer, request, object, &managers).await {
        Err(status) if status.reason == StatusReason::AlreadyExists => {
            Err(no_unique_name(resource, &name))
        }
        outcome => outcome,
    }
}

/// A generated name that no object has. A second attempt after a conflict is not made, because two requests rarely
/// choose one name at one time.
///
/// *Errors.* 409 if an object exists with each generated name.
async fn free_name(
    objects: &Objects,
    request: &WriteRequest<'_>,
    prefix: &str,
) -> Result<String, Status> {
    let resource = request.resource;
    let mut name = String::new();
    for _ in 0..NAME_ATTEMPTS_MAX {
        name = metadata::generate_name(prefix);
        let existing = objects.read(resource, request.namespace, &name).await?;
        if existing.is_none() {
            return Ok(name);
        }
    }
    Err(no_unique_name(resource, &name))
}

fn no_unique_name(resource: &Resource, name: &str) -> Status {
    let info = resource.info();
    Status::no_unique_name(info.group, info.plural, name)
}

async fn create_named(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    mut object: Value,
    managers: &Managers,
) -> Result<CompletedWrite, Status> {
    let resource = request.resource;
    let kind = &resource.kind;
    kind.prepare_create(&mut object);
    let name = metadata::text(&object, "name").to_owned();
    let request = &WriteRequest {
        name: &name,
        ..*request
    };
    let create = Operation::Create;
    dynamic_admission::admit_and_change(writer.admission, request, create, &mut object, None)
        .await?;
    kind.default_admitted(&mut object);
    kind.complete_create(&mut object);
    let requested = kind.allocating().allocations(&object);
    if kind.validates_long() {
        work::expect(usize::MAX).await;
    }
    for _ in 0..WRITE_ATTEMPTS_MAX {
        // A second attempt is only made after another writer has taken an allocation; other objects need no copy.
        let draft = kind.allocating().has_allocations().then(|| object.clone());
        reading(writer.objects, |reads| {
            kind.allocating().allocate(&mut object, None, reads)
        })?;
        quota::count(writer.objects, resource, request.namespace, &mut object)?;
        let mut errors = kind.validate_create(&object);
        errors.extend(mainstay_annotations::validate(
            kind.info().kind,
            &object,
            None,
        ));
        if !errors.is_empty() {
            return Err(resource.invalid(&name, &errors));
        }
        request.warn(kind.warnings(&object, None));
        advise(&writer.admission.plugins, request, create, &object, None);
        dynamic_admission::validate(writer.admission, request, create, &object, None).await?;
        let allocations = kind.allocating().allocations(&object);
        let converted = writer.objects.storage_form(resource, &object).await?;
        let write = ObjectWrite {
            subresource: request.subresource,
            resource: converted.as_ref().map_or(resource, |(storage, _)| storage),
            namespace: request.namespace,
            name: request.name,
            old: None,
            new: converted.as_ref().map_or(&object, |(_, object)| object),
            managers,
            parts: Parts::NONE,
            allocated: &allocations,
            released: &[],
            turn: request.turn,
        };
        let outcome = match request.dry_run {
            true => dry_create(writer.objects, &write).await?,
            false => store(writer.objects, &write).await?,
        };
        match outcome {
            Outcome::Stored(stored) => {
                return Ok(CompletedWrite {
                    stored: writer.answer(request, stored).await?,
                    is_deleted: false,
                });
            }
            Outcome::Dry => return Ok(CompletedWrite::dry(resource, &object, None)),
            Outcome::Exists => return Err(resource.already_exists(&name)),
            // Another writer has taken the chosen value, so a new value is chosen. A value that the user requested is
            // never replaced.
            Outcome::Conflict(allocation) if requested.contains(&allocation) => {
                return Err(resource.invalid(&name, &[refused(&object, &allocation)]));
            }
            Outcome::Conflict(_) => work::let_others_go_first().await,
        }
        match draft {
            Some(draft) => object = draft,
            None => break,
        }
    }
    Err(resource.conflict(
        &name,
        "addresses or ports kept being taken by others; try again",
    ))
}

enum Outcome {
    Stored(KeyValue),
    Dry,
    Exists,
    Conflict(Allocation),
}

async fn dry_create(objects: &Objects, write: &ObjectWrite<'_>) -> Result<Outcome, Status> {
    let lookup = objects.read(write.resource, write.namespace, write.name);
    if lookup.await?.is_some() {
        return Ok(Outcome::Exists);
    }
    write.check_quota(objects).await?;
    use resource_kinds::AllocationLookup;
    let mut allocations = write.allocated.iter();
    let conflict = reading(objects, |reads| {
        Ok(allocations.find(|allocation| reads.is_allocated(&allocation.key)))
    })?;
    Ok(conflict.map_or(Outcome::Dry, |conflict| Outcome::Conflict(conflict.clone())))
}

/// Stores a new object; retries if only a quota has changed meanwhile.
async fn store(objects: &Objects, write: &ObjectWrite<'_>) -> Result<Outcome, Status> {
    for _ in 0..WRITE_ATTEMPTS_MAX {
        match write.store(objects).await? {
            WriteResult::Stored(stored) => return Ok(Outcome::Stored(stored)),
            WriteResult::Refused { exists: true, .. } => return Ok(Outcome::Exists),
            WriteResult::Refused {
                conflict: Some(allocation),
                ..
            } => return Ok(Outcome::Conflict(allocation)),
            WriteResult::Refused { .. } => work::let_others_go_first().await,
        }
    }
    Err(write.resource.conflict(write.name, MODIFIED))
}

/// The error for an allocation that another object owns.
pub(crate) fn refused(object: &Value, allocation: &Allocation) -> FieldError {
    let field = FieldPath::root(&allocation.refusal.field);
    let value = at_path(object, &allocation.refusal.field).clone();
    FieldError::invalid(&field, value, allocation.refusal.detail.clone())
}

/// The value at a path such as `spec.ports[0].nodePort`.
fn at_path<'o>(object: &'o Value, path: &str) -> &'o Value {
    path.split(['.', '[', ']'])
        .filter(|word| !word.is_empty())
        .fold(object, |value, word| match word.parse::<usize>() {
            Ok(index) if value.is_array() => &value[index],
            _ => &value[word],
        })
}
