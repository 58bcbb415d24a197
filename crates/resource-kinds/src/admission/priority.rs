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
        let given = object["spec"]["priorityClassName"]
            .as_str()
            .unwrap_or_default();
        let class = if given.is_empty() {
            default_class(cluster)
        } else if let Some((_, value)) = SYSTEM.iter().find(|(name, _)| *name == given) {
            Some(Arc::new(
                json!({"metadata": {"name": given}, "value": value}),
            ))
        } else {
            let found = cluster.get(GROUP, "priorityclasses", "", given);
            if found.is_none() {
                let why = format!("no PriorityClass with name {given} was found");
                return Err(forbidden(request, object, &why));
            }
            found
        };
        let class = class.unwrap_or_default();
        let priority = class["value"].as_i64().unwrap_or_default();
        let policy = class["preemptionPolicy"]
            .as_str()
            .unwrap_or("PreemptLowerPriority");
        if let Some(asked) = object["spec"]["priority"]
            .as_i64()
            .filter(|p| *p != priority)
        {
            let why = format!(
                "the integer value of priority ({asked}) must not be provided in pod spec; \
                 priority admission controller computed {priority} from the given PriorityClass \
                 name"
            );
            return Err(forbidden(request, object, &why));
        }
        let asked = object["spec"]["preemptionPolicy"]
            .as_str()
            .filter(|asked| *asked != policy);
        if let Some(asked) = asked {
            let why = format!(
                "the string value of PreemptionPolicy ({asked}) must not be provided in pod spec; \
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

/// The class of pods that name none: the lowest of those marked so.
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
        let wanted = json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"});
        assert_eq!(admit(json!({})).unwrap(), wanted);
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
