//! The content of a pod's `/etc/resolv.conf` (statefulset.md §10.12).

use k8s_openapi::api::core::v1::{Pod, PodDNSConfigOption};

use crate::spec::uses_host_network;

/// Maximum number of name servers that a resolver uses.
const NAMESERVERS_MAX: usize = 3;
/// Maximum number of search domains, as in kubelet.
const SEARCHES_MAX: usize = 32;
/// Maximum total length of the search domains, in characters.
const SEARCH_CHARS_MAX: usize = 2048;

/// The content of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of name servers, in the order of use.
    pub nameservers: Vec<String>,
    /// Search domains, in the order of use.
    pub searches: Vec<String>,
    /// Options in the form `name` or `name:value`.
    pub options: Vec<String>,
}

/// The DNS of the cluster, for pods with the policy `ClusterFirst`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Addresses of the cluster's DNS servers.
    pub servers: Vec<String>,
    /// The cluster domain, for instance `cluster.local`.
    pub zone: String,
}

/// A pod's resolver configuration, and warnings about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResolver {
    pub resolver: Resolver,
    /// Reasons and messages of Warning events.
    pub warnings: Vec<(&'static str, String)>,
}

impl Resolver {
    /// Parses a `resolv.conf`. Unknown lines are skipped.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                // As in resolvers, the last of these lines is used.
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// The resolver configuration of a pod on a node with the configuration `host`.
pub fn pod_resolver(pod: &Pod, cluster: &ClusterDns, host: &Resolver) -> PodResolver {
    let mut pod_resolver = PodResolver::default();
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let to_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !uses_host_network(&spec),
        _ => false,
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    pod_resolver.resolver = if policy == "None" {
        Resolver::default()
    } else if to_cluster && cluster.servers.is_empty() {
        let message = format!(
            "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod \
             using \"{policy}\" policy. Falling back to \"Default\" policy.",
            crate::spec::display_name(pod)
        );
        pod_resolver.warnings.push(("MissingClusterDNS", message));
        host.clone()
    } else if to_cluster {
        cluster_first(namespace, cluster, host)
    } else {
        host.clone()
    };
    if let Some(config) = &spec.dns_config {
        let resolver = &mut pod_resolver.resolver;
        append_new(
            &mut resolver.nameservers,
            config.nameservers.as_deref().unwrap_or_default(),
        );
        append_new(
            &mut resolver.searches,
            config.searches.as_deref().unwrap_or_default(),
        );
        merge_options(
            &mut resolver.options,
            config.options.as_deref().unwrap_or_default(),
        );
    }
    cut(&mut pod_resolver);
    pod_resolver
}

fn cluster_first(namespace: &str, cluster: &ClusterDns, host: &Resolver) -> Resolver {
    let zone = &cluster.zone;
    let mut searches = vec![
        format!("{namespace}.svc.{zone}"),
        format!("svc.{zone}"),
        zone.clone(),
    ];
    append_new(&mut searches, &host.searches);
    Resolver {
        nameservers: cluster.servers.clone(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Adds the pod's options. They replace options with equal names.
fn merge_options(options: &mut Vec<String>, overrides: &[PodDNSConfigOption]) {
    for option in overrides {
        let Some(name) = &option.name else { continue };
        options.retain(|existing| existing.split(':').next() != Some(name.as_str()));
        options.push(match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.clone(),
        });
    }
}

fn cut(pod_resolver: &mut PodResolver) {
    let resolver = &mut pod_resolver.resolver;
    if resolver.nameservers.len() > NAMESERVERS_MAX {
        resolver.nameservers.truncate(NAMESERVERS_MAX);
        let line = resolver.nameservers.join(" ");
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
             nameserver line is: {line}"
        );
        pod_resolver.warnings.push(("DNSConfigForming", message));
    }
    let mut chars = 0;
    let fitting = resolver
        .searches
        .iter()
        .take(SEARCHES_MAX)
        .take_while(|domain| {
            chars += domain.len() + 1;
            chars <= SEARCH_CHARS_MAX + 1
        })
        .count();
    if fitting < resolver.searches.len() {
        resolver.searches.truncate(fitting);
        let line = resolver.searches.join(" ");
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied \
             search line is: {line}"
        );
        pod_resolver.warnings.push(("DNSConfigForming", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(spec: json_tree::Value) -> PodResolver {
        let pod = json_tree::from_value(json_tree::json!({
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec
        }))
        .unwrap();
        let cluster = ClusterDns {
            servers: vec!["10.96.0.10".to_owned()],
            zone: "cluster.local".to_owned(),
        };
        let host = Resolver::parse("search lan svc.cluster.local\nnameserver 192.0.2.1\n");
        pod_resolver(&pod, &cluster, &host)
    }

    #[test]
    fn cluster_first_searches_namespace_services_zone_then_host() {
        // statefulset.md 10.12
        let pod_resolver = resolved(json_tree::json!({"containers": []}));
        assert_eq!(
            pod_resolver.resolver.render(),
            "search shop.svc.cluster.local svc.cluster.local cluster.local lan\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn host_network_and_default_use_the_nodes_resolver() {
        // statefulset.md 10.12
        for spec in [
            json_tree::json!({"containers": [], "hostNetwork": true}),
            json_tree::json!({"containers": [], "dnsPolicy": "Default"}),
        ] {
            assert_eq!(resolved(spec).resolver.nameservers, ["192.0.2.1"]);
        }
        let spec = json_tree::json!({"containers": [], "hostNetwork": true,
            "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(resolved(spec).resolver.nameservers, ["10.96.0.10"]);
    }

    #[test]
    fn own_configuration_adds_and_its_options_win() {
        // statefulset.md 10.12
        let spec = json_tree::json!({"containers": [], "dnsConfig": {
            "nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["my.zone"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        let resolver = resolved(spec).resolver;
        assert_eq!(resolver.nameservers, ["10.96.0.10", "1.1.1.1"]);
        assert_eq!(resolver.searches.last().unwrap(), "my.zone");
        assert_eq!(resolver.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn none_starts_empty_and_long_lists_are_cut_with_a_warning() {
        // statefulset.md 10.12
        let spec = json_tree::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}});
        let pod_resolver = resolved(spec);
        assert_eq!(pod_resolver.resolver.nameservers.len(), 3);
        assert_eq!(pod_resolver.warnings[0].0, "DNSConfigForming");
    }
}
