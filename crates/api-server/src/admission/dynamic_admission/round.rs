//! The admission of one request by webhooks and policies.

use std::sync::Arc;

use admission_rules::{
    AdmissionObjects, MutatingPolicy, ObjectKind, ParameterSource, Patch, RefusedObject, Request,
    ResourceAndKind, Scope, TargetResource, Webhook, WebhookVerdict, verdict,
};
use json_tree::{Value, json};
use object_model::Status;
use openapi_schema::Schema;
use resource_kinds::{Body, ObjectReader};
use structured_merge::apply::overlay;
use structured_merge::{PatchError, json_patch};

use super::{Registrations, answers, call};
use crate::catalog::registry::Resource;
use crate::catalog::snapshot::Snapshot;
use crate::objects::metadata;
use crate::objects::storage::Objects;
use crate::objects::storage::reading;
use crate::objects::write_request::{WriteRequest, complaints};

/// A mutating webhook or policy.
pub(super) enum MutationStep<'a> {
    Policy(&'a MutatingPolicy),
    Hook(&'a Webhook),
}

impl MutationStep<'_> {
    /// Whether it is reinvoked after other changes of the object (`reinvocationPolicy`).
    pub(super) fn asked_again(&self) -> bool {
        match self {
            Self::Policy(policy) => policy.asked_again(),
            Self::Hook(webhook) => webhook.asked_again,
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
    /// The resource, and the other versions of the same objects.
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
        let own = write_request.resource.info();
        let registry = &objects.catalog.snapshot().registry;
        let same = |one: &&Arc<Resource>| {
            let info = one.info();
            info.storage == own.storage && info.api_version() != own.api_version()
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

    /// Runs the mutating ones in order; returns the index of the last one that changed the object.
    pub(super) async fn change<'s>(
        &mut self,
        steps: impl Iterator<Item = MutationStep<'s>>,
        object: &mut Value,
    ) -> Result<Option<usize>, Status> {
        let mut last = None;
        for (place, step) in steps.enumerate() {
            let changed = match step {
                MutationStep::Policy(policy) => self.by_policy(policy, object)?,
                MutationStep::Hook(webhook) => self.by_webhook(webhook, object).await?,
            };
            if changed {
                last = Some(place);
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
            self.answer(webhook, object).await?;
        }
        Ok(())
    }

    /// Sets the object's kind, for a sub-resource with a kind of its own.
    pub(super) fn name_kind(&self, object: &mut Value) {
        let kind = self.kind(self.write_request.resource);
        name_kind(object, kind);
    }

    /// Whether the object is of the resource's kind, and not of a sub-resource's own.
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

    /// The resource at a place among the versions.
    fn resource(&self, place: usize) -> &Resource {
        let other = place.checked_sub(1).and_then(|at| self.versions.get(at));
        other.map_or(self.write_request.resource, |other| other.as_ref())
    }

    fn subjects(&self) -> Vec<ResourceAndKind<'_>> {
        let all = 0..=self.versions.len();
        all.map(|place| self.subject(self.resource(place)))
            .collect()
    }

    /// The request, converted to the version at an index.
    fn request<'r>(
        &'r self,
        place: usize,
        uid: &'r str,
        (object, old): (&'r Value, &'r Value),
    ) -> Request<'r> {
        let write_request = self.write_request;
        Request {
            uid,
            operation: self.operation,
            subject: self.subject(self.resource(place)),
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
            // A connection has none but its object.
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

    /// The object as the version at a place has it.
    fn seen(&self, place: usize, object: &Value) -> Result<Value, String> {
        if place == 0 || !object.is_object() || !self.is_whole() {
            return Ok(object.clone());
        }
        self.resource(place).kind.decode(object.clone())
    }

    /// Takes over the changed object, in the version at an index; returns whether it differs.
    ///
    /// *Errors.* The error of the conversion.
    fn take(&self, place: usize, made: Value, object: &mut Value) -> Result<bool, String> {
        let mut made = made;
        if !made.is_object() {
            return Err("it is no object any longer".to_owned());
        }
        // Its kind stays, whatever the change.
        name_kind(&mut made, self.kind(self.resource(place)));
        if self.is_whole() {
            made = self.write_request.resource.kind.decode(made)?;
            for field in ["name", "namespace", "uid"] {
                if metadata::text(&made, field) != metadata::text(object, field) {
                    return Err(format!("it may not change metadata.{field}"));
                }
            }
        }
        let differs = made != *object;
        *object = made;
        Ok(differs)
    }

    async fn by_webhook(&mut self, webhook: &Webhook, object: &mut Value) -> Result<bool, Status> {
        let Some((place, Some(patch))) = self.answer(webhook, object).await? else {
            return Ok(false);
        };
        let made = self
            .seen(place, object)
            .and_then(|seen| answers::patched(seen, &patch));
        let taken = made.and_then(|made| self.take(place, made, object));
        taken.map_err(|why| failed(webhook, &why))
    }

    fn by_policy(&self, policy: &MutatingPolicy, object: &mut Value) -> Result<bool, Status> {
        let served = self.objects.catalog.snapshot();
        let own = self.request(0, "", (object, self.old));
        let about = RefusedObject {
            target: self.subject(self.write_request.resource).target,
            name: self.write_request.name,
        };
        let wanted = reading(self.objects, |reads| {
            let cluster = ParameterSource {
                objects: reads,
                plural_of: &plural_of(&served),
            };
            policy.wants(&own, &self.subjects(), &cluster)
        })?;
        let Some((place, all)) = wanted else {
            return Ok(false);
        };
        let seen = |object: &Value| self.seen(place, object).map(Some);
        let old = policy.unless_it_may_fail(&about, seen(self.old))?;
        let made = policy.unless_it_may_fail(&about, seen(object))?;
        let (Some(old), Some(mut made)) = (old, made) else {
            return Ok(false);
        };
        for settings in all {
            let request = self.request(place, "", (&made, &old));
            if !policy.applies(&request, &settings)? {
                continue;
            }
            for number in 0..policy.changes() {
                let request = self.request(place, "", (&made, &old));
                let patched = policy
                    .change(number, &request, &settings)
                    .and_then(|patch| match patch {
                        None => Ok(None),
                        Some(patch) => self.patched(place, &made, patch),
                    });
                if let Some(patched) = policy.unless_it_may_fail(&about, patched)? {
                    made = patched;
                }
            }
        }
        let taken = self.take(place, made, object).map(Some);
        let taken = policy.unless_it_may_fail(&about, taken)?;
        Ok(taken.unwrap_or(false))
    }

    /// The object, in the version at an index, after a policy's mutation; `None` if it is
    /// unchanged.
    fn patched(&self, place: usize, object: &Value, patch: Patch) -> Result<Option<Value>, String> {
        let resource = self.resource(place);
        let kind = self.kind(resource);
        let mut made = match patch {
            Patch::Json(patch) => match json_patch(object.clone(), &patch) {
                Ok(made) => made,
                // The patch says itself when it is not for the object.
                Err(PatchError::TestFailed(_)) => return Ok(None),
                Err(error) => return Err(format!("JSON Patch: {error}")),
            },
            Patch::Apply(mut config) => {
                name_kind(&mut config, kind);
                let schema = match self.own_kind() {
                    None => resource.schema(),
                    Some(_) => Schema::published(),
                };
                let known = schema.lookup(kind.group, kind.version, kind.kind);
                let known =
                    known.ok_or_else(|| format!("Resource kind {} not found", kind.kind))?;
                let merged = overlay(object, &config, known);
                merged.map_err(|why| format!("error applying patch: {why}"))?
            }
        };
        if self.is_whole() {
            let found = complaints(resource, &made, &[]);
            if !found.is_empty() {
                return Err(format!("strict decoding error: {}", found.join(", ")));
            }
            made = resource.kind.decode(made)?;
            resource.kind.default(&mut made);
        }
        Ok(Some(made))
    }

    /// The response of a webhook: the index of its version, and a patch. `None` if it does not
    /// match, or failed with `failurePolicy: Ignore`.
    async fn answer(
        &mut self,
        webhook: &Webhook,
        object: &Value,
    ) -> Result<Option<(usize, Option<String>)>, Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = self.request(0, &uid, (object, self.old));
        let wanted = webhook.wants(&request, &self.subjects());
        let Some(place) = wanted.map_err(|why| failed(webhook, &why))? else {
            return Ok(None);
        };
        let seen = |object| self.seen(place, object).map_err(Status::internal);
        let (object, old) = (seen(object)?, seen(self.old)?);
        let review = admission_rules::review(webhook, &self.request(place, &uid, (&object, &old)));
        let answer = call::ask(self.objects, webhook, &review).await;
        match answer.and_then(|answer| verdict(webhook, &uid, &answer)) {
            Ok(WebhookVerdict::Allowed { patch, warnings }) => {
                self.write_request.warn(warnings);
                Ok(Some((place, patch)))
            }
            Ok(WebhookVerdict::Denied { status, warnings }) => {
                self.write_request.warn(warnings);
                Err(status)
            }
            Err(why) if webhook.must_answer => Err(failed(webhook, &why)),
            Err(why) => {
                tracing::warn!(webhook = webhook.name, %why, "a webhook did not answer");
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
        let seen_as = |place: usize| {
            Ok(AdmissionObjects {
                object: self.seen(place, object)?,
                old: self.seen(place, self.old)?,
            })
        };
        let request = self.request(0, "", (object, self.old));
        let judgement = reading(self.objects, |reads| {
            let cluster = ParameterSource {
                objects: reads,
                plural_of: &plural_of(&served),
            };
            Ok(policies.judge(&request, &self.subjects(), &seen_as, &cluster))
        })?;
        for complaint in &judgement.audited {
            tracing::info!(%complaint, "a policy does not allow a write");
        }
        self.write_request.warn(judgement.warnings);
        judgement.denied.map_or(Ok(()), Err)
    }
}

/// Group and plural of a kind that is served, by its version and name.
fn plural_of(served: &Snapshot) -> impl Fn(&str, &str) -> Option<(String, String)> + '_ {
    |version, kind| {
        let found = served.registry.of_kind(version, kind)?;
        let info = found.info();
        Some((info.group.to_owned(), info.plural.to_owned()))
    }
}

/// Says in an object which kind it is.
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

/// A webhook that must answer did not, or not in a way that can be understood.
fn failed(webhook: &Webhook, why: &str) -> Status {
    Status::internal(format!("failed calling webhook {:?}: {why}", webhook.name))
}
