//! Defaults of a pod's spec. Each field follows upstream, because the bytes of a template with defaults determine the
//! names of the revisions of a StatefulSet (`statefulset.md` 4.3).

use json_tree::{Value, json};

use super::images::pull_policy;
use super::{CONTAINER_LISTS, resources};
use crate::json::parts;
use crate::validation::volume_sources;
use crate::well_known::limits;

/// Sets the defaults of the spec of a pod or of a template.
pub(crate) fn default_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for volume in parts::each(spec, "volumes") {
        let sourceless = volume
            .as_object()
            .is_some_and(|map| map.keys().all(|key| key == "name"));
        if sourceless {
            parts::set(volume, "emptyDir", json!({}));
        }
        volume_sources::default(volume);
        if let Some(image) = volume.get_mut("image") {
            let policy = pull_policy(image["reference"].as_str().unwrap_or_default());
            parts::fill(image, "pullPolicy", policy);
        }
    }
    for list in CONTAINER_LISTS {
        for container in parts::each(spec, list) {
            default_container(container);
        }
    }
    parts::fill(spec, "restartPolicy", "Always");
    parts::fill(
        spec,
        "terminationGracePeriodSeconds",
        limits::POD_GRACE_SECONDS,
    );
    parts::fill(spec, "dnsPolicy", "ClusterFirst");
    parts::fill(spec, "securityContext", json!({}));
    parts::fill(spec, "schedulerName", "default-scheduler");
}

/// Sets the defaults that a pod has in addition to a template.
pub(crate) fn default_pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    parts::fill(spec, "enableServiceLinks", true);
    resources::default_requests(spec);
    if spec["hostNetwork"] != true {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in parts::each(spec, list) {
            for port in parts::each(container, "ports") {
                let number = port["containerPort"].clone();
                parts::fill(port, "hostPort", number);
            }
        }
    }
}

fn default_container(container: &mut Value) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    parts::fill(container, "imagePullPolicy", policy);
    parts::fill(container, "resources", json!({}));
    parts::fill(container, "terminationMessagePath", "/dev/termination-log");
    parts::fill(container, "terminationMessagePolicy", "File");
    for port in parts::each(container, "ports") {
        parts::fill(port, "protocol", "TCP");
    }
    for variable in parts::each(container, "env") {
        if let Some(source) = variable.get_mut("valueFrom") {
            volume_sources::default_selectors(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get_mut(name) {
                default_handler(handler);
            }
        }
    }
}

/// `statefulset.md` 12.5
fn default_probe(probe: &mut Value) {
    for (field, default) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[field].as_i64() == Some(0) {
            parts::set(probe, field, default);
        }
        parts::fill(probe, field, default);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        parts::fill(grpc, "service", "");
    }
    default_handler(probe);
}

fn default_handler(handler: &mut Value) {
    if let Some(request) = handler.get_mut("httpGet") {
        parts::fill(request, "path", "/");
        parts::fill(request, "scheme", "HTTP");
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; a pod contains both.
pub(crate) fn both_account_names(spec: &mut Value) {
    let name = match spec["serviceAccountName"].as_str() {
        Some(name) => name.to_owned(),
        None => spec["serviceAccount"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    };
    if !name.is_empty() {
        parts::set(spec, "serviceAccountName", name.clone());
        parts::set(spec, "serviceAccount", name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_filled_in() {
        let mut spec = json!({
            "containers": [{
                "name": "a", "image": "nginx:1.27",
                "ports": [{"containerPort": 80}],
                "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 2},
                "livenessProbe": {"grpc": {"port": 1}},
            }],
            "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "x"}},
                {"name": "h", "hostPath": {"path": "/x"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        });
        default_spec(&mut spec);
        default_pod(&mut spec);
        let expected = json!({
            "containers": [{
                "name": "a", "image": "nginx:1.27",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1",
                        "fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"divisor": "0",
                        "resource": "limits.cpu"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"},
                    "requests": {"cpu": "500m", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
                    "periodSeconds": 2, "timeoutSeconds": 1, "successThreshold": 1,
                    "failureThreshold": 3},
                "livenessProbe": {"grpc": {"port": 1, "service": ""}, "periodSeconds": 10,
                    "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
                "imagePullPolicy": "IfNotPresent",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [{"name": "e", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "enableServiceLinks": true,
        });
        assert_eq!(spec, expected);
        default_spec(&mut spec);
        default_pod(&mut spec);
        assert_eq!(spec, expected, "defaults are idempotent");
    }

    #[test]
    fn ports_of_a_pod_on_the_hosts_network_are_the_hosts() {
        let mut spec = json!({"hostNetwork": true,
            "containers": [{"name": "a", "ports": [{"containerPort": 80}]}]});
        default_pod(&mut spec);
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
    }
}
