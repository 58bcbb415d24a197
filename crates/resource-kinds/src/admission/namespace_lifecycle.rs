//! Objects can be created only in existing namespaces that are not being deleted; some namespaces cannot be deleted.

use json_tree::Value;
use object_model::{Cause, Status};

use super::plugin::{Admission, AdmissionRequest, Operation, forbidden};
use crate::admission::ObjectReader;

const PERMANENT: &[&str] = &["default", "kube-public", "kube-system"];

pub(super) struct NamespaceLifecycle;

impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if request.group.is_empty() && request.plural == "namespaces" {
            let permanent = PERMANENT.contains(&request.name);
            if request.operation == Operation::Delete && permanent {
                return Err(forbidden(
                    request,
                    object,
                    "this namespace may not be deleted",
                ));
            }
            return Ok(());
        }
        let namespace = request.namespace;
        // An access review may concern a namespace that does not exist.
        let is_question = request.group == "authorization.k8s.io";
        if namespace.is_empty() || is_question || request.operation == Operation::Delete {
            return Ok(());
        }
        let Some(existing) = cluster.get("", "namespaces", "", namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        let terminating = existing["metadata"]["deletionTimestamp"].is_string()
            || existing["status"]["phase"] == "Terminating";
        if request.operation == Operation::Create && terminating {
            return Err(terminated(request, object));
        }
        Ok(())
    }
}

fn terminated(request: &AdmissionRequest<'_>, object: &Value) -> Status {
    let namespace = request.namespace;
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    forbidden(request, object, &why).with_cause(Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Objects, request};
    use super::*;

    fn create(objects: &Objects) -> Result<(), Status> {
        let mut object = json!({"metadata": {"name": "p"}});
        NamespaceLifecycle.admit(&request(Operation::Create, "pods"), &mut object, objects)
    }

    #[test]
    fn a_namespace_must_exist() {
        let refused = create(&Objects::default()).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (404, "namespaces \"d\" not found")
        );
        let there = Objects::default().with("namespaces", json!({"metadata": {"name": "d"}}));
        assert!(create(&there).is_ok());
    }

    #[test]
    fn nothing_is_made_in_a_namespace_that_goes() {
        let going = json!({"metadata": {"name": "d", "deletionTimestamp": "2024-01-01T00:00:00Z"}});
        let refused = create(&Objects::default().with("namespaces", going)).unwrap_err();
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: unable to create new content in namespace d because it is \
             being terminated"
        );
    }

    #[test]
    fn some_namespaces_stay() {
        let mut delete = request(Operation::Delete, "namespaces");
        delete.name = "default";
        fn check(request: &AdmissionRequest<'_>) -> Result<(), Status> {
            NamespaceLifecycle.admit(request, &mut Value::Null, &Objects::default())
        }
        let text = "namespaces \"default\" is forbidden: this namespace may not be deleted";
        assert_eq!(check(&delete).unwrap_err().message, text);
        delete.name = "other";
        assert!(check(&delete).is_ok());
    }
}
