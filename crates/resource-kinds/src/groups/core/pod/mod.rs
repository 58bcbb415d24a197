//! core/v1 Pod.

mod difference;
mod label_keys;
mod status;
mod subresources;
mod table;
mod update;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{self, Names, READ_WRITE, action, namespaced, proxy, v1};
use crate::kind::reads::{unread, whole};
use crate::kind::{
    Body, Deletion, FieldRead, Kind, KindInfo, Selectable, StatusUpdate, Subresource,
    SubresourceUpdate, Verb, Words, WriteRules,
};
use crate::printing::{Cell, Column, Printer};
use crate::validation::field::Field;
use crate::validation::pod_template;

#[derive(Debug)]
pub struct Pod;

/// A sub-resource that only pods have.
const fn part(name: &'static str, body: Body, verbs: &'static [Verb]) -> Subresource {
    Subresource { name, body, verbs }
}

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[
        part(
            "attach",
            v1("", "PodAttachOptions"),
            &[Verb::Create, Verb::Get],
        ),
        action("binding", "", "Binding"),
        part("ephemeralcontainers", Body::Object, READ_WRITE),
        action("eviction", "policy", "Eviction"),
        part("exec", v1("", "PodExecOptions"), &[Verb::Create, Verb::Get]),
        part("log", Body::Object, &[Verb::Get]),
        part(
            "portforward",
            v1("", "PodPortForwardOptions"),
            &[Verb::Create, Verb::Get],
        ),
        proxy("PodProxyOptions"),
        part("resize", Body::Object, READ_WRITE),
        info::STATUS,
    ],
    ..namespaced(Names {
        group: "",
        kind: "Pod",
        list_kind: "PodList",
        plural: "pods",
        singular: "pod",
        short: &["po"],
    })
};

impl Kind for Pod {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut pod = self.info().decode(object)?;
        if let Some(spec) = pod.get_mut("spec") {
            pod_template::both_account_names(spec);
        }
        Ok(pod)
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = parts::entry(object, "spec") {
            pod_template::default_spec(spec);
            pod_template::default_pod(spec);
        }
    }

    /// A LimitRange may have added limits, on which the default requests depend.
    fn default_admitted(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            pod_template::default_requests(spec);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let mut status = json!({"phase": "Pending"});
        if !Field::of(object, "spec.schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        parts::set(object, "status", status);
    }

    fn complete_create(&self, object: &mut Value) {
        let class = pod_template::qos_class(&object["spec"]);
        if let Some(status) = parts::entry(object, "status") {
            parts::set(status, "qosClass", class);
        }
        label_keys::merge(object);
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = Field::of(object, "spec");
        errors.extend(pod_template::validate_pod(&Field::root(object)));
        if !spec.get("ephemeralContainers").is_empty() {
            let detail = "cannot be set on create";
            errors.push(spec.get("ephemeralContainers").forbidden(detail));
        }
        if !spec.get("nodeName").is_empty() && !spec.get("schedulingGates").is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.push(spec.get("nodeName").forbidden(detail));
        }
        errors
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        update::validate(object, old)
    }

    fn reads_for_metadata(&self) -> &'static [FieldRead] {
        READ_FOR_METADATA
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        match old {
            Some(_) => Vec::new(),
            None => pod_template::warnings(&Field::of(object, "spec")),
        }
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn subresource_update(&self) -> &dyn SubresourceUpdate {
        self
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }

    fn deletion(&self) -> &dyn Deletion {
        self
    }
}

impl Printer for Pod {
    fn columns(&self) -> Vec<Column<'_>> {
        table::COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        table::row(object, now)
    }

    fn row_conditions(&self, object: &Value) -> Vec<(&'static str, &'static str, String, String)> {
        table::conditions(object)
    }
}

/// The fields of a container that decide whether it may be restarted.
const RESTARTS: &[FieldRead] = &[
    whole("name"),
    whole("restartPolicy"),
    whole("restartPolicyRules"),
];

/// The fields of the spec that a status update depends on: for example, a node may only report on its own pods.
const READ_FOR_STATUS: &[FieldRead] = &[FieldRead {
    name: "spec",
    below: &[
        whole("nodeName"),
        whole("restartPolicy"),
        FieldRead {
            name: "containers",
            below: RESTARTS,
        },
        FieldRead {
            name: "initContainers",
            below: RESTARTS,
        },
        FieldRead {
            name: "ephemeralContainers",
            below: RESTARTS,
        },
    ],
}];

/// The fields of the spec on which the validation of annotations depends.
const READ_FOR_METADATA: &[FieldRead] = &[
    FieldRead {
        name: "spec",
        below: &[whole("nodeName"), whole("hostPID")],
    },
    unread("status"),
];

