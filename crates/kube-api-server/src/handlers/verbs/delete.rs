//! Delete: preconditions, grace, finalizers (kubectl.md 2.9–2.11, statefulset.md 13.1).

use http::HeaderMap;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, Status};
use resource_kinds::admission::Operation;
use serde::Deserialize;

use super::update::{MODIFIED, is_free, is_held_by_spec};
use crate::access::authorize;
use crate::admission::dynamic_admission;
use crate::admission::plugins::admit;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::writer::Writer;
use crate::http::call::Call;
use crate::http::decode;
use crate::http::limits::WRITE_ATTEMPTS_MAX;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::metadata;
use crate::objects::remove::remove;
use crate::objects::storage::{DecodedObject, IGNORE_READ_ERROR, Managers};
use crate::objects::write_request::{
    CompletedWrite, Validation, WriteOptions, WriteRequest, dry_run,
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Kinds for which the response to a deletion is the deleted object; for other kinds the response is a Status. As
/// kube-apiserver.
const RETURNED: [(&str, &str); 11] = [
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
];

/// `meta.k8s.io/v1` DeleteOptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
    /// Whether only an object that cannot be decoded is to be deleted.
    #[serde(rename = "ignoreStoreReadErrorWithClusterBreakingPotential")]
    pub(super) ignore_read_error: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    /// Reads the options from the body; from the query if the body is empty.
    ///
    /// *Errors.* 400 for a body of another kind, 422 for invalid values.
    pub(crate) fn parse(
        headers: &HeaderMap,
        bytes: &[u8],
        query: &Query,
    ) -> Result<(Self, bool), Status> {
        let mut value = Value::Null;
        if !bytes.is_empty() {
            value = decode::body(headers, bytes, "DeleteOptions")?.value;
            let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" {
                let text = format!("decode: expected DeleteOptions, found {kind}");
                return Err(Status::bad_request(text));
            }
        }
        Self::of_value(&value, query)
    }

    /// The options from a decoded body or from the query, and whether the deletion is a dry run.
    ///
    /// *Errors.* As [`parse`](Self::parse).
    pub(crate) fn of_value(value: &Value, query: &Query) -> Result<(Self, bool), Status> {
        let mut options = Self::default();
        if !value.is_null() {
            options = Self::deserialize(value)
                .map_err(|e| Status::bad_request(format!("DeleteOptions: {e}")))?;
        }
        options.add_query(query)?;
        let mut errors = options.errors();
        errors.extend(options.unsafe_errors());
        let body: Vec<String> = options.dry_run.take().unwrap_or_default();
        let all = body.iter().chain(query.all("dryRun")).map(String::as_str);
        let dry = dry_run(all, &mut errors);
        if errors.is_empty() {
            Ok((options, dry))
        } else {
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
        }
    }

    fn add_query(&mut self, query: &Query) -> Result<(), Status> {
        if let Some(grace) = query.number("gracePeriodSeconds")? {
            self.grace_period_seconds.get_or_insert(grace);
        }
        if let Some(policy) = query.get("propagationPolicy") {
            self.propagation_policy.get_or_insert(policy.to_owned());
        }
        if query.has("orphanDependents") {
            self.orphan_dependents
                .get_or_insert(query.flag("orphanDependents"));
        }
        if query.has(IGNORE_READ_ERROR) {
            self.ignore_read_error
                .get_or_insert(query.flag(IGNORE_READ_ERROR));
        }
        Ok(())
    }

    /// Reads preconditions for the deletion of one object from the query. (For a collection, `resourceVersion` is the
    /// version of the list.)
    fn add_preconditions(&mut self, query: &Query) {
        for name in ["uid", "resourceVersion"] {
            if let Some(value) = query.get(name) {
                let all = self.preconditions.get_or_insert_default();
                let one = match name {
                    "uid" => &mut all.uid,
                    _ => &mut all.resource_version,
                };
                one.get_or_insert(value.to_owned());
            }
        }
    }

    /// The status code for an object that still exists: 202 for a client with the deprecated option
    /// `orphanDependents`.
    fn code_of_pending(&self) -> StatusCode {
        if self.orphan_dependents == Some(false) {
            StatusCode::ACCEPTED
        } else {
            StatusCode::OK
        }
    }

    fn errors(&self) -> Vec<FieldError> {
        let field = FieldPath::root("propagationPolicy");
        match self.propagation_policy.as_deref() {
            None => Vec::new(),
            Some(policy) if self.orphan_dependents.is_some() => vec![FieldError::invalid(
                &field,
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            )],
            Some("Background" | "Foreground" | "Orphan") => Vec::new(),
            Some(other) => {
                let allowed = ["Background", "Foreground", "Orphan"];
                vec![FieldError::not_supported(&field, other, &allowed)]
            }
        }
    }

    /// Whether only an object that cannot be decoded is to be deleted.
    pub(super) fn is_unsafe(&self) -> bool {
        self.ignore_read_error == Some(true)
    }

    /// An object that cannot be decoded has no readable attributes, so options that concern attributes are errors.
    fn unsafe_errors(&self) -> Vec<FieldError> {
        if !self.is_unsafe() {
            return Vec::new();
        }
        let field = FieldPath::root(IGNORE_READ_ERROR);
        let others = [
            ("propagationPolicy", self.propagation_policy.is_some()),
            ("orphanDependents", self.orphan_dependents.is_some()),
            ("gracePeriodSeconds", self.grace_period_seconds.is_some()),
            ("preconditions", self.preconditions.is_some()),
        ];
        let present = others.into_iter().filter(|(_, is_set)| *is_set);
        let errors = present.map(|(name, _)| {
            let why = format!("cannot be set together with .{name}");
            FieldError::invalid(&field, true, why)
        });
        errors.collect()
    }

    /// Refuses the deletion of unreadable objects in a collection.
    ///
    /// *Errors.* 422.
    pub(super) fn check_collection(&self) -> Result<(), Status> {
        if !self.is_unsafe() {
            return Ok(());
        }
        let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
        let error = FieldError::invalid(&FieldPath::root(IGNORE_READ_ERROR), true, why);
        Err(Status::invalid(
            "meta.k8s.io",
            "DeleteOptions",
            "",
            &[error],
        ))
    }

    /// Warns a client without a propagation policy about the default, if the kind has such a warning.
    pub(super) fn warn(&self, request: &WriteRequest<'_>) {
        if self.propagation_policy.is_none() && self.orphan_dependents.is_none() {
            let advice = request.resource.kind.deletion().deletion_warning();
            request.warn(advice.map(str::to_owned));
        }
    }

    /// Refuses with 409 if `preconditions` contain another UID or resourceVersion than the object.
    pub(crate) fn check(&self, resource: &Resource, object: &Value) -> Result<(), Status> {
        let Some(preconditions) = &self.preconditions else {
            return Ok(());
        };
        let name = metadata::text(object, "name");
        for (expected, label, field) in [
            (&preconditions.uid, "UID", "uid"),
            (
                &preconditions.resource_version,
                "ResourceVersion",
                "resourceVersion",
            ),
        ] {
            let actual = metadata::text(object, field);
            if let Some(expected) = expected
                && expected != actual
            {
                let why = format!(
                    "Precondition failed: {label} in precondition: {expected}, \
                     {label} in object meta: {actual}"
                );
                return Err(resource.conflict(name, &why));
            }
        }
        Ok(())
    }
}

