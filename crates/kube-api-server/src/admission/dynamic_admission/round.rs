//! The admission of one request by webhooks and policies.

use std::fmt::Display;
use std::sync::Arc;

use admission_rules::{
    AdmissionObjects, MutatingPolicy, ObjectKind, ParameterSource, Patch, RefusedObject, Request,
    ResourceAndKind, RuleError, Scope, TargetResource, Webhook, WebhookVerdict, verdict,
};
use json_tree::{Value, json};
use object_model::Status;
use openapi_documents::Schema;
use resource_kinds::{Body, DecodeError, ObjectReader};
use structured_merge::apply::{OverlayError, overlay};
use structured_merge::{PatchError, json_patch};
use thiserror::Error;

use super::responses::ResponseError;
use super::{Registrations, call, responses};
use crate::catalog::registry::Resource;
use crate::catalog::snapshot::Snapshot;
use crate::objects::metadata;
use crate::objects::storage::Objects;
use crate::objects::storage::reading;
use crate::objects::write_request::{WriteRequest, complaints};

/// The reason why a mutation of a webhook or policy is refused.
#[derive(Debug, Error)]
enum MutationError {
    #[error("it is no object any longer")]
    NotObject,
    /// A field of the metadata.
    #[error("it may not change metadata.{0}")]
    Identity(&'static str),
    #[error(transparent)]
    Form(#[from] DecodeError),
    #[error(transparent)]
    Response(#[from] ResponseError),
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("JSON Patch: {0}")]
    JsonPatch(PatchError),
    #[error("Resource kind {0} not found")]
    UnknownKind(String),
    #[error("error applying patch: {0}")]
    Apply(OverlayError),
    #[error("strict decoding error: {0}")]
    Strict(String),
}

/// A mutating webhook or policy.
pub(super) enum MutationStep<'a> {
    Policy(&'a MutatingPolicy),
    Hook(&'a Webhook),
}

impl MutationStep<'_> {
    /// Whether the step is called again after other changes of the object (`reinvocationPolicy`).
    pub(super) fn is_reinvoked(&self) -> bool {
        match self {
            Self::Policy(policy) => policy.is_reinvoked(),
            Self::Hook(webhook) => webhook.is_reinvoked,
        }
    }
}

/// The review of one write by webhooks and policies.
pub(super) struct AdmissionReviewer<'a> {
    objects: &'a Objects,
    write_request: &'a WriteRequest<'a>,
    operation: &'static str,
    old: &'a Value,
    namespace: Arc<Value>,
    /// The resource, and the other versions of the resource.
    versions: Vec<Arc<Resource>>,
}

impl<'a> AdmissionReviewer<'a> {
    pub(super) fn new(
        objects: &'a Objects,
        write_request: &'a WriteRequest<'a>,
        operation: &'static str,
        old: Option<&'a Value>,
    ) -> Result<Self, Status> {
        let namespace = match write_request.namespace {
            "" => None,
            name => reading(objects, |reads| Ok(reads.get("", "namespaces", "", name)))?,
        };
        let kind_info = write_request.resource.info();
        let registry = &objects.catalog.snapshot().registry;
        let same = |one: &&Arc<Resource>| {
            let info = one.info();
            info.storage == kind_info.storage && info.api_version() != kind_info.api_version()
        };
        Ok(Self {
            objects,
            write_request,
            operation,
            old: old.unwrap_or(&Value::Null),
            namespace: namespace.unwrap_or_default(),
            versions: registry.resources().filter(same).cloned().collect(),
        })
    }

    /// Runs the mutating steps in order; returns the index of the last step that changed the object.
    pub(super) async fn change<'s>(
        &mut self,
        steps: impl Iterator<Item = MutationStep<'s>>,
        object: &mut Value,
    ) -> Result<Option<usize>, Status> {
        let mut last = None;
        for (index, step) in steps.enumerate() {
            let changed = match step {
                MutationStep::Policy(policy) => self.by_policy(policy, object)?,
                MutationStep::Hook(webhook) => self.by_webhook(webhook, object).await?,
            };
            if changed {
                last = Some(index);
            }
        }
        Ok(last)
    }

