//! The Node objects that decide about requests of nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use object_model::NodeName;
use resource_kinds::certificates::{Request, signer};

/// The names and addresses of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names in lower case.
    pub dns: BTreeSet<String>,
    /// IP addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// The objects that decide about a request, apart from the request.
#[derive(Clone, Copy, Debug)]
pub struct NodeCertificateContext<'a> {
    /// The Node objects.
    pub nodes: &'a [Arc<Node>],
    /// The last heartbeat of the node that the request names, if it is known.
    pub heartbeat: Option<Timestamp>,
    /// The names of the API server, which are refused for nodes.
    pub server: &'a Names,
}

/// The node that an undecided request for a node's signer names by its user; `None` for other requests.
pub fn asks_for_node(request: &CertificateSigningRequest) -> Option<String> {
    let spec = &request.spec;
    let conditions = request
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    if conditions.is_some_and(|all| !all.is_empty()) {
        return None;
    }
    match spec.signer_name.as_str() {
        signer::NODE_CLIENT | signer::NODE_SERVING => {
            let csr = Request::parse(&spec.request.0).ok()?;
            let name = NodeName::of_user(&csr.common_name)?;
            Some(name.as_str().to_owned())
        }
        _ => None,
    }
}

impl NodeCertificateContext<'_> {
    fn node(&self, name: NodeName<'_>) -> Option<&Node> {
        let mut nodes = self.nodes.iter();
        let node_object = nodes.find(|node| node.metadata.name.as_deref() == Some(name.as_str()));
        node_object.map(AsRef::as_ref)
    }

    /// The reason for a refusal if the user's node exists and is alive, with its last heartbeat.
    pub(super) fn alive(&self, user: &str) -> Option<String> {
        let name = NodeName::of_user(user)?;
        let status = self.node(name)?.status.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready")?;
        if ready.status == "Unknown" {
            return None;
        }
        let heartbeat = ready.last_heartbeat_time.as_ref().map(|time| time.0);
        let heartbeat = self.heartbeat.or(heartbeat);
        let heartbeat = heartbeat.map_or_else(String::new, |at| {
            format!("; its last heartbeat was at {at}")
        });
        Some(format!(
            "a node of the name {name} is alive{heartbeat}. Delete the Node if its machine is gone, or \
             choose another name"
        ))
    }

    /// Whether the names and addresses of a server certificate are those of the node: its name, and
    /// the addresses of its Node object that neither another Node nor the API server has.
    pub(super) fn serving_names_fit(&self, request: &Request) -> bool {
        let Some(name) = NodeName::of_user(&request.common_name) else {
            return false;
        };
        let Some(node) = self.node(name) else {
            return false;
        };
        let node_addresses: BTreeSet<IpAddr> = addresses(node).collect();
        let others = self
            .nodes
            .iter()
            .filter(|other| other.metadata.name != node.metadata.name);
        let others: BTreeSet<IpAddr> = others.flat_map(|other| addresses(other)).collect();
        let is_address_of_node = |address: &IpAddr| {
            node_addresses.contains(address)
                && !address.is_loopback()
                && !others.contains(address)
                && !self.server.addresses.contains(address)
        };
        request.dns.iter().all(|dns| dns == name.as_str())
            && self.name_of_server(request).is_none()
            && request.addresses.iter().all(is_address_of_node)
    }

    /// The first DNS name of a request that covers a name of the API server; a wildcard may cover a name as well.
    pub(super) fn name_of_server<'r>(&self, request: &'r Request) -> Option<&'r str> {
        let names = request.dns.iter().map(String::as_str);
        let mut names = names.filter(|dns| {
            let dns = dns.trim_end_matches('.').to_ascii_lowercase();
            let parent = dns.strip_prefix("*.");
            let mut server = self.server.dns.iter();
            server.any(|server_name| {
                let parent_domain = server_name.split_once('.').map(|(_, parent)| parent);
                *server_name == dns || (parent.is_some() && parent_domain == parent)
            })
        });
        names.next()
    }

    /// The reason for a refusal if the node of the user has a name of the Service `kubernetes`; such a node gets no
    /// server certificate.
    pub(super) fn service_of_server(&self, user: &str) -> Option<String> {
        let name = NodeName::of_user(user)?.as_str();
        let of_service = name == "kubernetes" || name.starts_with("kubernetes.default");
        (of_service && self.server.dns.contains(name)).then(|| {
            format!("{name} is a name of the API server. Choose another name for the node")
        })
    }
}

/// The addresses in a Node's status.
fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let status = node.status.iter();
    let listed = status.flat_map(|status| status.addresses.iter().flatten());
    let addresses = listed.filter(|one| matches!(one.type_.as_str(), "InternalIP" | "ExternalIP"));
    addresses.filter_map(|one| one.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S35
    #[test]
    fn names_of_the_api_server_are_found_by_any_spelling() {
        let server = Names {
            dns: ["kubernetes", "kubernetes.default.svc", "api.example.org"]
                .map(str::to_owned)
                .into(),
            ..Names::default()
        };
        let around = NodeCertificateContext {
            nodes: &[],
            heartbeat: None,
            server: &server,
        };
        let covers = |dns: &str| {
            let mut request = Request::default();
            request.dns = vec!["n1".to_owned(), dns.to_owned()];
            around.name_of_server(&request).map(str::to_owned)
        };
        for dns in [
            "kubernetes",
            "Kubernetes.default.SVC",
            "kubernetes.default.svc.",
            "*.default.svc",
            "*.Example.org",
        ] {
            assert_eq!(covers(dns).as_deref(), Some(dns));
        }
        for dns in ["n2", "*.svc", "default.svc", "example.org", "*", "*."] {
            assert_eq!(covers(dns), None, "{dns}");
        }
        let refused = |name: &str| around.service_of_server(&format!("system:node:{name}"));
        assert!(refused("kubernetes").is_some() && refused("kubernetes.default.svc").is_some());
        assert!(refused("kubernetes-1").is_none() && refused("api.example.org").is_none());
    }
}
