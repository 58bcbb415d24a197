//! Hints for a new user: the commands for the next step.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Ports that are assumed to serve HTTP.
const HTTP: [i32; 3] = [80, 8000, 8080];

/// Commands to inspect the pods, and their URLs.
pub fn text(program: &str, kubeconfig: &Path, urls: &[String]) -> String {
    let mut text = format!(
        "In another shell:\n  export KUBECONFIG={}\n  {program} status\n  \
         kubectl get sts,pods,pvc,svc -o wide\n",
        kubeconfig.display()
    );
    for url in urls {
        text.push_str(&format!("  curl {url}\n"));
    }
    text.push_str("Ctrl-C stops the pods and keeps their data.");
    text
}

/// The existing sets with their replicas, and commands to inspect them.
pub fn earlier(program: &str, kubeconfig: &Path, sets: &[(String, i32)], pods: usize) -> String {
    let kubeconfig = kubeconfig.display();
    if sets.is_empty() && pods == 0 {
        return format!(
            "No workload exists yet. In another shell:\n  export KUBECONFIG={kubeconfig}\n  \
             kubectl apply -f FILE"
        );
    }
    let mut all: Vec<String> = sets
        .iter()
        .take(SETS_MAX)
        .map(|(name, replicas)| format!("statefulset {name} ({})", counted(*replicas, "replica")))
        .collect();
    if sets.len() > SETS_MAX {
        all.push(format!("{} more sets", sets.len() - SETS_MAX));
    }
    if pods > 0 {
        let pods = i32::try_from(pods).unwrap_or(i32::MAX);
        all.push(counted(pods, "pod") + " of other kinds");
    }
    format!(
        "Existing workloads: {}. In another shell:\n  export KUBECONFIG={kubeconfig}\n  \
         {program} status",
        all.join(", ")
    )
}

/// Maximum number of listed sets.
const SETS_MAX: usize = 5;

fn counted(count: i32, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

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

    /// Findings U4: nothing was shown without `-f`.
    #[test]
    fn what_is_there_from_before_is_named() {
        let file = Path::new("/data/kubeconfig");
        let text = earlier("mainstay", file, &[], 0);
        assert!(text.contains("No workload exists yet"), "{text}");
        assert!(text.contains("kubectl apply -f FILE"), "{text}");
        let sets = [("web".to_owned(), 3), ("shop/db".to_owned(), 1)];
        let text = earlier("mainstay", file, &sets, 2);
        let start = "Existing workloads: statefulset web (3 replicas), statefulset shop/db \
                     (1 replica), 2 pods of other kinds.";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("mainstay status"), "{text}");
    }
}
