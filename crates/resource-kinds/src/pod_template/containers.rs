//! What is wrong with containers: names, images, ports, policies.

use std::collections::{BTreeMap, BTreeSet};

use object_model::{FieldError, names};
use serde_json::json;

use super::{env, is_sidecar, probes, resources, security, volumes};
use crate::addresses::PROTOCOLS;
use crate::at::{At, Rules};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["FallbackToLogsOnError", "File"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];

/// Checks all containers of a spec. `volumes` are the names of the pod's volumes.
pub(super) fn validate(
    spec: &At<'_>,
    volumes: &BTreeMap<String, bool>,
    errors: &mut Vec<FieldError>,
) {
    if spec.get("containers").is_empty() {
        errors.push(spec.get("containers").required(""));
    }
    let host_network = spec.get("hostNetwork").is_true();
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for list in super::CONTAINER_LISTS {
        for container in spec.get(list).items() {
            let name = container.get("name");
            if !name.is_empty() && !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
            one(&container, volumes, errors);
            ports(&container, errors);
            if list == "containers" {
                host_ports_differ(&container, host_network, &mut host_ports, errors);
                probes::validate(&container, errors);
            } else {
                beside(list, &container, errors);
            }
        }
    }
}

fn one(container: &At<'_>, volumes: &BTreeMap<String, bool>, errors: &mut Vec<FieldError>) {
    let (name, image) = (container.get("name"), container.get("image"));
    errors.check_required_text(&name, names::dns_label);
    if image.is_empty() {
        errors.push(image.required(""));
    } else if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    errors.check_one_of(&container.get("terminationMessagePolicy"), MESSAGE_POLICIES);
    env::validate(container, errors);
    volumes::mounts(container, volumes, errors);
    errors.check_one_of(&container.get("imagePullPolicy"), PULL_POLICIES);
    errors.extend(resources::validate(&container.get("resources")));
    security::validate_container(&container.get("securityContext"), errors);
    errors.check_one_of_if_set(&container.get("restartPolicy"), RESTART_POLICIES);
}

/// Init containers and ephemeral containers have no say in the pod's readiness, unless they are
/// sidecars (`statefulset.md` 12.3).
fn beside(list: &str, container: &At<'_>, errors: &mut Vec<FieldError>) {
    if list == "initContainers" && is_sidecar(container.value) {
        probes::validate(container, errors);
        return;
    }
    let detail = if list == "initContainers" {
        "may not be set for init containers without restartPolicy=Always"
    } else {
        "cannot be set for an Ephemeral Container"
    };
    for field in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if container.get(field).is_set() {
            errors.push(container.get(field).forbidden(detail));
        }
    }
    if list == "ephemeralContainers" && !container.get("ports").is_empty() {
        errors.push(container.get("ports").forbidden(detail));
    }
}

fn ports(container: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for port in container.get("ports").items() {
        let name = port.get("name");
        if !name.is_empty() {
            let before = errors.len();
            errors.check_text(&name, names::port_name);
            if errors.len() == before && !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        let number = port.get("containerPort");
        match number.int().unwrap_or_default() {
            0 => errors.push(number.required("")),
            value => errors.extend(
                names::port_number(value)
                    .into_iter()
                    .map(|c| number.invalid(c)),
            ),
        }
        let host = port.get("hostPort");
        if let Some(value) = host.int().filter(|value| *value != 0) {
            errors.extend(
                names::port_number(value)
                    .into_iter()
                    .map(|c| host.invalid(c)),
            );
        }
        errors.check_one_of(&port.get("protocol"), PROTOCOLS);
    }
}

fn host_ports_differ(
    container: &At<'_>,
    host_network: bool,
    seen: &mut BTreeSet<String>,
    errors: &mut Vec<FieldError>,
) {
    for port in container.get("ports").items() {
        let (host, inner) = (port.get("hostPort"), port.get("containerPort"));
        let Some(number) = host.int().filter(|number| *number != 0) else {
            continue;
        };
        if host_network && Some(number) != inner.int() {
            errors.push(host.invalid("must match `containerPort` when `hostNetwork` is true"));
        }
        let address = port.get("hostIP");
        let shown = if address.is_empty() {
            "0.0.0.0"
        } else {
            address.text()
        };
        let key = format!("{}/{shown}/{number}", port.get("protocol").text());
        if !seen.insert(key.clone()) {
            errors.push(FieldError::duplicate(&host.path, json!(key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        let mut spec = spec;
        super::super::default_spec(&mut spec);
        let object = json!({"spec": spec});
        let mut errors = Vec::new();
        validate(
            &At::root(&object).get("spec"),
            &BTreeMap::new(),
            &mut errors,
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn containers_have_different_names_and_an_image() {
        let spec = json!({"initContainers": [{"name": "a", "image": "x"}],
            "containers": [{"name": "a", "image": "x"}, {"name": "B"}, {"image": " x"}]});
        let errors = check(spec);
        // The main containers come first, so that the init container is the second of its name.
        assert_eq!(errors.len(), 5, "{errors:#?}");
        assert!(
            errors[0].starts_with("spec.containers[1].name: Invalid value: \"B\": a lowercase")
        );
        assert_eq!(errors[1], "spec.containers[1].image: Required value");
        assert_eq!(errors[2], "spec.containers[2].name: Required value");
        assert!(errors[3].ends_with("must not have leading or trailing whitespace"));
        assert_eq!(
            errors[4],
            "spec.initContainers[0].name: Duplicate value: \"a\""
        );
    }

    #[test]
    fn ports_are_numbers_in_range() {
        let ports = |list: Value| {
            check(json!({"containers": [{"name": "a", "image": "x", "ports": list}]}))
        };
        assert_eq!(
            ports(json!([{}])),
            ["spec.containers[0].ports[0].containerPort: Required value"]
        );
        assert_eq!(
            ports(json!([{"containerPort": 70_000}])),
            [
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be \
                 between 1 \
              and 65535, inclusive"
            ]
        );
        let twice = json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]);
        assert_eq!(
            ports(twice),
            ["spec.containers[0].ports[1].name: Duplicate value: \"a\""]
        );
        let host =
            json!([{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]);
        assert_eq!(
            ports(host),
            ["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP/0.0.0.0/5\""]
        );
    }

    /// `statefulset.md` 12.3
    #[test]
    fn only_sidecars_among_init_containers_have_probes() {
        let spec = |policy: Value| {
            json!({"containers": [{"name": "a", "image": "x"}], "initContainers": [{"name": "i",
                "image": "x", "restartPolicy": policy,
                "readinessProbe": {"tcpSocket": {"port": 1}}}]})
        };
        assert!(check(spec(json!("Always"))).is_empty());
        assert_eq!(
            check(spec(Value::Null)),
            [
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for \
                 init containers \
              without restartPolicy=Always"
            ]
        );
    }
}