    /// Runs the validating policies, then the validating webhooks.
    pub(super) async fn judge(
        &mut self,
        registrations: &Registrations,
        object: &Value,
    ) -> Result<(), Status> {
        self.by_rules(registrations, object)?;
        for webhook in &registrations.validating {
            self.response_of(webhook, object).await?;
        }
        Ok(())
    }

    /// Sets `apiVersion` and `kind` of an object of a sub-resource that has its own kind.
    pub(super) fn name_kind(&self, object: &mut Value) {
        let kind = self.kind(self.write_request.resource);
        name_kind(object, kind);
    }

    /// Whether the request is about an object of the resource's kind, and not about an object of a sub-resource's
    /// kind.
    fn is_whole(&self) -> bool {
        self.own_kind().is_none()
    }

    fn own_kind(&self) -> Option<ObjectKind<'static>> {
        let resource = self.write_request.resource;
        let part = resource.subresource(self.write_request.subresource)?;
        match part.body {
            Body::Object => None,
            Body::Other {
                group,
                version,
                kind,
            } => Some(ObjectKind {
                group,
                version,
                kind,
            }),
        }
    }

    fn kind<'r>(&self, resource: &'r Resource) -> ObjectKind<'r> {
        let info = resource.info();
        self.own_kind().unwrap_or(ObjectKind {
            group: info.group,
            version: info.version,
            kind: info.kind,
        })
    }

    fn subject<'r>(&self, resource: &'r Resource) -> ResourceAndKind<'r>
    where
        'a: 'r,
    {
        let info = resource.info();
        ResourceAndKind {
            target: TargetResource {
                group: info.group,
                version: info.version,
                plural: info.plural,
                subresource: self.write_request.subresource,
                scope: if resource.namespaced() {
                    Scope::Namespaced
                } else {
                    Scope::Cluster
                },
            },
            kind: self.kind(resource),
        }
    }

    /// The resource in the version with this index.
    fn resource(&self, index: usize) -> &Resource {
        let other = index.checked_sub(1).and_then(|at| self.versions.get(at));
        other.map_or(self.write_request.resource, |other| other.as_ref())
    }

    fn subjects(&self) -> Vec<ResourceAndKind<'_>> {
        let all = 0..=self.versions.len();
        all.map(|index| self.subject(self.resource(index)))
            .collect()
    }

    /// The request, converted to the version at an index.
    fn request<'r>(
        &'r self,
        index: usize,
        uid: &'r str,
        object: &'r Value,
        old: &'r Value,
    ) -> Request<'r> {
        let write_request = self.write_request;
        Request {
            uid,
            operation: self.operation,
            subject: self.subject(self.resource(index)),
            requested: self.subject(write_request.resource),
            namespace: write_request.namespace,
            name: write_request.name,
            user: write_request.user.to_json(),
            object,
            old,
            dry_run: write_request.dry_run,
            options: self.options(),
            namespace_object: &self.namespace,
        }
    }

    fn options(&self) -> Value {
        let kind = match self.operation {
            "CREATE" => "CreateOptions",
            "UPDATE" => "UpdateOptions",
            "DELETE" => "DeleteOptions",
            // A connection has options as its object, but no old object.
            _ => return Value::Null,
        };
        let write_request = self.write_request;
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if kind != "DeleteOptions" && !write_request.manager.is_empty() {
            options["fieldManager"] = json!(write_request.manager);
        }
        if write_request.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        options
    }

    /// The object, converted to the version with this index.
    fn converted(&self, index: usize, object: &Value) -> Result<Value, DecodeError> {
        if index == 0 || !object.is_object() || !self.is_whole() {
            return Ok(object.clone());
        }
        self.resource(index).kind.decode(object.clone())
    }

    /// Stores a mutated object, which is in the version with this index, as the new object; returns whether the
    /// object changed.
    ///
    /// *Errors.* The error of the conversion.
    fn store_mutated(
        &self,
        index: usize,
        mutated: Value,
        object: &mut Value,
    ) -> Result<bool, MutationError> {
        let mut mutated = mutated;
        if !mutated.is_object() {
            return Err(MutationError::NotObject);
        }
        // A mutation cannot change the kind.
        name_kind(&mut mutated, self.kind(self.resource(index)));
        if self.is_whole() {
            mutated = self.write_request.resource.kind.decode(mutated)?;
            for field in ["name", "namespace", "uid"] {
                if metadata::text(&mutated, field) != metadata::text(object, field) {
                    return Err(MutationError::Identity(field));
                }
            }
        }
        let differs = mutated != *object;
        *object = mutated;
        Ok(differs)
    }

    async fn by_webhook(&mut self, webhook: &Webhook, object: &mut Value) -> Result<bool, Status> {
        let Some((index, Some(patch))) = self.response_of(webhook, object).await? else {
            return Ok(false);
        };
        let mutated = self
            .converted(index, object)
            .map_err(MutationError::from)
            .and_then(|converted| Ok(responses::patched(converted, &patch)?));
        let result = mutated.and_then(|mutated| self.store_mutated(index, mutated, object));
        result.map_err(|error| failed(webhook, &error))
    }

    fn by_policy(&self, policy: &MutatingPolicy, object: &mut Value) -> Result<bool, Status> {
        let served = self.objects.catalog.snapshot();
        let original = self.request(0, "", object, self.old);
        let about = RefusedObject {
            target: self.subject(self.write_request.resource).target,
            name: self.write_request.name,
        };
        let match_result = reading(self.objects, |reads| {
            let cluster = ParameterSource {
                objects: reads,
                plural_of: &plural_of(&served),
            };
            policy.match_request(&original, &self.subjects(), &cluster)
        })?;
        let Some((index, all)) = match_result else {
            return Ok(false);
        };
        let convert = |object: &Value| self.converted(index, object).map(Some);
        let old = policy.unless_it_may_fail(&about, convert(self.old))?;
        let converted = policy.unless_it_may_fail(&about, convert(object))?;
        let (Some(old), Some(mut mutated)) = (old, converted) else {
            return Ok(false);
        };
        for settings in all {
            let request = self.request(index, "", &mutated, &old);
            if !policy.applies(&request, &settings)? {
                continue;
            }
            for number in 0..policy.changes() {
                let request = self.request(index, "", &mutated, &old);
                let patched = policy
                    .change(number, &request, &settings)
                    .map_err(MutationError::from)
                    .and_then(|patch| match patch {
                        None => Ok(None),
                        Some(patch) => self.patched(index, &mutated, patch),
                    });
                if let Some(patched) = policy.unless_it_may_fail(&about, patched)? {
                    mutated = patched;
                }
            }
        }
        let result = self.store_mutated(index, mutated, object).map(Some);
        let result = policy.unless_it_may_fail(&about, result)?;
        Ok(result.unwrap_or(false))
    }

    /// The object, in the version with this index, after a policy's mutation; `None` if the object is unchanged.
    fn patched(
        &self,
        index: usize,
        object: &Value,
        patch: Patch,
    ) -> Result<Option<Value>, MutationError> {
        let resource = self.resource(index);
        let kind = self.kind(resource);
        let mut mutated = match patch {
            Patch::Json(patch) => match json_patch(object.clone(), &patch) {
                Ok(mutated) => mutated,
                // A failed `test` operation means that the patch does not apply to this object.
                Err(PatchError::TestFailed(_)) => return Ok(None),
                Err(error) => return Err(MutationError::JsonPatch(error)),
            },
            Patch::Apply(mut config) => {
                name_kind(&mut config, kind);
                let schema = match self.own_kind() {
                    None => resource.schema(),
                    Some(_) => Schema::published(),
                };
                let object_type = schema.lookup(kind.group, kind.version, kind.kind);
                let object_type =
                    object_type.ok_or_else(|| MutationError::UnknownKind(kind.kind.to_owned()))?;
                let merged = overlay(object, &config, object_type);
                merged.map_err(MutationError::Apply)?
            }
        };
        if self.is_whole() {
            let problems = complaints(resource, &mutated, &[]);
            if !problems.is_empty() {
                return Err(MutationError::Strict(problems.join(", ")));
            }
            mutated = resource.kind.decode(mutated)?;
            resource.kind.default(&mut mutated);
        }
        Ok(Some(mutated))
    }

    /// Calls a webhook; returns the index of its version, and its response. `None` if the webhook does not match, or
    /// failed with `failurePolicy: Ignore`.
    async fn response_of(
        &mut self,
        webhook: &Webhook,
        object: &Value,
    ) -> Result<Option<(usize, Option<String>)>, Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = self.request(0, &uid, object, self.old);
        let match_result = webhook.match_request(&request, &self.subjects());
        let Some(index) = match_result.map_err(|error| failed(webhook, &error))? else {
            return Ok(None);
        };
        let convert = |object| {
            let converted = self.converted(index, object);
            converted.map_err(|error| Status::internal(error.to_string()))
        };
        let (object, old) = (convert(object)?, convert(self.old)?);
        let review = admission_rules::review(webhook, &self.request(index, &uid, &object, &old));
        let response = call::send(self.objects, webhook, &review).await;
        let response = response.and_then(|response| Ok(verdict(webhook, &uid, &response)?));
        match response {
            Ok(WebhookVerdict::Allowed { patch, warnings }) => {
                self.write_request.warn(warnings);
                Ok(Some((index, patch)))
            }
            Ok(WebhookVerdict::Denied { status, warnings }) => {
                self.write_request.warn(warnings);
                Err(status)
            }
            Err(error) if webhook.must_succeed => Err(failed(webhook, &error)),
            Err(error) => {
                tracing::warn!(webhook = webhook.name, why = %error, "a webhook did not answer");
                Ok(None)
            }
        }
    }

    fn by_rules(&mut self, registrations: &Registrations, object: &Value) -> Result<(), Status> {
        let policies = &registrations.policies;
        if policies.is_empty() {
            return Ok(());
        }
        let served = self.objects.catalog.snapshot();
        let converted_to = |index: usize| {
            Ok(AdmissionObjects {
                object: self.converted(index, object)?,
                old: self.converted(index, self.old)?,
            })
        };
        let request = self.request(0, "", object, self.old);
        let judgement = reading(self.objects, |reads| {
            let cluster = ParameterSource {
                objects: reads,
                plural_of: &plural_of(&served),
            };
            Ok(policies.judge(&request, &self.subjects(), &converted_to, &cluster))
        })?;
        for complaint in &judgement.audited {
            tracing::info!(%complaint, "a policy does not allow a write");
        }
        self.write_request.warn(judgement.warnings);
        judgement.denied.map_or(Ok(()), Err)
    }
}

/// Group and plural of a served kind, by API version and kind name.
fn plural_of(served: &Snapshot) -> impl Fn(&str, &str) -> Option<(String, String)> + '_ {
    |version, kind| {
        let resource = served.registry.of_kind(version, kind)?;
        let info = resource.info();
        Some((info.group.to_owned(), info.plural.to_owned()))
    }
}

/// Sets `apiVersion` and `kind` of an object.
fn name_kind(object: &mut Value, kind: ObjectKind<'_>) {
    let ObjectKind {
        group,
        version,
        kind,
    } = kind;
    let version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), version.into());
        map.insert("kind".to_owned(), kind.into());
    }
}

/// The error for a webhook with `failurePolicy: Fail` that did not respond, or gave an invalid response.
fn failed(webhook: &Webhook, error: &dyn Display) -> Status {
    let name = &webhook.name;
    Status::internal(format!("failed calling webhook {name:?}: {error}"))
}