/// Responds to a DELETE of one object.
pub(crate) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    bytes: &[u8],
) -> Result<Reply, Status> {
    let (mut options, dry_run) = DeleteOptions::parse(&call.parts.headers, bytes, &call.query)?;
    if options.is_unsafe() {
        return delete_unreadable(writer, resource, call, dry_run).await;
    }
    options.add_preconditions(&call.query);
    let write = WriteOptions {
        dry_run,
        validation: Validation::Ignore,
    };
    let request = WriteRequest::of(call, resource, write);
    options.warn(&request);
    let mut deleted = delete(writer, &request, &options).await?;
    if deleted.is_deleted && !RETURNED.contains(&(resource.info().group, resource.info().plural)) {
        // The object is deleted already, so an unreadable UID must not make the response an error.
        let uid = json_text::find_string(&deleted.stored.value, &["metadata", "uid"]);
        let status = success(resource, request.name, uid.unwrap_or_default().as_deref());
        return output::value(call, &status, StatusCode::OK);
    }
    let code = if deleted.is_deleted {
        StatusCode::OK
    } else {
        options.code_of_pending()
    };
    deleted.stored = match writer.answer(&request, deleted.stored.clone()).await {
        Ok(stored) => stored,
        // The deletion has been stored, so the response is not an error.
        Err(error) => {
            tracing::warn!(%error, "a deleted object could not be converted for the response");
            let uid = json_text::find_string(&deleted.stored.value, &["metadata", "uid"]);
            let status = success(resource, request.name, uid.unwrap_or_default().as_deref());
            return output::value(call, &status, code);
        }
    };
    output::written(call, resource, &deleted, code)
}

