//! The default tolerations of pods for nodes that are not ready or unreachable (`statefulset.md` 12.17).

use json_tree::{Value, json};
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, creates};
use crate::admission::ObjectReader;
use crate::json::parts;
use crate::well_known::limits;
use crate::well_known::reasons::taint;

pub(super) struct DefaultTolerationSeconds;

impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        _cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if !creates(request, "pods") {
            return Ok(());
        }
        let Some(spec) = object.get_mut("spec") else {
            return Ok(());
        };
        let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
        for key in [taint::NOT_READY, taint::UNREACHABLE] {
            if !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, key))
            {
                tolerations.push(json!({
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": limits::EVICTION_SECONDS,
                }));
            }
        }
        parts::set(spec, "tolerations", tolerations);
        Ok(())
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    matches!(text("key"), name if name.is_empty() || name == key)
        && matches!(text("effect"), "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::super::plugin::Operation;
    use super::super::testing::{Objects, request};
    use super::*;

    fn admit(tolerations: Value) -> Value {
        let mut pod = json!({"spec": {"tolerations": tolerations}});
        let request = request(Operation::Create, "pods");
        DefaultTolerationSeconds
            .admit(&request, &mut pod, &Objects::default())
            .unwrap();
        pod["spec"]["tolerations"].clone()
    }

    /// `statefulset.md` 12.17
    #[test]
    fn a_pod_waits_five_minutes_for_its_node() {
        let added = admit(json!([]));
        assert_eq!(added[0]["key"], "node.kubernetes.io/not-ready");
        assert_eq!(added[1]["tolerationSeconds"], 300);
        let all = json!([{"operator": "Exists"}]);
        assert_eq!(admit(all.clone()), all);
        let existing = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 1}]);
        assert_eq!(admit(existing).as_array().unwrap().len(), 2);
    }
}
