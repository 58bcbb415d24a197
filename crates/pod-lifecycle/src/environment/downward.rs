//! The downward API: fields and resources of a pod for its own containers (statefulset.md §12.11).

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use object_model::quantity::Quantity;

use crate::spec;

/// The data of the node and its pod for the downward API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// The node's allocatable resources, which are the limits of containers without limits.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// A `fieldRef` or `resourceFieldRef` that the downward API does not support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    pub message: String,
}

/// The value of a `fieldRef`.
///
/// # Errors
/// The path is not a supported field.
pub fn field(pod: &Pod, facts: &NodeFacts, path: &str) -> Result<String, Unsupported> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(unsupported(path)),
        };
        return Ok(values
            .as_ref()
            .and_then(|v| v.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let host_network = spec.is_some_and(spec::uses_host_network);
    let pod_ips = if host_network {
        &facts.host_ips
    } else {
        &facts.pod_ips
    };
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => return Err(unsupported(path)),
    })
}

fn unsupported(path: &str) -> Unsupported {
    Unsupported {
        message: format!("unsupported fieldPath: {path}"),
    }
}

/// Splits a path of the form `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once("['")?;
    Some((map, key.strip_suffix("']")?))
}

/// Lines of the form `key="value"`, quoted as in Go.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quote(value));
    map.into_iter()
        .flatten()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

fn quote(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`; `own` is the container with the reference.
///
/// # Errors
/// The container, resource or divisor is unknown.
pub fn resource(
    pod: &Pod,
    default_container: Option<&Container>,
    facts: &NodeFacts,
    reference: &ResourceFieldSelector,
) -> Result<String, Unsupported> {
    let named = reference
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let container = match (named, &pod.spec, default_container) {
        (Some(name), Some(spec), _) => spec::find(spec, name).map(|(_, container)| container),
        (_, _, default_container) => default_container.map(Cow::Borrowed),
    };
    let Some(container) = container else {
        let name = named.unwrap_or_default();
        return Err(Unsupported {
            message: format!("container {name} not found"),
        });
    };
    let path = reference.resource.as_str();
    let unknown = || Unsupported {
        message: format!("unsupported container resource : {path}"),
    };
    let (list, name) = path.split_once('.').ok_or_else(unknown)?;
    let quantities = container
        .resources
        .as_ref()
        .and_then(|resources| match list {
            "limits" => resources.limits.as_ref(),
            "requests" => resources.requests.as_ref(),
            _ => None,
        });
    let quantity = quantities
        .and_then(|list| list.get(name))
        .and_then(|q| q.0.parse::<Quantity>().ok());
    let amount = match list {
        "limits" => quantity
            .filter(|q| !q.is_zero())
            .or_else(|| facts.allocatable.get(name).cloned()),
        "requests" => quantity,
        _ => return Err(unknown()),
    };
    let divisor = match reference.divisor.as_ref().map(|d| d.0.as_str()) {
        None | Some("" | "0") => Quantity::from_milli(1000),
        Some(text) => text.parse().map_err(|_| unknown())?,
    };
    let Some(amount) = amount else {
        return Ok("0".to_owned());
    };
    let (amount, divisor) = match name {
        "cpu" => (amount.milli_value(), divisor.milli_value()),
        _ => (amount.value(), divisor.value()),
    };
    if divisor <= 0 {
        return Err(unknown());
    }
    let rounded_up = amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) > 0);
    Ok(rounded_up.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        json_tree::from_value(json_tree::json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1",
                "labels": {"app": "web", "apps.kubernetes.io/pod-index": "0"},
                "annotations": {"note": "say \"hi\"\n"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "default", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}},
                {"name": "free"}]}
        }))
        .unwrap()
    }

    fn facts() -> NodeFacts {
        NodeFacts {
            host_ips: vec!["192.0.2.1".to_owned()],
            pod_ips: vec!["10.244.0.5".to_owned()],
            allocatable: [("cpu".to_owned(), Quantity::from_milli(2000))].into(),
        }
    }

    #[test]
    fn fields_by_path() {
        // statefulset.md 12.11
        for (path, expected) in [
            ("metadata.name", "web-0"),
            ("metadata.labels['apps.kubernetes.io/pod-index']", "0"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations", "note=\"say \\\"hi\\\"\\n\""),
            ("spec.nodeName", "n1"),
            ("status.podIP", "10.244.0.5"),
            ("status.hostIPs", "192.0.2.1"),
        ] {
            assert_eq!(field(&pod(), &facts(), path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod(), &facts(), "spec.containers").is_err());
    }

    #[test]
    fn resources_are_rounded_up_and_default_to_the_node() {
        // statefulset.md 12.11
        let pod = pod();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let value = |index: usize, resource_name: &str, divisor: Option<&str>| {
            let reference = json_tree::from_value(json_tree::json!(
                {"resource": resource_name, "divisor": divisor}))
            .unwrap();
            resource(&pod, Some(&containers[index]), &facts(), &reference).unwrap()
        };
        assert_eq!(value(0, "limits.cpu", None), "2");
        assert_eq!(value(0, "limits.cpu", Some("1m")), "1500");
        assert_eq!(value(0, "limits.memory", Some("1Mi")), "64");
        assert_eq!(value(1, "limits.cpu", None), "2");
        assert_eq!(value(1, "requests.cpu", None), "0");
    }
}