/// Deletes an object that cannot be decoded, if the user has the right to the special verb. Finalizers, admission and
/// dependents are ignored, because they are not readable.
async fn delete_unreadable(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    dry_run: bool,
) -> Result<Reply, Status> {
    let info = call.info.with_verb("unsafe-delete-ignore-read-errors");
    authorize::authorize(&writer.access.authorizer, &call.user, &info)?;
    let request = WriteRequest::of(
        call,
        resource,
        WriteOptions {
            dry_run,
            validation: Validation::Ignore,
        },
    );
    writer
        .objects
        .remove_unreadable(resource, request.namespace, request.name, dry_run)
        .await?;
    let status = success(resource, request.name, None);
    output::value(call, &status, StatusCode::OK)
}

/// The Status of a deletion, with the UID of the object: kubectl waits until the object with this UID is deleted.
fn success(resource: &Resource, name: &str, uid: Option<&str>) -> Value {
    let info = resource.info();
    let mut details = json!({"name": name, "kind": info.plural});
    if let Some(uid) = uid {
        details["uid"] = json!(uid);
    }
    if !info.group.is_empty() {
        details["group"] = json!(info.group);
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    })
}

/// Deletes an object, or marks it as being deleted if it has finalizers or a grace period.
pub(crate) async fn delete(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    options: &DeleteOptions,
) -> Result<CompletedWrite, Status> {
    let resource = request.resource;
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let stored = writer.stored(request).await?;
        // A deletion needs no more than the metadata, so the object stays in the version in which it is stored, and the
        // webhook of its kind is not called.
        let stored_as = writer.objects.stored_as(resource, &stored);
        let as_stored = &WriteRequest {
            resource: stored_as.as_deref().unwrap_or(resource),
            ..*request
        };
        let reads = resource.kind.deletion().reads();
        let DecodedObject {
            tree: mut object,
            managers,
            parts,
        } = writer.decoded(as_stored, &stored, reads)?;
        options.check(resource, &object)?;
        admit(
            &writer.admission.plugins,
            request,
            Operation::Delete,
            &mut Value::Null,
            Some(&object),
        )?;
        // As for an update: webhooks and policies get the whole decoded object.
        if matches!(managers, Managers::Within) {
            review(writer, request, as_stored, &object).await?;
        }
        let resource = as_stored.resource;
        let mark = Mark::of(resource, &object, options, Timestamp::now());
        let is_removed = mark.lets_go(resource, &object);
        if request.dry_run || (!is_removed && mark.is_empty()) {
            return Ok(CompletedWrite {
                stored,
                is_deleted: is_removed,
            });
        }
        let done = if is_removed {
            let revision = remove(writer.objects, resource, &stored, &object, &parts).await?;
            revision.map(|_| CompletedWrite {
                stored,
                is_deleted: true,
            })
        } else {
            mark.apply(resource, &mut object);
            let objects = writer.objects;
            let stored = objects
                .replace(resource, &stored, &object, &managers, &parts)
                .await?;
            stored.map(|stored| CompletedWrite {
                stored,
                is_deleted: false,
            })
        };
        if let Some(written) = done {
            return Ok(written);
        }
        work::let_others_go_first().await;
    }
    Err(resource.conflict(request.name, MODIFIED))
}

/// Calls the webhooks and policies for a deletion. They get the object in the version of the request; those for a
/// deletion by a component of this server get the version in which it is stored, because garbage collection must not
/// depend on the conversion webhooks of users.
async fn review(
    writer: Writer<'_>,
    request: &WriteRequest<'_>,
    as_stored: &WriteRequest<'_>,
    object: &Value,
) -> Result<(), Status> {
    let (admission, operation, nothing) = (writer.admission, Operation::Delete, &Value::Null);
    let is_in_version = as_stored.resource.info().version == request.resource.info().version;
    if is_in_version
        || request.source.is_none()
        || !dynamic_admission::concerns(admission, request)?
    {
        let old = Some(object);
        dynamic_admission::admit_deletion(admission, as_stored, object).await?;
        return dynamic_admission::validate(admission, as_stored, operation, nothing, old).await;
    }
    let objects = writer.objects;
    let object = objects.object_in(request.resource, object.clone()).await?;
    dynamic_admission::admit_deletion(admission, request, &object).await?;
    dynamic_admission::validate(admission, request, operation, nothing, Some(&object)).await
}

