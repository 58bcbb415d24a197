//! The default IngressClass of Ingresses.

use json_tree::Value;
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, Operation};
use super::reader::ObjectReader;
use super::storage::newest_of;
use crate::json::parts;
use crate::well_known::annotations::{DEFAULT_INGRESS_CLASS, INGRESS_CLASS};

const GROUP: &str = "networking.k8s.io";

pub(super) struct DefaultIngressClass;

impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let is_new = request.operation == Operation::Create && request.subresource.is_empty();
        let is_ingress = (request.group, request.plural) == (GROUP, "ingresses");
        let is_named = object["spec"]["ingressClassName"].is_string()
            || object["metadata"]["annotations"][INGRESS_CLASS].is_string();
        if !is_new || !is_ingress || is_named {
            return Ok(());
        }
        let mut classes = cluster.list(GROUP, "ingressclasses", "");
        classes.retain(|class| class["metadata"]["annotations"][DEFAULT_INGRESS_CLASS] == "true");
        if let (Some(class), Some(spec)) = (newest_of(classes), parts::entry(object, "spec")) {
            cov_mark::hit!(findings_2_c40);
            parts::set(spec, "ingressClassName", class);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Objects, request};
    use super::*;

    /// findings-2 C40
    #[test]
    fn an_ingress_without_a_class_gets_the_newest_default() {
        cov_mark::check!(findings_2_c40);
        let class = |name: &str, default: &str, created: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {DEFAULT_INGRESS_CLASS: default}}})
        };
        let without = Objects::default().with(
            "ingressclasses",
            class("d", "false", "2024-01-03T00:00:00Z"),
        );
        let with = Objects::default()
            .with("ingressclasses", class("a", "true", "2024-01-01T00:00:00Z"))
            .with("ingressclasses", class("c", "true", "2024-01-02T00:00:00Z"))
            .with("ingressclasses", class("b", "true", "2024-01-02T00:00:00Z"))
            .with(
                "ingressclasses",
                class("d", "false", "2024-01-03T00:00:00Z"),
            );
        let admit = |operation, mut ingress: Value, classes: &Objects| {
            let request = AdmissionRequest {
                group: GROUP,
                ..request(operation, "ingresses")
            };
            let admitted = DefaultIngressClass.admit(&request, &mut ingress, classes);
            admitted.unwrap();
            ingress["spec"]["ingressClassName"].clone()
        };
        let new = || json!({"spec": {"defaultBackend": {}}});
        assert_eq!(admit(Operation::Create, new(), &with), "b");
        assert_eq!(admit(Operation::Create, new(), &without), Value::Null);
        assert_eq!(admit(Operation::Update, new(), &with), Value::Null);
        let named = json!({"spec": {"ingressClassName": "a"}});
        assert_eq!(admit(Operation::Create, named, &with), "a");
        let annotated = json!({"metadata": {"annotations": {INGRESS_CLASS: "x"}}, "spec": {}});
        assert_eq!(admit(Operation::Create, annotated, &with), Value::Null);
    }
}
