//! The content of a pod's `/etc/hosts` (statefulset.md §10.13).

use k8s_openapi::api::core::v1::HostAlias;

use super::hostname::Names;

/// The file of a pod with a separate network.
pub fn pod_hosts(names: &Names, pod_ips: &[String], aliases: &[HostAlias]) -> String {
    let mut file = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        match &names.fqdn {
            Some(fqdn) => file.push_str(&format!("{ip}\t{fqdn}\t{}\n", names.hostname)),
            None => file.push_str(&format!("{ip}\t{}\n", names.hostname)),
        }
    }
    file + &alias_lines(aliases)
}

/// The file of a pod on the host network: the node's file, and the pod's aliases.
pub fn node_hosts(node_file: &str, aliases: &[HostAlias]) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{node_file}{}",
        alias_lines(aliases)
    )
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut lines = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        lines.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_resolves_its_own_name_and_its_aliases() {
        // statefulset.md 10.13
        let names = Names {
            hostname: "web-0".to_owned(),
            fqdn: Some("web-0.nginx.default.svc.cluster.local".to_owned()),
            kernel: "web-0".to_owned(),
        };
        let alias = HostAlias {
            ip: "10.1.2.3".to_owned(),
            hostnames: Some(vec!["foo".to_owned(), "bar".to_owned()]),
        };
        let file = pod_hosts(&names, &["10.244.0.5".to_owned()], &[alias]);
        let tail: Vec<&str> = file.lines().skip(7).collect();
        assert_eq!(
            tail,
            [
                "10.244.0.5\tweb-0.nginx.default.svc.cluster.local\tweb-0",
                "",
                "# Entries added by HostAliases.",
                "10.1.2.3\tfoo\tbar",
            ]
        );
        assert!(file.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    }
}
