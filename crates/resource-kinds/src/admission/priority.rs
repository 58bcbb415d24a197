//! The admission plug-in Priority: sets the priority of a pod from its PriorityClass.

use std::sync::Arc;

use json_tree::{Value, json};
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, creates, forbidden};
use crate::admission::ObjectReader;
use crate::groups::scheduling::priority_class::SYSTEM;
use crate::json::parts;

const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority;

impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if !creates(request, "pods") || !object["spec"].is_object() {
            return Ok(());
        }
        let class_name = object["spec"]["priorityClassName"]
            .as_str()
            .unwrap_or_default();
        let class = if class_name.is_empty() {
            default_class(cluster)
        } else if let Some((_, value)) = SYSTEM.iter().find(|(name, _)| *name == class_name) {
            Some(Arc::new(
                json!({"metadata": {"name": class_name}, "value": value}),
            ))
        } else {
            let class = cluster.get(GROUP, "priorityclasses", "", class_name);
            if class.is_none() {
                let why = format!("no PriorityClass with name {class_name} was found");
                return Err(forbidden(request, object, &why));
            }
            class
        };
        let class = class.unwrap_or_default();
        let priority = class["value"].as_i64().unwrap_or_default();
        let policy = class["preemptionPolicy"]
            .as_str()
            .unwrap_or("PreemptLowerPriority");
        if let Some(requested) = object["spec"]["priority"]
            .as_i64()
            .filter(|p| *p != priority)
        {
            let why = format!(
                "the integer value of priority ({requested}) must not be provided in pod spec; \
                 priority admission controller computed {priority} from the given PriorityClass \
                 name"
            );
            return Err(forbidden(request, object, &why));
        }
        let requested = object["spec"]["preemptionPolicy"]
            .as_str()
            .filter(|value| *value != policy);
        if let Some(requested) = requested {
            let why = format!(
                "the string value of PreemptionPolicy ({requested}) must not be provided in pod spec; \
                 priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(request, object, &why));
        }
        let spec = &mut object["spec"];
        if let Some(name) = class["metadata"]["name"].as_str() {
            parts::set(spec, "priorityClassName", name);
        }
        parts::set(spec, "priority", priority);
        parts::set(spec, "preemptionPolicy", policy);
        Ok(())
    }
}

/// The default PriorityClass, for pods without a class: the class with the lowest value of the classes that are
/// marked as default.
fn default_class(cluster: &dyn ObjectReader) -> Option<Arc<Value>> {
    let all = cluster.list(GROUP, "priorityclasses", "").into_iter();
    all.filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::plugin::Operation;
    use super::super::testing::{Objects, request};
    use super::*;

    fn admit(spec: Value) -> Result<Value, Status> {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        let request = request(Operation::Create, "pods");
        Priority.admit(&request, &mut pod, &Objects::default())?;
        Ok(pod["spec"].clone())
    }

    #[test]
    fn an_ordinary_pod_has_priority_zero() {
        let expected = json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"});
        assert_eq!(admit(json!({})).unwrap(), expected);
        let critical = admit(json!({"priorityClassName": "system-node-critical"})).unwrap();
        assert_eq!(critical["priority"], 2_000_001_000);
    }

    #[test]
    fn a_class_must_exist_and_decides() {
        let refused = admit(json!({"priorityClassName": "x"})).unwrap_err();
        assert!(
            refused
                .message
                .ends_with("no PriorityClass with name x was found")
        );
        assert_eq!(admit(json!({"priority": 5})).unwrap_err().code, 403);
    }
}
