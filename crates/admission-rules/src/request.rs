//! The request that others have a say in.

use custom_resources::Values;
use serde_json::{Value, json};

use crate::matching::Target;

/// A write, as webhooks and policies are told of it.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Tells one question from another.
    pub uid: &'a str,
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub operation: &'static str,
    /// What is written, as its path says.
    pub target: Target<'a>,
    /// Kind of the object that is written.
    pub kind: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name; empty where it is still to be generated.
    pub name: &'a str,
    /// `username`, `uid`, `groups`, `extra`.
    pub user: Value,
    /// The object as it is to be; null when it goes.
    pub object: &'a Value,
    /// The object as it is; null when it is new.
    pub old: &'a Value,
    /// Whether nothing is to be written.
    pub dry_run: bool,
    /// `CreateOptions` and the like.
    pub options: Value,
    /// The namespace's object; null for cluster scope.
    pub namespace_object: &'a Value,
}

impl Request<'_> {
    /// The members of an `admission.k8s.io` AdmissionRequest, but for the objects.
    pub fn facts(&self) -> Value {
        let Target {
            group,
            version,
            plural,
            subresource,
            ..
        } = self.target;
        let kind = json!({"group": group, "version": version, "kind": self.kind});
        let resource = json!({"group": group, "version": version, "resource": plural});
        let mut facts = json!({
            "uid": self.uid,
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "operation": self.operation,
            "userInfo": self.user,
            "dryRun": self.dry_run,
            "options": self.options,
        });
        for (field, text) in [
            ("subResource", subresource),
            ("requestSubResource", subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() {
                facts[field] = json!(text);
            }
        }
        facts
    }

    /// What expressions about the request may mention.
    pub(crate) fn values(&self) -> Values {
        let mut values = Values::default();
        values.add("object", self.object);
        values.add("oldObject", self.old);
        let mut facts = self.facts();
        for field in ["subResource", "name", "namespace"] {
            if facts[field].is_null() {
                facts[field] = json!("");
            }
        }
        values.add("request", &facts);
        values.add("namespaceObject", self.namespace_object);
        values
    }
}
