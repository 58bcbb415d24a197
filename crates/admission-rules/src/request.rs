//! A request as webhooks and admission policies receive it.

use std::sync::Arc;

use custom_resources::{RequestAuthorizer, ResourceAccess, Values};
use json_tree::{Value, json};

use crate::matching::TargetResource;

/// The group, version and kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectKind<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// API version, for instance `v1`.
    pub version: &'a str,
    /// Kind, for instance `Pod`.
    pub kind: &'a str,
}

/// The resource of a request, and the kind of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceAndKind<'a> {
    /// The resource of the write.
    pub target: TargetResource<'a>,
    /// The kind of the object. A sub-resource may have its own kind.
    pub kind: ObjectKind<'a>,
}

/// A request, in the form for webhooks and policies.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The UID of the request.
    pub uid: &'a str,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'static str,
    /// The resource and kind in the version of the webhook or policy.
    pub subject: ResourceAndKind<'a>,
    /// The resource and kind in the version of the client's request.
    pub requested: ResourceAndKind<'a>,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name; empty if the name is generated later.
    pub name: &'a str,
    /// The user as `userInfo` of an AdmissionReview: `username`, `uid`, `groups`, `extra`.
    pub user: Value,
    /// The new object; null for a deletion.
    pub object: &'a Value,
    /// The old object; null for a creation.
    pub old: &'a Value,
    /// Whether the request is a dry run (`dryRun=All`).
    pub dry_run: bool,
    /// `CreateOptions` or another kind of options; null for `CONNECT`.
    pub options: Value,
    /// The Namespace object; null for cluster scope.
    pub namespace_object: &'a Value,
    /// The rights of the user, for expressions; `None` if expressions have no `authorizer`.
    pub authorizer: Option<&'a Arc<RequestAuthorizer>>,
}

impl Request<'_> {
    /// The fields of an `admission.k8s.io` AdmissionRequest, without the objects.
    pub fn facts(&self) -> Value {
        let kind = |subject: &ResourceAndKind<'_>| {
            let ObjectKind {
                group,
                version,
                kind,
            } = subject.kind;
            json!({"group": group, "version": version, "kind": kind})
        };
        let resource = |subject: &ResourceAndKind<'_>| {
            let target = &subject.target;
            json!({"group": target.group, "version": target.version, "resource": target.plural})
        };
        let mut facts = json!({
            "uid": self.uid,
            "kind": kind(&self.subject),
            "resource": resource(&self.subject),
            "requestKind": kind(&self.requested),
            "requestResource": resource(&self.requested),
            "operation": self.operation,
            "userInfo": self.user,
            "dryRun": self.dry_run,
            "options": self.options,
        });
        for (field, text) in [
            ("subResource", self.subject.target.subresource),
            ("requestSubResource", self.requested.target.subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() {
                facts[field] = json!(text);
            }
        }
        facts
    }

    /// The variables for expressions about the request.
    pub(crate) fn values(&self) -> Values {
        let mut values = Values::default();
        values.add("object", self.object);
        values.add("oldObject", self.old);
        let mut facts = self.facts();
        for field in ["subResource", "requestSubResource", "name", "namespace"] {
            if facts[field].is_null() {
                facts[field] = json!("");
            }
        }
        values.add("request", &facts);
        values.add("namespaceObject", self.namespace_object);
        if let Some(authorizer) = self.authorizer {
            values.add_authorizer(authorizer, self.access());
        }
        values
    }

    /// The requested resource, as `authorizer.requestResource` checks it.
    fn access(&self) -> ResourceAccess {
        let target = &self.requested.target;
        ResourceAccess {
            group: target.group.to_owned(),
            resource: target.plural.to_owned(),
            subresource: target.subresource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            ..ResourceAccess::default()
        }
    }
}

/// Requests of tests.
#[cfg(test)]
pub(crate) mod samples {
    use json_tree::{Value, json};
    use resource_kinds::Scope;

    use super::{ObjectKind, Request, ResourceAndKind};
    use crate::matching::TargetResource;

    pub(crate) const PODS: ResourceAndKind<'static> = ResourceAndKind {
        target: TargetResource {
            group: "",
            version: "v1",
            plural: "pods",
            subresource: "",
            scope: Scope::Namespaced,
        },
        kind: ObjectKind {
            group: "",
            version: "v1",
            kind: "Pod",
        },
    };

    /// The creation of a pod with the name `web`.
    pub(crate) fn creation(pod: &Value) -> Request<'_> {
        Request {
            uid: "u",
            operation: "CREATE",
            subject: PODS,
            requested: PODS,
            namespace: "d",
            name: "web",
            user: json!({"username": "me"}),
            object: pod,
            old: &Value::Null,
            dry_run: false,
            options: Value::Null,
            namespace_object: &Value::Null,
            authorizer: None,
        }
    }
}
