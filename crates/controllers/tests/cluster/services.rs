//! Services for clients outside of the cluster.

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Endpoints, Event, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, PostParams};

use crate::stateful_sets::set;
use crate::support::{Cluster, eventually, wait_for};

async fn ready_node(cluster: &Cluster, name: &str, address: &str) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json_tree::from_value(json!({ "metadata": { "name": name } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": address }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    let patch = Patch::Strategic(status);
    let params = PatchParams::default();
    nodes.patch_status(name, &params, &patch).await.unwrap();
}

fn balanced(name: &str, port: u16) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "type": "LoadBalancer",
        "selector": { "app": name }, "ports": [{ "port": port }] } })
}

/// `web=10.0.0.1` for each Service of the type `LoadBalancer`.
fn addresses(services: &[Service]) -> String {
    let mut printed = Vec::new();
    for service in services {
        let status = service.status.clone().unwrap_or_default();
        let ingress = status.load_balancer.and_then(|balancer| balancer.ingress);
        let ips = ingress
            .into_iter()
            .flatten()
            .filter_map(|ingress| ingress.ip);
        let ips: Vec<String> = ips.collect();
        if !ips.is_empty() {
            let name = service.metadata.name.clone().unwrap();
            printed.push(format!("{name}={}", ips.join(",")));
        }
    }
    printed.join(" ")
}

#[tokio::test]
async fn load_balancers_have_the_addresses_of_the_nodes() {
    let cluster = Cluster::without_node().await;
    cluster.create::<Service>(balanced("web", 80)).await;
    ready_node(&cluster, "n1", "10.0.0.1").await;
    wait_for(&cluster, "web=10.0.0.1", addresses).await;
    ready_node(&cluster, "n2", "10.0.0.2").await;
    wait_for(&cluster, "web=10.0.0.1,10.0.0.2", addresses).await;

    // A second Service with the port has to wait, and reports this, until the first Service releases the port.
    cluster.create::<Service>(balanced("zebra", 80)).await;
    wait_for::<Event>(&cluster, "true", |events| {
        let reason = "port 80/TCP of 10.0.0.1 is taken by Service default/web";
        let is_warned = |event: &Event| {
            event.involved_object.name.as_deref() == Some("zebra")
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains(reason))
        };
        events.iter().any(is_warned).to_string()
    })
    .await;
    let plain = json!({ "spec": { "type": "ClusterIP" } });
    cluster.patch::<Service>("web", plain).await;
    wait_for(&cluster, "zebra=10.0.0.1,10.0.0.2", addresses).await;
}

/// `web-0@30100` for each Service of an ordinal.
fn node_ports(services: &[Service]) -> String {
    let mut printed = Vec::new();
    for service in services {
        let spec = service.spec.clone().unwrap();
        for port in spec.ports.unwrap_or_default() {
            if let Some(node_port) = port.node_port {
                printed.push(format!(
                    "{}@{node_port}",
                    service.metadata.name.clone().unwrap()
                ));
            }
        }
    }
    printed.sort();
    printed.join(" ")
}

#[tokio::test]
async fn each_ordinal_has_its_own_port_from_outside() {
    let cluster = Cluster::new().await;
    let governing = json!({ "metadata": { "name": "svc" }, "spec": { "clusterIP": "None",
        "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80 }] } });
    cluster.create::<Service>(governing).await;
    let mut web = set(2, "a", json!({}));
    web["metadata"]["annotations"] = json!({ "mainstay.dev/ordinal-node-port": "30100" });
    cluster.create::<StatefulSet>(web).await;
    wait_for(&cluster, "web-0@30100 web-1@30101", node_ports).await;
    let scale = |replicas: i32| json!({ "spec": { "replicas": replicas } });
    cluster.patch::<StatefulSet>("web", scale(3)).await;
    wait_for(&cluster, "web-0@30100 web-1@30101 web-2@30102", node_ports).await;
    cluster.patch::<StatefulSet>("web", scale(1)).await;
    wait_for(&cluster, "web-0@30100", node_ports).await;

    // A Service that a user deletes is created again; with the set all Services are deleted.
    cluster
        .delete::<Service>("web-0", DeleteParams::default())
        .await;
    wait_for(&cluster, "web-0@30100", node_ports).await;
    cluster
        .delete::<StatefulSet>("web", DeleteParams::background())
        .await;
    wait_for(&cluster, "", node_ports).await;
}

/// KEP-1880
#[tokio::test]
async fn a_service_cidr_goes_when_no_service_has_an_address_of_it() {
    let cluster = Cluster::without_node().await;
    let ranges: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let range = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.201.0.0/24"] } });
    let range = json_tree::from_value(range).unwrap();
    ranges.create(&PostParams::default(), &range).await.unwrap();
    let condition = async || {
        let range = ranges.get_opt("more").await.unwrap()?;
        let conditions = range.status?.conditions?;
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready")?;
        Some((ready.status, ready.reason))
    };
    let becomes = async |status: &str, reason: &str| {
        let expected = Some((status.to_owned(), reason.to_owned()));
        eventually(async || condition().await == expected).await;
    };
    becomes("True", "").await;
    let service = json!({ "metadata": { "name": "web" }, "spec": { "clusterIP": "10.201.0.7",
        "ports": [{ "port": 80 }] } });
    cluster.create::<Service>(service).await;
    ranges
        .delete("more", &DeleteParams::default())
        .await
        .unwrap();
    becomes("False", "Terminating").await;
    cluster
        .delete::<Service>("web", DeleteParams::default())
        .await;
    eventually(async || ranges.get_opt("more").await.unwrap().is_none()).await;
}

// findings C20
#[tokio::test]
async fn endpoints_made_by_hand_are_served_as_slices() {
    let cluster = Cluster::without_node().await;
    let service = json!({ "metadata": { "name": "db" }, "spec": { "ports": [{ "port": 5432 }] } });
    cluster.create::<Service>(service).await;
    let with = |ip: &str| {
        json!({
            "metadata": { "name": "db" },
            "subsets": [{ "addresses": [{ "ip": ip }], "ports": [{ "port": 5432 }] }],
        })
    };
    cluster.create::<Endpoints>(with("10.9.0.1")).await;
    let printed = |slices: &[EndpointSlice]| {
        let manager = "endpointslicemirroring-controller.k8s.io";
        let lines = slices.iter().filter_map(|slice| {
            let labels = slice.metadata.labels.as_ref()?;
            let ours = labels.get("endpointslice.kubernetes.io/managed-by")? == manager;
            let service = labels.get("kubernetes.io/service-name")?;
            let address = &slice.endpoints.as_ref()?.first()?.addresses[0];
            ours.then(|| format!("{service}={address}"))
        });
        lines.collect::<Vec<_>>().join(" ")
    };
    wait_for(&cluster, "db=10.9.0.1", printed).await;
    let endpoints: Api<Endpoints> = Api::namespaced(cluster.client.clone(), "default");
    let params = PatchParams::default();
    let patch = Patch::Merge(with("10.9.0.2"));
    endpoints.patch("db", &params, &patch).await.unwrap();
    wait_for(&cluster, "db=10.9.0.2", printed).await;
    endpoints
        .delete("db", &DeleteParams::default())
        .await
        .unwrap();
    wait_for(&cluster, "", printed).await;
}
