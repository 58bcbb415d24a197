//! A pod's host name and fully qualified name (statefulset.md §10.13).

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use crate::limits::{FQDN_HOSTNAME_MAX, HOSTNAME_MAX};

/// The host names of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `spec.hostname`, or the pod's name.
    pub hostname: String,
    /// `<hostname>.<subdomain>.<namespace>.svc.<zone>`; `None` if the pod has no subdomain.
    pub fqdn: Option<String>,
    /// The kernel's host name: the short name, or the fully qualified name with `setHostnameAsFQDN`.
    pub kernel: String,
}

/// A host name that is too long for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameTooLong {
    pub name: String,
}

impl fmt::Display for HostnameTooLong {
    /// The message is kubelet's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, length) = (&self.name, self.name.len());
        write!(
            f,
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too \
             long ({FQDN_HOSTNAME_MAX} characters is the max, {length} characters requested)"
        )
    }
}

impl std::error::Error for HostnameTooLong {}

/// The pod's names in the cluster domain `zone`.
///
/// # Errors
/// The kernel's host name would exceed 64 characters.
pub fn names(pod: &Pod, zone: &str) -> Result<Names, HostnameTooLong> {
    fits(unchecked_names(pod, zone))
}

fn unchecked_names(pod: &Pod, zone: &str) -> Names {
    let spec = pod.spec.as_ref();
    let set = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    if let Some(name) = spec.and_then(|spec| set(&spec.hostname_override)) {
        // `hostnameOverride` applies only inside the pod: it has no domain and no DNS record.
        return Names {
            hostname: name.clone(),
            fqdn: None,
            kernel: name,
        };
    }
    let spec_hostname = spec.and_then(|spec| set(&spec.hostname));
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = match spec_hostname {
        Some(spec_hostname) => spec_hostname,
        None => pod_name.chars().take(HOSTNAME_MAX).collect::<String>(),
    };
    let hostname = hostname.trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec
        .and_then(|s| s.subdomain.as_deref())
        .filter(|name| !name.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let fqdn = subdomain.map(|sub| format!("{hostname}.{sub}.{namespace}.svc.{zone}"));
    let long = spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let kernel = match &fqdn {
        Some(fqdn) if long => fqdn.clone(),
        _ => hostname.clone(),
    };
    Names {
        hostname,
        fqdn,
        kernel,
    }
}

/// The names of a pod on the host network of `node`. The kernel's host name is the node's.
pub fn on_node(pod: &Pod, zone: &str, node: &str) -> Names {
    let mut names = unchecked_names(pod, zone);
    names.kernel = node.to_owned();
    names
}

fn fits(names: Names) -> Result<Names, HostnameTooLong> {
    if names.kernel.len() > FQDN_HOSTNAME_MAX {
        return Err(HostnameTooLong { name: names.kernel });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn with_no_containers(mut spec: json_tree::Value) -> json_tree::Value {
        spec["containers"] = json_tree::json!([]);
        spec
    }

    fn pod(spec: json_tree::Value) -> Pod {
        json_tree::from_value(json_tree::json!({
            "metadata": {"name": "web-0", "namespace": "default"}, "spec": spec
        }))
        .unwrap()
    }

    #[test]
    fn pod_of_a_set_has_its_name_and_domain() {
        // statefulset.md 10.13
        let spec = json_tree::json!({"hostname": "web-0", "subdomain": "nginx", "containers": []});
        let names = names(&pod(spec), "cluster.local").unwrap();
        assert_eq!(names.hostname, "web-0");
        assert_eq!(
            names.fqdn.as_deref(),
            Some("web-0.nginx.default.svc.cluster.local")
        );
        assert_eq!(names.kernel, "web-0");
    }

    #[test]
    fn a_name_that_overrides_has_no_domain() {
        // statefulset.md 10.13
        let spec = json!({"hostname": "web-0", "subdomain": "nginx", "containers": [],
            "hostnameOverride": "db.example.org"});
        let names = names(&pod(spec), "cluster.local").unwrap();
        assert_eq!(names.hostname, "db.example.org");
        assert_eq!(names.kernel, "db.example.org");
        assert_eq!(names.fqdn, None);
    }

    #[test]
    fn long_kernel_name_only_when_asked_and_when_it_fits() {
        // statefulset.md 10.13
        let spec = |sub: &str| {
            let fields = json_tree::json!({"subdomain": sub, "setHostnameAsFQDN": true});
            with_no_containers(fields)
        };
        let fits = names(&pod(spec("nginx")), "cluster.local").unwrap();
        assert_eq!(fits.kernel, "web-0.nginx.default.svc.cluster.local");
        let long = names(&pod(spec(&"x".repeat(50))), "cluster.local").unwrap_err();
        let message = long.to_string();
        assert!(
            message.ends_with("is too long (64 characters is the max, 82 characters requested)")
        );
        // On the host network the length is not checked.
        let host = on_node(&pod(spec(&"x".repeat(50))), "cluster.local", "node-a");
        assert_eq!(
            (host.hostname.as_str(), host.kernel.as_str()),
            ("web-0", "node-a")
        );
    }
}