/// The fields on which the grace period depends.
const READ_FOR_DELETION: &[FieldRead] = &[
    FieldRead {
        name: "spec",
        below: &[whole("nodeName"), whole("terminationGracePeriodSeconds")],
    },
    FieldRead {
        name: "status",
        below: &[whole("phase")],
    },
];

impl StatusUpdate for Pod {
    /// A pod's QoS class never changes; a status update may omit it.
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
        let class = old["status"]["qosClass"].clone();
        if class.is_string()
            && let Some(status) = parts::entry(object, "status")
        {
            parts::set(status, "qosClass", class);
        }
    }

    fn reads(&self) -> &'static [FieldRead] {
        READ_FOR_STATUS
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        status::validate(object, old)
    }
}

impl SubresourceUpdate for Pod {
    fn prepare_subresource_update(&self, name: &str, object: &mut Value, old: &Value) {
        subresources::prepare(name, object, old);
    }

    fn validate_subresource_update(
        &self,
        name: &str,
        object: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        subresources::validate(name, object, old)
    }
}

impl Selectable for Pod {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let text = |value: &Value| Some(value.as_str().unwrap_or_default().to_owned());
        match field {
            "spec.hostNetwork" => {
                let set = object["spec"]["hostNetwork"].as_bool().unwrap_or_default();
                Some(set.to_string())
            }
            "status.podIP" => {
                let first = &object["status"]["podIPs"][0]["ip"];
                text(if first.is_string() {
                    first
                } else {
                    &object["status"]["podIP"]
                })
            }
            _ if self.is_text_at_path(field) => text(Field::of(object, field).value),
            _ => None,
        }
    }

    fn is_text_at_path(&self, field: &str) -> bool {
        !matches!(field, "spec.hostNetwork" | "status.podIP")
            && self.selectable_fields().contains(field)
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ])
    }
}

impl Deletion for Pod {
    /// `statefulset.md` 12.7. Only an explicit 0 removes a pod without its node's confirmation. A pod whose own grace
    /// period is 0 gets 1, because its successor could otherwise start while the pod still runs.
    fn grace_seconds(&self, object: &Value, requested: Option<i64>) -> i64 {
        let root = Field::root(object);
        let finished = matches!(root.get_path("status.phase").text(), "Succeeded" | "Failed");
        if finished || root.get_path("spec.nodeName").is_empty() {
            return 0;
        }
        let spec_seconds = root.get_path("spec.terminationGracePeriodSeconds").int();
        match requested {
            Some(0) => 0,
            requested => requested.or(spec_seconds).unwrap_or_default().max(1),
        }
    }

    fn reads(&self) -> &'static [FieldRead] {
        READ_FOR_DELETION
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::reads::keep;

    /// `statefulset.md` 12.7
    #[test]
    fn grace_is_for_pods_that_run() {
        let mut pod = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"}});
        let grace = |pod: &Value, requested: Option<i64>| {
            let mut read = json!({"spec": {"containers": []}, "status": {"podIP": "10.0.0.1"}});
            for part in ["spec", "status"] {
                for (field, value) in pod[part].as_object().into_iter().flatten() {
                    read[part][field] = value.clone();
                }
            }
            keep(&mut read, READ_FOR_DELETION);
            let seconds = Pod.grace_seconds(pod, requested);
            assert_eq!(
                Pod.grace_seconds(&read, requested),
                seconds,
                "of the fields that are read"
            );
            seconds
        };
        assert_eq!(grace(&pod, None), 30);
        assert_eq!(grace(&pod, Some(5)), 5);
        assert_eq!(grace(&pod, Some(0)), 0);
        assert_eq!(grace(&pod, Some(-1)), 1);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
        assert_eq!(grace(&pod, None), 1);
        assert_eq!(grace(&pod, Some(0)), 0);
        pod["status"]["phase"] = json!("Failed");
        assert_eq!(grace(&pod, None), 0);
        assert_eq!(grace(&json!({"spec": {}}), Some(30)), 0);
    }

    #[test]
    fn a_new_pod_is_pending() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "X"}});
        Pod.prepare_create(&mut pod);
        Pod.complete_create(&mut pod);
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": "BestEffort"})
        );
    }

    /// `kubectl.md` 0.15
    #[test]
    fn pods_are_selected_by_node() {
        let pod = json!({"spec": {"nodeName": "n"}, "status": {"podIP": "10.0.0.1"}});
        assert_eq!(
            Pod.selectable_field(&pod, "spec.nodeName").as_deref(),
            Some("n")
        );
        assert_eq!(
            Pod.selectable_field(&pod, "status.podIP").as_deref(),
            Some("10.0.0.1")
        );
        assert_eq!(
            Pod.selectable_field(&pod, "status.phase").as_deref(),
            Some("")
        );
        assert_eq!(Pod.selectable_field(&pod, "spec.other"), None);
    }
}
