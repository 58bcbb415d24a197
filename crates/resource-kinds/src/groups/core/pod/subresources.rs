//! Validation of a pod's updates through `ephemeralcontainers` (`kubectl.md` 5.8) and `resize`
//! (`kubectl.md` 6.7).

use std::collections::BTreeMap;

use json_tree::Value;
use object_model::{FieldError, FieldPath, Quantity};

use super::{difference, update};
use crate::json::parts;
use crate::validation::field::Field;
use crate::validation::pod_template;
use crate::well_known::annotations::MIRROR_POD;

/// Fields of the metadata that neither sub-resource may change.
const METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Fields of a container that `resize` may change.
const RESIZABLE: [&str; 2] = ["resources", "resizePolicy"];

/// Restores the fields that the sub-resource cannot change.
pub(super) fn prepare(name: &str, object: &mut Value, old: &Value) {
    let sent = object["spec"].clone();
    parts::restore_all_but(object, old, &["metadata"]);
    if let Some(metadata) = parts::entry(object, "metadata") {
        for field in METADATA {
            parts::restore(metadata, &old["metadata"], field);
        }
    }
    match name {
        "ephemeralcontainers" => parts::restore(&mut object["spec"], &sent, "ephemeralContainers"),
        "resize" => take_resources(object, &sent),
        _ => {}
    }
}

fn take_resources(object: &mut Value, sent: &Value) {
    parts::restore(&mut object["spec"], sent, "resources");
    for list in ["containers", "initContainers"] {
        for container in parts::each(&mut object["spec"], list) {
            let mut others = sent[list].as_array().into_iter().flatten();
            let Some(other) = others.find(|other| other["name"] == container["name"]) else {
                continue;
            };
            for field in RESIZABLE {
                parts::restore(container, other, field);
            }
        }
    }
}

/// The validation errors of a change through the sub-resource.
pub(super) fn validate(name: &str, object: &Value, old: &Value) -> Vec<FieldError> {
    let (pod, old) = (Field::root(object), Field::root(old));
    let check = match name {
        "ephemeralcontainers" => ephemeral_containers,
        "resize" => resize,
        _ => return Vec::new(),
    };
    // The files of the node define its static pods.
    if old
        .get_path("metadata.annotations")
        .get_key(MIRROR_POD)
        .is_set()
    {
        let detail = match name {
            "resize" => "static pods cannot be resized",
            _ => "static pods do not support ephemeral containers",
        };
        return vec![old.forbidden(detail)];
    }
    let mut errors = pod_template::validate_pod(&pod);
    update::drop_existing(&mut errors, &pod_template::validate_pod(&old));
    errors.extend(check(&pod.get("spec"), &old.get("spec")));
    errors
}

fn named<'a, 's>(list: &'s Field<'a, '_>, name: &str) -> Option<Field<'a, 's>> {
    list.items().find(|item| item.get("name").text() == name)
}

fn ephemeral_containers(new: &Field<'_, '_>, old: &Field<'_, '_>) -> Vec<FieldError> {
    let list = new.get("ephemeralContainers");
    let mut errors = Vec::new();
    for before in old.get("ephemeralContainers").items() {
        let name = before.get("name").text();
        let refused = match named(&list, name) {
            None => "removed\n".to_owned(),
            Some(now) if now.value != before.value => {
                format!("changed\n{}", difference::unified(before.value, now.value))
            }
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {refused}");
        errors.push(list.forbidden(detail));
    }
    errors
}

fn resize(new: &Field<'_, '_>, old: &Field<'_, '_>) -> Vec<FieldError> {
    if old.get_path("os.name").text() == "windows" {
        let path = FieldPath::default();
        return vec![FieldError::forbidden(
            &path,
            "windows pods cannot be resized",
        )];
    }
    let mut errors = Vec::new();
    let class = pod_template::qos_class(new.value);
    if class != pod_template::qos_class(old.value) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&new.path(), class, detail));
    }
    of_pod(&new.get("resources"), &old.get("resources"), &mut errors);
    for list in ["containers", "initContainers"] {
        let before = old.get(list);
        for container in new.get(list).items() {
            let Some(before) = named(&before, container.get("name").text()) else {
                continue;
            };
            let sidecar = list == "containers" || pod_template::is_sidecar(container.value);
            if !sidecar && container.get("resources").value != before.get("resources").value {
                let detail = "resources for non-sidecar init containers are immutable";
                errors.push(container.get("resources").forbidden(detail));
                continue;
            }
            let (now, before) = (container.get("resources"), before.get("resources"));
            for list in ["requests", "limits"] {
                let (now, before) = (now.get(list), before.get(list));
                if !same_others(&now, &before) {
                    errors.push(now.forbidden("only cpu and memory resources are mutable"));
                }
                if lacks(&now, &before) {
                    errors.push(now.forbidden(format!("resource {list} cannot be removed")));
                }
            }
            if now.get("claims").value != before.get("claims").value {
                let detail = "only cpu and memory resources are mutable";
                errors.push(now.get("claims").forbidden(detail));
            }
        }
    }
    errors
}

