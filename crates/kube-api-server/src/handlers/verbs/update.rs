//! Update: PUT, and the write that PATCH and the subresources share with it.

use std::sync::Arc;

use http::StatusCode;
use json_tree::{Value, json};
use mvcc_store::{KeyValue, Omittable};
use object_model::{FieldError, FieldPath, Status, StatusReason};
use resource_kinds::admission::Operation;
use resource_kinds::{Allocation, ObjectReader as _, mainstay_annotations};

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
use crate::objects::metadata::{self, RequiredVersion};
use crate::objects::object_write::{ObjectWrite, WriteResult};
use crate::objects::quota;
use crate::objects::remove::remove;
use crate::objects::storage::{self, DecodedObject, Managers, Parts, reading};
use crate::objects::write_request::{
    CompletedWrite, EditedFields, ObjectPart, Validation, WriteOptions, WriteRequest, accept,
    cannot_be_handled,
};

/// The text of a 409 for an object that has changed since the client read it.
pub(crate) const MODIFIED: &str = "the object has been modified; please apply your changes to \
     the latest version and try again";

/// The sub-resource of a namespace's finalizers, whose writes webhooks and policies review.
const FINALIZE: &str = "finalize";

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
    let decode_body = || decode::body(&call.parts.headers, bytes, resource.info().kind);
    let decoded = decode_body()?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let (object, warnings) = accept(resource, decoded, options.validation)?;
    call.warnings.add(warnings);
    // The names are compared before the object is read: otherwise a 404 could concern the other name.
    metadata::must_name(&object, &call.info.name)?;
    let check =
        |object: &Value, old: Option<&Value>| writer.check_escalation(call, resource, object, old);
    let request = WriteRequest::of(call, resource, options);
    let kind = &resource.kind;
    let is_versioned = RequiredVersion::of(&object) != RequiredVersion::Any;
    // The body is decoded again for a second attempt, which few writes need.
    let mut object = Some(object);
    let mut next_object = || match object.take() {
        Some(object) => Ok(object),
        None => accept(resource, decode_body()?, Validation::Ignore).map(|(object, _)| object),
    };
    let mut change = |old: &Value| {
        let object = next_object()?;
        check(&object, Some(old))?;
        if is_versioned || kind.info().writes.unconditional_update {
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
            let object = next_object()?;
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
        // A component of this server edits metadata without the webhook of the kind.
        let stored_as = writer.edits_as_stored(request, part, &stored);
        let request = &WriteRequest {
            resource: stored_as.as_deref().unwrap_or(resource),
            ..*request
        };
        let shown = match &stored_as {
            Some(_) => stored.clone(),
            None => {
                let objects = writer.objects;
                objects.one_in_version(resource, stored.clone()).await?
            }
        };
        let current = writer.decoded(request, &shown, reads)?;
        let object = match &stored_as {
            Some(_) => edit_metadata(resource, &current.tree, change)?,
            None => change(&current.tree)?,
        };
        if !RequiredVersion::of(&object).permits(stored.mod_revision) {
            return Err(resource.conflict(request.name, MODIFIED));
        }
        let update = Update {
            writer,
            request,
            part,
            current: &current,
        };
        let mut draft = update.prepare(object).await?;
        if part == ObjectPart::Whole {
            quota::count(
                writer.objects,
                resource,
                request.namespace,
                &mut draft.object,
            )?;
        }
        let is_unchanged = metadata::same(&draft.object, &current.tree);
        // An update without a change migrates an object to the storage version.
        let is_migrated =
            || stored_as.is_some() || writer.objects.is_in_storage_version(resource, &stored);
        if is_unchanged && is_migrated() && draft.managers.same(&current.managers)? {
            return Ok(CompletedWrite {
                stored: shown,
                is_deleted: false,
            });
        }
        let converted = match &stored_as {
            Some(_) => None,
            None => writer.objects.storage_form(resource, &draft.object).await?,
        };
        let DecodedObject {
            tree: old, parts, ..
        } = current;
        let parts = match part {
            ObjectPart::Trusted(_) => parts.changed(&old, &draft.object)?,
            _ => parts,
        };
        let states = WriteStates {
            stored: &stored,
            old: &old,
            parts: &parts,
            converted: converted.as_ref(),
        };
        if let Some(written) = write(writer, request, states, draft).await? {
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

/// One attempt of an update.
#[derive(Clone, Copy)]
struct Update<'a> {
    writer: Writer<'a>,
    request: &'a WriteRequest<'a>,
    part: ObjectPart,
    current: &'a DecodedObject,
}

impl Update<'_> {
    /// Defaults, admits and validates the changed object.
    ///
    /// *Errors.* The errors of admission and validation.
    async fn prepare(self, mut object: Value) -> Result<Draft, Status> {
        let Self {
            writer,
            request,
            part,
            current,
        } = self;
        let (resource, old) = (request.resource, &current.tree);
        let kind = &resource.kind;
        metadata::prepare_update(resource, &mut object, old)?;
        self.default(&mut object);
        let mut object = self.with_old_parts(object)?;
        let managers = field_managers::track(
            writer.objects,
            request,
            part,
            &mut object,
            Some(old),
            current.managers.clone(),
        )
        .await?;
        // A webhook or policy for the request needs the object decoded as a whole. A webhook or policy that becomes
        // active after the check does not apply to this request, because it would get an incomplete object.
        let is_whole = matches!(managers, Managers::Within);
        let is_finalised = request.subresource == FINALIZE;
        let is_trusted = matches!(part, ObjectPart::Trusted(_)) && !is_finalised;
        let is_reviewed = !is_trusted && is_whole;
        // The handler's own change is valid; a change of a webhook or policy is validated.
        let unchanged = is_finalised.then(|| object.clone());
        self.admit(&mut object, is_reviewed).await?;
        let is_changed = unchanged.is_some_and(|unchanged| unchanged != object);
        self.default(&mut object);
        let requested = kind.allocating().allocations(&object);
        if kind.validates_long() {
            work::expect(usize::MAX).await;
        }
        let mut errors = metadata::validate_update(&object, old);
        errors.extend(self.validate(&mut object)?);
        if is_changed {
            errors.extend(kind.validate_update(&object, old));
        }
        errors.extend(mainstay_annotations::validate(
            kind.info().kind,
            &object,
            Some(old),
        ));
        if !errors.is_empty() {
            return Err(resource.invalid(request.name, &errors));
        }
        if matches!(part, ObjectPart::Whole | ObjectPart::Subresource) {
            request.warn(kind.warnings(&object, Some(old)));
        }
        let (plugins, update) = (&writer.admission.plugins, Operation::Update);
        advise(plugins, request, update, &object, Some(old));
        if is_reviewed {
            dynamic_admission::validate(writer.admission, request, update, &object, Some(old))
                .await?;
        }
        let before = kind.allocating().allocations(old);
        let after = kind.allocating().allocations(&object);
        Ok(Draft {
            allocated: without(&after, &before),
            released: without(&before, &after),
            object,
            managers,
            requested,
        })
    }

    /// Parts that are not in the tree do not change, so they need no defaults.
    fn default(self, object: &mut Value) {
        if self.current.parts.is_empty() {
            self.request.resource.kind.default(object);
        }
    }

    /// The object with the old state of the parts that the request may not change.
    ///
    /// *Errors.* 400 if an object of a trusted handler cannot be decoded.
    fn with_old_parts(self, mut object: Value) -> Result<Value, Status> {
        let (kind, old) = (&self.request.resource.kind, &self.current.tree);
        let has_separate_parts = !self.current.parts.is_empty();
        match self.part {
            ObjectPart::Whole if has_separate_parts => {
                metadata::restore_all_others(&mut object, old);
            }
            ObjectPart::Whole => kind.prepare_update(&mut object, old),
            ObjectPart::Status => kind.status_update().prepare_status_update(&mut object, old),
            ObjectPart::Subresource => {
                let (rules, name) = (kind.subresource_update(), self.request.subresource);
                rules.prepare_subresource_update(name, &mut object, old);
            }
            // Other objects have the form of their kind after validation. This object must be converted, unless its
            // handler kept the form of the few fields in the tree.
            ObjectPart::Trusted(_) if has_separate_parts => {}
            ObjectPart::Trusted(_) => {
                let decoded = kind.decode(object);
                return decoded.map_err(|error| cannot_be_handled(&kind.info(), error));
            }
        }
        Ok(object)
    }

    async fn admit(self, object: &mut Value, is_reviewed: bool) -> Result<(), Status> {
        let (admission, request) = (self.writer.admission, self.request);
        let (update, old) = (Operation::Update, Some(&self.current.tree));
        match is_reviewed {
            true => {
                dynamic_admission::admit_and_change(admission, request, update, object, old).await
            }
            false => admit(&admission.plugins, request, update, object, old),
        }
    }

    /// Validates the part that the request changes, and sets its allocations and its generation.
    fn validate(self, object: &mut Value) -> Result<Vec<FieldError>, Status> {
        let (kind, old) = (&self.request.resource.kind, &self.current.tree);
        let errors = match self.part {
            ObjectPart::Whole => reading(self.writer.objects, |reads| {
                kind.allocating().allocate(object, Some(old), reads)?;
                let namespace = self.request.namespace;
                let siblings = |group: &str, plural: &str| reads.list(group, plural, namespace);
                Ok(kind.validate_update_among(object, old, &siblings))
            })?,
            ObjectPart::Status => {
                return Ok(kind.status_update().validate_status_update(object, old));
            }
            ObjectPart::Subresource => {
                let (rules, name) = (kind.subresource_update(), self.request.subresource);
                rules.validate_subresource_update(name, object, old)
            }
            ObjectPart::Trusted(_) => return Ok(Vec::new()),
        };
        if kind.info().writes.has_generation {
            metadata::count_generation(object, old);
        }
        Ok(errors)
    }
}

/// The allocations of `list` whose keys are not in `excluded`.
fn without(list: &[Allocation], excluded: &[Allocation]) -> Vec<Allocation> {
    let is_excluded = |allocation: &Allocation| {
        let mut keys = excluded.iter().map(|excluded| &excluded.key);
        keys.any(|key| *key == allocation.key)
    };
    let remaining = list.iter().filter(|allocation| !is_excluded(allocation));
    remaining.cloned().collect()
}

/// The object after a change of the metadata. `change` gets an object of the version of the request that has only
/// metadata; `stored` is the object in the version in which it is stored.
fn edit_metadata(
    resource: &Resource,
    stored: &Value,
    change: &mut ObjectEdit<'_>,
) -> Result<Value, Status> {
    let info = resource.info();
    let shell = json!({
        "apiVersion": info.api_version(), "kind": info.kind, "metadata": stored["metadata"],
    });
    let mut edited = change(&shell)?;
    let mut object = stored.clone();
    object["metadata"] = edited["metadata"].take();
    Ok(object)
}

/// The states of an object around a write.
struct WriteStates<'a> {
    stored: &'a KeyValue,
    /// The stored object in the version of the request.
    old: &'a Value,
    /// The parts of both objects that are not in their trees.
    parts: &'a Parts,
    /// The new object in the storage version, if it is not the version of the request.
    converted: Option<&'a (Arc<Resource>, Value)>,
}

/// Writes the draft; `None` if the stored object has changed meanwhile.
async fn write(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    states: WriteStates<'_>,
    draft: Draft,
) -> Result<Option<CompletedWrite>, Status> {
    let WriteStates {
        stored,
        old,
        parts,
        converted,
    } = states;
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
        resource: converted.map_or(resource, |(storage, _)| storage),
        namespace: request.namespace,
        name: request.name,
        old: Some((stored, old)),
        new: converted.map_or(&object, |(_, object)| object),
        managers: &managers,
        parts,
        allocated: &allocated,
        released: &released,
        turn: request.turn,
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
        let removed = remove(writer.objects, resource, stored, old, parts).await?;
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
            stored: writer.answer(request, stored).await?,
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
