//! The URL of a pod that serves HTTP.

use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Ports that are assumed to serve HTTP.
const HTTP: [i32; 3] = [80, 8000, 8080];

/// The HTTP URL of the pod's first container, if it serves HTTP: databases have no such URL.
pub fn http_url(pod: &Pod) -> Option<String> {
    let address = pod.status.as_ref()?.pod_ip.as_deref()?;
    let container = pod.spec.as_ref()?.containers.first()?;
    let (port, secure) = http_port(container)?;
    let url = match (secure, port) {
        (false, 80) => format!("http://{address}/"),
        (false, port) => format!("http://{address}:{port}/"),
        (true, 443) => format!("-k https://{address}/"),
        (true, port) => format!("-k https://{address}:{port}/"),
    };
    Some(url)
}

/// The port with HTTP, and whether it uses TLS: decided by the port's name, by a probe, or by its number.
fn http_port(container: &Container) -> Option<(i32, bool)> {
    let ports = container.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find_map(|port| {
        let secure = match port.name.as_deref()? {
            "https" => true,
            "http" | "web" | "www" => false,
            other if other.starts_with("http-") => false,
            _ => return None,
        };
        Some((port.container_port, secure))
    });
    let probes = [
        &container.readiness_probe,
        &container.liveness_probe,
        &container.startup_probe,
    ];
    let probed = || {
        let mut probed = probes
            .iter()
            .filter_map(|probe| probe.as_ref()?.http_get.as_ref());
        probed.find_map(|get| Some((number(get, ports)?, get.scheme.as_deref() == Some("HTTPS"))))
    };
    let by_number = || {
        let mut tcp = ports.iter().filter(|port| port.name.is_none());
        let port_by_number = tcp.find(|port| HTTP.contains(&port.container_port))?;
        Some((port_by_number.container_port, false))
    };
    named.or_else(probed).or_else(by_number)
}

fn number(get: &HTTPGetAction, ports: &[ContainerPort]) -> Option<i32> {
    match &get.port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = ports.iter();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port)
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn url(container: Value) -> Option<String> {
        let mut container = container;
        container["name"] = json!("main");
        let pod = json!({"spec": {"containers": [container]}, "status": {"podIP": "10.0.0.7"}});
        http_url(&json_tree::from_value(pod).unwrap())
    }

    /// Findings U4: no HTTP hints for databases.
    #[test]
    fn only_what_speaks_http_is_to_be_asked_so() {
        let port = |port: i32| json!({"ports": [{"containerPort": port}]});
        assert_eq!(url(port(5432)), None);
        assert_eq!(url(port(6379)), None);
        assert_eq!(url(json!({})), None);
        assert_eq!(url(port(80)).as_deref(), Some("http://10.0.0.7/"));
        assert_eq!(url(port(8080)).as_deref(), Some("http://10.0.0.7:8080/"));
        let named = json!({"ports": [{"name": "peers", "containerPort": 80},
            {"name": "http", "containerPort": 3000}]});
        assert_eq!(url(named).as_deref(), Some("http://10.0.0.7:3000/"));
        let probed = json!({"ports": [{"name": "admin", "containerPort": 9000}],
            "readinessProbe": {"httpGet": {"port": "admin", "scheme": "HTTPS"}}});
        assert_eq!(url(probed).as_deref(), Some("-k https://10.0.0.7:9000/"));
        let database = json!({"ports": [{"name": "mysql", "containerPort": 3306}],
            "readinessProbe": {"tcpSocket": {"port": 3306}}});
        assert_eq!(url(database), None);
    }
}
