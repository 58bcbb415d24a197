//! Labels that a node may set on itself. Other labels affect scheduling, so a node must not set them.

use std::collections::BTreeSet;

use json_tree::Value;

use crate::well_known::labels::HOSTNAME;

/// The labels under Kubernetes' domains that a node may set.
const ALLOWED: [&str; 10] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// The labels that differ between two versions of a Node and that the node must not write, in order.
///
/// The host name label must equal the name of the node, because local volumes and node selectors use the label.
pub(super) fn forbidden<'n>(name: &str, new: &'n Value, old: &'n Value) -> Vec<&'n str> {
    let value = |node: &'n Value, key: &str| &node["metadata"]["labels"][key];
    let maps = [new, old].map(|node| node["metadata"]["labels"].as_object());
    let keys: BTreeSet<&str> = maps
        .into_iter()
        .flatten()
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    keys.into_iter()
        .filter(|key| value(new, key) != value(old, key))
        .filter(|key| match *key {
            HOSTNAME => {
                cov_mark::hit!(findings_2_s37);
                value(new, key) != name
            }
            key => !is_own(key),
        })
        .collect()
}

fn is_own(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let within = |parent: &str| {
        let rest = domain.strip_suffix(parent);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        cov_mark::hit!(findings_s10);
        return false;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    !of_kubernetes
        || ALLOWED.contains(&key)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io")
}