/// The changes of a deletion to an object that is not removed at once.
struct Mark {
    /// The new finalizers; `None` if they stay.
    finalizers: Option<Vec<String>>,
    /// The end of the grace period and its length in seconds; `None` if they stay.
    grace: Option<(Timestamp, i64)>,
}

impl Mark {
    fn of(resource: &Resource, object: &Value, options: &DeleteOptions, now: Timestamp) -> Self {
        let finalizers = dependents(resource, object, options);
        let finalizers = finalizers.filter(|list| *list != metadata::finalizers(object));
        let kind = resource.kind.deletion();
        let requested_seconds = kind.grace_seconds(object, options.grace_period_seconds);
        let requested_seconds = requested_seconds.max(0);
        let end = |from: Timestamp, seconds: i64| {
            from.saturating_add(SignedDuration::from_secs(seconds))
                .unwrap_or(from)
        };
        let before = metadata::grace_seconds(object);
        let grace = if !metadata::is_deleting(object) {
            Some((end(now, requested_seconds), requested_seconds))
        } else if requested_seconds < before {
            // A repeated deletion may only shorten the grace period.
            let since: Option<Timestamp> = metadata::text(object, "deletionTimestamp").parse().ok();
            let start = since.map_or(now, |until| end(until, -before));
            Some((end(start, requested_seconds), requested_seconds))
        } else {
            None
        };
        Self { finalizers, grace }
    }

    fn is_empty(&self) -> bool {
        self.finalizers.is_none() && self.grace.is_none()
    }

    /// Whether the object can be removed at once after these changes.
    fn lets_go(&self, resource: &Resource, object: &Value) -> bool {
        let grace = self.grace.map(|(_, grace)| grace);
        let grace = grace.unwrap_or_else(|| metadata::grace_seconds(object));
        let finalizers = match &self.finalizers {
            Some(list) => list.len(),
            None => metadata::finalizers(object).len(),
        };
        is_free(resource, object, grace, finalizers)
    }

    fn apply(self, resource: &Resource, object: &mut Value) {
        let metadata = metadata::of(object);
        if let Some(list) = self.finalizers {
            metadata.insert("finalizers".to_owned(), json!(list));
        }
        let Some((end, grace)) = self.grace else {
            return;
        };
        let first = metadata
            .insert("deletionTimestamp".to_owned(), metadata::time(end))
            .is_none_or(|before| before.is_null());
        if resource.kind.deletion().sets_grace() {
            metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
            metadata::bump_generation(object);
        }
        if first && is_held_by_spec(resource, object) {
            object["status"]["phase"] = json!("Terminating");
        }
    }
}

/// The finalizers, with the garbage collector's finalizers that the propagation policy needs. `None` without a
/// policy, if the object has a finalizer of the collector already, or its kind does not orphan dependents by default.
fn dependents(resource: &Resource, object: &Value, options: &DeleteOptions) -> Option<Vec<String>> {
    let before = metadata::finalizers(object);
    let is_marked = || {
        let mut all = before.iter();
        all.any(|name| [ORPHAN, FOREGROUND].contains(name))
    };
    let policy = match (&options.propagation_policy, options.orphan_dependents) {
        (Some(policy), _) => policy.as_str(),
        (None, Some(true)) => "Orphan",
        (None, Some(false)) => "Background",
        (None, None) if resource.kind.deletion().orphans_by_default() && !is_marked() => "Orphan",
        (None, None) => return None,
    };
    let finalizer = match policy {
        "Orphan" => Some(ORPHAN),
        "Foreground" => Some(FOREGROUND),
        _ => None,
    };
    let others = before
        .iter()
        .copied()
        .filter(|name| ![ORPHAN, FOREGROUND].contains(name));
    Some(others.chain(finalizer).map(str::to_owned).collect())
}
