//! The allowed connections, implemented word by word from the API's description of the fields. Slow and simple: the
//! table of the node must give equal results.

use std::net::Ipv4Addr;

use serde_json::Value;
use service_routing::Protocol;

use crate::cluster::Cluster;

/// Whether a connection may begin, judged by the policies of this node's pods.
pub fn allowed(
    cluster: &Cluster,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    port: Option<(Protocol, u16)>,
) -> bool {
    if source == destination {
        return true;
    }
    let ends = [
        ("Ingress", "ingress", "from", destination, source),
        ("Egress", "egress", "to", source, destination),
    ];
    ends.iter().all(|(kind, rules, side, own_address, other)| {
        let Some(pod) = pod_at(cluster, *own_address).filter(|pod| is_local(cluster, pod)) else {
            return true;
        };
        let selecting = cluster.policies.iter();
        let selecting = selecting.filter(|policy| {
            policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
                && is_about(&policy["spec"], kind)
        });
        let selecting: Vec<&Value> = selecting.collect();
        let rule_allows = |policy: &Value, rule: &Value| {
            peers_match(cluster, policy, &rule[*side], *other)
                && ports_match(cluster, &rule["ports"], destination, port)
        };
        selecting.is_empty()
            || selecting.iter().any(|policy| {
                let mut all = list(&policy["spec"][*rules]).iter();
                all.any(|rule| rule_allows(policy, rule))
            })
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_about(spec: &Value, kind: &str) -> bool {
    let types = list(&spec["policyTypes"]);
    if !types.is_empty() {
        return types.iter().any(|one| one == kind);
    }
    kind == "Ingress" || !list(&spec["egress"]).is_empty()
}

/// The pod with this address that selectors can match.
fn pod_at(cluster: &Cluster, address: Ipv4Addr) -> Option<&Value> {
    let text = address.to_string();
    cluster.pods.iter().find(|pod| {
        pod["status"]["podIPs"][0]["ip"] == text.as_str()
            && pod["spec"]["hostNetwork"] != true
            && pod["status"]["phase"] == "Running"
    })
}

fn is_local(cluster: &Cluster, pod: &Value) -> bool {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
    let name = format!("{}/{}", text("namespace"), text("name"));
    cluster.local.contains(&name)
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object();
    let equal = equal.into_iter().flatten();
    let equal = equal.map(|(key, value)| labels.get(key) == Some(value));
    let expressions = list(&selector["matchExpressions"]).iter().map(|one| {
        let label = labels.get(one["key"].as_str().unwrap_or_default());
        let listed = label.is_some_and(|label| list(&one["values"]).contains(label));
        match one["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("Exists") => label.is_some(),
            Some("DoesNotExist") => label.is_none(),
            other => panic!("operator {other:?}"),
        }
    });
    equal.chain(expressions).all(|holds| holds)
}

fn peers_match(cluster: &Cluster, policy: &Value, peers: &Value, other: Ipv4Addr) -> bool {
    let peers = list(peers);
    peers.is_empty()
        || peers.iter().any(|peer| {
            let block = &peer["ipBlock"];
            if block.is_object() {
                let inside = |range: &Value| contains(range, other);
                let except = list(&block["except"]);
                return inside(&block["cidr"]) && !except.iter().any(inside);
            }
            let Some(pod) = pod_at(cluster, other) else {
                return false;
            };
            let namespace = pod["metadata"]["namespace"].as_str().unwrap();
            let of_namespace = match &peer["namespaceSelector"] {
                Value::Null => policy["metadata"]["namespace"] == namespace,
                selector => {
                    let labels = serde_json::to_value(&cluster.namespaces[namespace]).unwrap();
                    selects(selector, &labels)
                }
            };
            of_namespace && selects(&peer["podSelector"], &pod["metadata"]["labels"])
        })
}

fn contains(range: &Value, address: Ipv4Addr) -> bool {
    let (network, prefix) = range.as_str().unwrap().split_once('/').unwrap();
    let network: Ipv4Addr = network.parse().unwrap();
    let host_bits = 32 - prefix.parse::<u32>().unwrap();
    let network_of = |address: Ipv4Addr| u64::from(address.to_bits()) >> host_bits;
    network_of(network) == network_of(address)
}

fn ports_match(
    cluster: &Cluster,
    ports: &Value,
    destination: Ipv4Addr,
    port: Option<(Protocol, u16)>,
) -> bool {
    let ports = list(ports);
    ports.is_empty()
        || ports.iter().any(|allowed_port| {
            let Some((protocol, port)) = port else {
                return false;
            };
            let name = protocol.to_string().to_uppercase();
            let is_protocol = |value: &Value| value.as_str().unwrap_or("TCP") == name;
            let of_port = match &allowed_port["port"] {
                Value::Null => true,
                Value::String(named) => {
                    let pod = pod_at(cluster, destination);
                    let containers = pod.map_or(&[][..], |pod| list(&pod["spec"]["containers"]));
                    let mut all = containers.iter().flat_map(|one| list(&one["ports"]));
                    all.any(|one| {
                        one["name"] == named.as_str()
                            && one["containerPort"] == port
                            && is_protocol(&one["protocol"])
                    })
                }
                number => {
                    let first = number.as_u64().unwrap();
                    let last = allowed_port["endPort"].as_u64().unwrap_or(first);
                    (first..=last).contains(&u64::from(port))
                }
            };
            is_protocol(&allowed_port["protocol"]) && of_port
        })
}
