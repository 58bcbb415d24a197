//! The admission of one request by webhooks and policies.

mod policies;
mod versions;
mod webhooks;

use std::sync::Arc;

use admission_rules::{
    ObjectKind, PolicyFailures, RefusedObject, Request, ResourceAndKind, Scope, TargetResource,
};
use custom_resources::RequestAuthorizer;
use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::{Body, ObjectReader};

use self::webhooks::CallSite;
use super::registrations::{Admission, MutationStep, Registrations};
use super::rights::request_authorizer;
use super::{call, responses};
use crate::catalog::registry::Resource;
use crate::catalog::virtual_resources::{AUTHENTICATION, AUTHORIZATION};
use crate::objects::storage::Objects;
use crate::objects::storage::reading;
use crate::objects::write_request::WriteRequest;

/// The review of one write by webhooks and policies.
pub(super) struct AdmissionReviewer<'a> {
    objects: &'a Objects,
    write_request: &'a WriteRequest<'a>,
    operation: &'static str,
    old: &'a Value,
    namespace: Arc<Value>,
    /// The resource, and the other versions of the resource.
    versions: Vec<Arc<Resource>>,
    authorizer: Arc<RequestAuthorizer>,
    /// The number of earlier calls of [`change`](Self::change).
    round: usize,
}

impl<'a> AdmissionReviewer<'a> {
    pub(super) fn new(
        admission: &'a Admission,
        write_request: &'a WriteRequest<'a>,
        operation: &'static str,
        old: Option<&'a Value>,
    ) -> Result<Self, Status> {
        let objects = &admission.objects;
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
            authorizer: request_authorizer(admission.plugins.authorizer(), write_request.user),
            round: 0,
        })
    }

    /// Runs the mutating steps in order; returns the index of the last step that changed the object.
    ///
    /// *Errors.* The failures of all policies together, before the first webhook is called; the refusal of a webhook.
    pub(super) async fn change<'s>(
        &mut self,
        steps: impl Iterator<Item = MutationStep<'s>>,
        object: &mut Value,
    ) -> Result<Option<usize>, Status> {
        let mut last = None;
        let mut failures = PolicyFailures::default();
        let about = RefusedObject {
            target: self.subject(self.write_request.resource).target,
            name: self.write_request.name,
        };
        for (index, step) in steps.enumerate() {
            let changed = match step {
                MutationStep::Policy(_) if !self.has_policies() => false,
                MutationStep::Policy(policy) => {
                    self.by_policy(policy, object, &mut failures).await?
                }
                MutationStep::Hook(number, webhook) => {
                    failures.settle(&about)?;
                    let site = CallSite {
                        is_mutating: true,
                        round: self.round,
                        index: number,
                    };
                    self.by_webhook(webhook, site, object).await?
                }
            };
            if changed {
                last = Some(index);
            }
        }
        failures.settle(&about)?;
        self.round += 1;
        Ok(last)
    }

    /// Whether policies apply to the resource. As upstream, they do not apply to reviews of identity and access,
    /// because a policy that denies these would stop the cluster.
    fn has_policies(&self) -> bool {
        let info = self.write_request.resource.info();
        !matches!(info.group, AUTHENTICATION | AUTHORIZATION)
    }

    /// Runs the validating policies, then the validating webhooks.
    pub(super) async fn judge(
        &self,
        registrations: &Registrations,
        object: &Value,
    ) -> Result<(), Status> {
        if self.has_policies() {
            self.by_rules(&registrations.policies, object).await?;
        }
        for (index, webhook) in registrations.validating.iter().enumerate() {
            let site = CallSite {
                is_mutating: false,
                round: 0,
                index,
            };
            self.judge_by_webhook(webhook, site, object).await?;
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
            authorizer: Some(&self.authorizer),
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
