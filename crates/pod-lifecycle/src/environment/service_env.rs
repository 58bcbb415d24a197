//! Environment variables with the addresses of Services (statefulset.md §10.16).

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};

/// The Service variables of a pod, sorted by name: variables of `default/kubernetes` and, unless
/// `enableServiceLinks` is false, of the Services in the pod's namespace.
pub fn variables<'a>(
    pod: &Pod,
    services: impl IntoIterator<Item = &'a Service>,
) -> Vec<(String, String)> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut variables = std::collections::BTreeMap::new();
    // The Services of the namespace come last, so that they override the variables of `default/kubernetes`.
    let mut services: Vec<(bool, &Service)> = services
        .into_iter()
        .filter_map(|service| {
            let meta = &service.metadata;
            let in_namespace = links && meta.namespace.as_deref() == Some(namespace);
            let is_api_server = meta.namespace.as_deref() == Some("default")
                && meta.name.as_deref() == Some("kubernetes");
            (in_namespace || is_api_server).then_some((in_namespace, service))
        })
        .collect();
    services.sort_unstable_by_key(|(in_namespace, service)| {
        (*in_namespace, service.metadata.name.clone())
    });
    for (_, service) in services {
        variables.extend(of_service(service));
    }
    variables.into_iter().collect()
}

fn of_service(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(name), Some(first)) = (&service.metadata.name, ports.first()) else {
        return Vec::new();
    };
    if ip.is_empty() || ip == "None" {
        return Vec::new();
    }
    let name = word(name);
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let key = format!("{name}_SERVICE_PORT_{}", word(port_name));
            variables.push((key, port.port.to_string()));
        }
    }
    variables.push((format!("{name}_PORT"), url(ip, first)));
    for port in ports {
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol(port));
        variables.push((format!("{prefix}_PROTO"), protocol(port).to_lowercase()));
        variables.push((format!("{prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{prefix}_ADDR"), ip.to_owned()));
        variables.push((prefix, url(ip, port)));
    }
    variables
}

fn word(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn url(ip: &str, port: &ServicePort) -> String {
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ns: &str, name: &str, ip: &str) -> Service {
        json_tree::from_value(json_tree::json!({
            "metadata": {"name": name, "namespace": ns},
            "spec": {"clusterIP": ip, "ports": [{"name": "http-web", "port": 80}]}
        }))
        .unwrap()
    }

    fn names(links: bool) -> Vec<String> {
        let pod = json_tree::from_value(json_tree::json!({
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [], "enableServiceLinks": links}
        }))
        .unwrap();
        let all = [
            service("default", "kubernetes", "10.96.0.1"),
            service("shop", "redis-primary", "10.96.0.7"),
            service("shop", "headless", "None"),
            service("other", "x", "10.96.0.8"),
        ];
        variables(&pod, &all)
            .into_iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect()
    }

    #[test]
    fn services_with_an_address_are_told() {
        // statefulset.md 10.16
        let variables = names(true);
        assert_eq!(variables.len(), 16);
        for expected in [
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "REDIS_PRIMARY_SERVICE_PORT_HTTP_WEB=80",
            "REDIS_PRIMARY_PORT=tcp://10.96.0.7:80",
            "REDIS_PRIMARY_PORT_80_TCP_ADDR=10.96.0.7",
        ] {
            assert!(variables.iter().any(|v| v == expected), "{expected}");
        }
    }

    #[test]
    fn without_links_only_the_api_is_told() {
        // statefulset.md 10.16
        assert!(names(false).iter().all(|v| v.starts_with("KUBERNETES_")));
    }
}
