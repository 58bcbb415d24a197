//! A cluster as objects of the API, and the table that is computed from it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use resource_kinds::pod_view::PodView;
use serde_json::{Value, json};
use service_routing::{
    Connection, Policy, PolicyObjects, PolicyPod, Protocol, Table, filters, passes,
};

/// Objects as their JSON.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Labels of the namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods; those in `local` run on this node.
    pub pods: Vec<Value>,
    /// Names of the pods of this node.
    pub local: Vec<String>,
    pub policies: Vec<Value>,
}

impl Cluster {
    /// Namespaces `shop` (team=shop), with the pods `web` 10.244.0.2, `db` 10.244.0.3 and `job` 10.244.0.4, and `lab`
    /// (team=lab), with `web` 10.244.0.5; all on this node. `far` 10.244.1.6 in `shop` is on another node.
    pub fn new() -> Cluster {
        let mut cluster = Cluster::default();
        for team in ["shop", "lab"] {
            let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
            cluster.namespaces.insert(team.to_owned(), labels);
        }
        cluster.pod("shop", "web", "10.244.0.2");
        cluster.pod("shop", "db", "10.244.0.3");
        cluster.pod("shop", "job", "10.244.0.4");
        cluster.pod("lab", "web", "10.244.0.5");
        cluster.pod("shop", "far", "10.244.1.6");
        cluster.local.retain(|name| name != "shop/far");
        cluster
    }

    /// Adds a pod of this node: its label `app` is its name, its port `http` is TCP 80, and its
    /// port `dns` is UDP 53.
    pub fn pod(&mut self, namespace: &str, name: &str, address: &str) {
        let ports = json!([
            {"name": "http", "containerPort": 80},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"}]);
        let containers = json!([{"name": "c", "ports": ports}]);
        self.local.push(format!("{namespace}/{name}"));
        self.pods.push(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name},
                "uid": format!("uid-{namespace}-{name}"), "resourceVersion": "1"},
            "spec": {"containers": containers},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]},
        }));
    }

    /// Adds a policy of the namespace `shop`.
    pub fn policy(&mut self, spec: Value) {
        let name = format!("p{}", self.policies.len());
        self.policies.push(json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
            "spec": spec,
        }));
    }

    /// The state that the node's table is computed from.
    pub fn state(&self) -> PolicyObjects {
        let mut state = PolicyObjects {
            namespaces: self.namespaces.clone(),
            ..PolicyObjects::default()
        };
        for policy in &self.policies {
            let policy = serde_json::from_value(policy.clone()).unwrap();
            let policy = Policy::of(&policy);
            state.policies.insert(policy.uid.clone(), policy);
        }
        for object in &self.pods {
            let pod: Pod = serde_json::from_value(object.clone()).unwrap();
            let view = PodView::try_from(pod).unwrap();
            let is_local = self
                .local
                .contains(&format!("{}/{}", view.namespace, view.name));
            let address = view.addresses.first().map(|text| text.parse().unwrap());
            if let Some(pod) = PolicyPod::of(&view, address.filter(|_| is_local)) {
                state.pods.insert(view.uid.to_string(), pod);
            }
        }
        state
    }

    pub fn table(&self) -> Table {
        filters(&self.state())
    }

    /// Whether the connection passes; its port is for instance `tcp 80`, or `icmp`.
    #[track_caller]
    pub fn passes(&self, source: &str, destination: &str, port: &str) -> bool {
        passes(&self.table(), &connection(source, destination, port))
    }
}

pub fn connection(source: &str, destination: &str, port: &str) -> Connection {
    let address = |text: &str| -> Ipv4Addr { text.parse().unwrap() };
    let port = port.split_once(' ').map(|(protocol, port)| {
        let protocol = Protocol::of(Some(&protocol.to_uppercase())).unwrap();
        (protocol, port.parse().unwrap())
    });
    Connection {
        source: address(source),
        destination: address(destination),
        port,
    }
}