/// Resources of the whole pod may be added and changed, but not removed (KEP-5419).
fn of_pod(new: &Field<'_, '_>, old: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if old.is_set() && !new.is_set() {
        errors.push(new.forbidden("pod-level resources cannot be removed"));
        return;
    }
    let lists = ["requests", "limits"];
    for list in lists {
        let (now, before) = (new.get(list), old.get(list));
        if lacks(&now, &before) {
            let detail = format!("pod-level resource {list} cannot be removed");
            errors.push(now.forbidden(detail));
        }
    }
    if !lists
        .iter()
        .all(|list| same_others(&new.get(list), &old.get(list)))
    {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.push(new.forbidden(detail));
    }
}

/// Whether all amounts except `cpu` and `memory` are equal.
fn same_others(new: &Field<'_, '_>, old: &Field<'_, '_>) -> bool {
    let others = |list: &Field<'_, '_>| {
        let mut all = quantities(list);
        all.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
        all
    };
    others(new) == others(old)
}

/// Whether an amount was removed.
fn lacks(new: &Field<'_, '_>, old: &Field<'_, '_>) -> bool {
    let now = quantities(new);
    quantities(old).keys().any(|name| !now.contains_key(name))
}

fn quantities(list: &Field<'_, '_>) -> BTreeMap<String, Quantity> {
    let entries = list.entries();
    entries
        .map(|(name, at)| {
            let amount = Quantity::from_json(at.value).unwrap_or_default();
            (name.to_owned(), amount)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn pod() -> Value {
        let mut pod = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "n",
            "containers": [{"name": "a", "image": "x",
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}});
        pod_template::default_spec(&mut pod["spec"]);
        pod_template::default_pod(&mut pod["spec"]);
        pod
    }

    fn change(name: &str, old: &Value, change: impl Fn(&mut Value)) -> (Value, Vec<String>) {
        let mut new = old.clone();
        change(&mut new);
        prepare(name, &mut new, old);
        pod_template::default_spec(&mut new["spec"]);
        let errors = validate(name, &new, old);
        (new, errors.iter().map(ToString::to_string).collect())
    }

    /// `kubectl.md` 5.8
    #[test]
    fn ephemeral_containers_are_only_added() {
        let debug = json!({"name": "debug", "image": "y", "targetContainerName": "a"});
        let (with, errors) = change("ephemeralcontainers", &pod(), |pod| {
            pod["spec"]["ephemeralContainers"] = json!([debug]);
            pod["spec"]["containers"][0]["image"] = json!("other");
            pod["metadata"]["labels"] = json!({});
        });
        assert_eq!(errors, [""; 0]);
        assert_eq!(with["spec"]["containers"], pod()["spec"]["containers"]);
        assert_eq!(with["metadata"], pod()["metadata"]);
        assert_eq!(with["spec"]["ephemeralContainers"][0]["name"], "debug");
        let (_, errors) = change("ephemeralcontainers", &with, |pod| {
            pod["spec"]["ephemeralContainers"] = json!([]);
        });
        assert_eq!(
            errors,
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may \
              not be removed\n"
            ]
        );
        let (_, errors) = change("ephemeralcontainers", &pod(), |pod| {
            pod["spec"]["ephemeralContainers"] = json!([
                {"name": "a", "image": "x"},
                {"name": "b", "image": "x", "targetContainerName": "none",
                 "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 1}]}]);
        });
        assert_eq!(
            errors,
            [
                "spec.ephemeralContainers[0].name: Duplicate value: \"a\"",
                "spec.ephemeralContainers[1].targetContainerName: Not found: \"none\"",
                "spec.ephemeralContainers[1].resources: Forbidden: cannot be set for an \
                 Ephemeral Container",
                "spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral \
                 Container",
            ]
        );
    }

    #[test]
    fn pods_of_a_nodes_files_stay_as_they_are() {
        let mut old = pod();
        old["metadata"]["annotations"] = json!({MIRROR_POD: "x"});
        for (name, expected) in [
            ("resize", ": Forbidden: static pods cannot be resized"),
            (
                "ephemeralcontainers",
                ": Forbidden: static pods do not support ephemeral containers",
            ),
        ] {
            assert_eq!(change(name, &old, |_| {}).1, [expected]);
        }
    }

    #[test]
    fn a_change_of_what_looks_is_shown() {
        let debug = json!({"name": "debug", "image": "y"});
        let (with, _) = change("ephemeralcontainers", &pod(), |pod| {
            pod["spec"]["ephemeralContainers"] = json!([debug]);
        });
        let (_, errors) = change("ephemeralcontainers", &with, |pod| {
            pod["spec"]["ephemeralContainers"][0]["image"] = json!("z");
        });
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].contains("may not be changed\n@@ -1,5 +1,5 @@\n"),
            "{errors:#?}"
        );
        assert!(errors[0].contains("\n- \"image\": \"y\",\n+ \"image\": \"z\",\n"));
    }

    /// `kubectl.md` 6.7
    #[test]
    fn amounts_of_cpu_and_memory_are_resized() {
        let (with, errors) = change("resize", &pod(), |pod| {
            pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("3");
            pod["spec"]["containers"][0]["image"] = json!("other");
        });
        assert_eq!(errors, [""; 0]);
        assert_eq!(with["spec"]["containers"][0]["image"], "x");
        assert_eq!(
            with["spec"]["containers"][0]["resources"]["limits"]["cpu"],
            "3"
        );
        let (_, errors) = change("resize", &pod(), |pod| {
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        });
        assert_eq!(
            errors,
            ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
        );
        let (_, errors) = change("resize", &pod(), |pod| {
            pod["spec"]["containers"][0]["resources"] = json!({});
        });
        assert_eq!(
            errors[0],
            "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of \
             resizing"
        );
        let (_, errors) = change("resize", &pod(), |pod| {
            pod["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"] = json!("1");
        });
        assert_eq!(
            errors,
            [
                "spec.containers[0].resources.limits: Forbidden: only cpu and memory resources are \
              mutable"
            ]
        );
    }
    /// KEP-5419
    #[test]
    fn amounts_of_the_pod_are_resized() {
        let mut pod = pod();
        pod["spec"]["resources"] = json!({"requests": {"cpu": "2", "hugepages-2Mi": "2Mi"},
            "limits": {"cpu": "4", "hugepages-2Mi": "2Mi"}});
        let resized = |resources: Value| {
            change("resize", &pod, |pod| {
                parts::set(&mut pod["spec"], "resources", resources.clone());
            })
        };
        let more = json!({"requests": {"cpu": "3", "memory": "1Gi", "hugepages-2Mi": "2Mi"},
            "limits": {"cpu": "5", "hugepages-2Mi": "2Mi"}});
        let (with, errors) = resized(more.clone());
        assert_eq!(errors, [""; 0]);
        assert_eq!(with["spec"]["resources"], more);
        assert_eq!(
            resized(Value::Null).1,
            ["spec.resources: Forbidden: pod-level resources cannot be removed"]
        );
        assert_eq!(
            resized(json!({"limits": {"cpu": "4", "hugepages-2Mi": "2Mi"},
                "requests": {"hugepages-2Mi": "2Mi"}}))
            .1,
            ["spec.resources.requests: Forbidden: pod-level resource requests cannot be removed"]
        );
        assert_eq!(
            resized(json!({"requests": {"cpu": "2", "hugepages-2Mi": "4Mi"},
                "limits": {"cpu": "4", "hugepages-2Mi": "4Mi"}}))
            .1,
            ["spec.resources: Forbidden: only cpu and memory resources are mutable at pod-level"]
        );
        // The resources of the pod must cover the requests of its containers, also after a change.
        let (_, errors) = resized(json!({"requests": {"cpu": "500m", "hugepages-2Mi": "2Mi"},
            "limits": {"cpu": "4", "hugepages-2Mi": "2Mi"}}));
        assert_eq!(
            errors,
            [
                "spec.resources.requests[cpu]: Invalid value: \"500m\": must be greater than or \
                 equal to aggregate container requests of 1"
            ]
        );
    }

    #[test]
    fn a_pod_gets_resources_of_its_own_within_its_class() {
        let resized = |resources: Value| {
            let set = |pod: &mut Value| pod["spec"]["resources"] = resources.clone();
            change("resize", &pod(), set).1
        };
        assert_eq!(resized(json!({"limits": {"cpu": "3"}})), [""; 0]);
        let both = json!({"cpu": "3", "memory": "1Gi"});
        assert_eq!(
            resized(json!({"requests": both, "limits": both})),
            [
                "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of \
                 resizing"
            ]
        );
    }
}
