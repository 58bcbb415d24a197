//! The explanations of connections (docs/network-policy.md, "Ask which policy decides").

use json_tree::{Value, json};

use super::answer::{
    ConnectionObjects, ConnectionQuestion, ConnectionVerdict, addresses_of, decide,
};
use super::question::Destination;

/// Namespaces `shop` with the pods `web` (10.0.0.2) and `db` (10.0.0.3), and `lab` with `web` (10.0.1.2).
fn cluster() -> ConnectionObjects {
    let mut observed = ConnectionObjects::default();
    for name in ["shop", "lab"] {
        let namespace = json!({"metadata": {"name": name, "labels": {"team": name}}});
        let namespace = json_tree::from_value(namespace).unwrap();
        observed.namespaces.push(namespace);
    }
    for (namespace, name, node, address) in [
        ("shop", "web", "n1", "10.0.0.2"),
        ("shop", "db", "n2", "10.0.0.3"),
        ("lab", "web", "n2", "10.0.1.2"),
    ] {
        pod(&mut observed, namespace, name, node, address, &json!({}));
    }
    observed
}

fn pod(
    observed: &mut ConnectionObjects,
    namespace: &str,
    name: &str,
    node: &str,
    address: &str,
    more: &Value,
) {
    let mut object = json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"),
            "resourceVersion": "1", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i",
            "ports": [{"name": "sql", "containerPort": 5432}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for (key, value) in more.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    let pod: k8s_openapi::api::core::v1::Pod = json_tree::from_value(object).unwrap();
    observed.pods.push(pod.try_into().unwrap());
}

fn policy(observed: &mut ConnectionObjects, namespace: &str, name: &str, spec: Value) {
    let metadata =
        json!({"namespace": namespace, "name": name, "uid": format!("{namespace}/{name}")});
    let policy = json!({"metadata": metadata, "spec": spec});
    observed
        .policies
        .push(json_tree::from_value(policy).unwrap());
}

/// The Service `db` of `shop`, port 15432, with these addresses as endpoints.
fn service(observed: &mut ConnectionObjects, cluster_ip: &str, endpoints: &[&str], more: &Value) {
    let mut service = json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
            "ports": [{"name": "sql", "port": 15432, "targetPort": 5432}]},
    });
    for (key, value) in more.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    observed.service = Some(json_tree::from_value(service).unwrap());
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "n2"}))
        .collect();
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "db-1",
            "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]});
    observed.slices.push(json_tree::from_value(slice).unwrap());
}

fn ask(
    observed: &ConnectionObjects,
    client: (&str, &str),
    to: &str,
) -> Result<(ConnectionVerdict, String), String> {
    let to = Destination::parse(to).unwrap();
    let question = ConnectionQuestion {
        client,
        to: &to,
        namespace: "shop",
    };
    let response = decide(observed, question).map_err(|error| error.to_string())?;
    assert_eq!(response.json()["verdict"], response.verdict().as_str());
    Ok((response.verdict(), response.text()))
}

const WEB: (&str, &str) = ("shop", "web");
const LAB: (&str, &str) = ("lab", "web");

#[test]
fn without_policies_everything_passes() {
    let (verdict, text) = ask(&cluster(), LAB, "pod/db:5432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Passes);
    assert_eq!(
        text,
        "pod/web to pod/db:5432 in namespace shop (TCP): the connection passes\n  \
         egress of pod/web: allowed, no policy selects it for this direction\n  \
         ingress of pod/db in namespace shop: allowed, no policy selects it for this direction\n"
    );
}

#[test]
fn the_policy_that_drops_a_connection_is_named() {
    let mut observed = cluster();
    policy(
        &mut observed,
        "shop",
        "default-deny",
        json!({"podSelector": {}}),
    );
    policy(
        &mut observed,
        "shop",
        "db",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{
            "from": [{"namespaceSelector": {"matchLabels": {"team": "lab"}}}],
            "ports": [{"port": "sql"}]}]}),
    );
    let (verdict, text) = ask(&observed, WEB, "pod/db:sql").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Dropped);
    assert_eq!(
        text,
        "pod/web to pod/db:5432 (TCP): the connection is dropped; the client sees a timeout\n  \
         egress of pod/web: allowed, no policy selects it for this direction\n  \
         ingress of pod/db: dropped, networkpolicy/db, networkpolicy/default-deny select it and have no \
         rule for this\n  \
         To unblock: add a rule to one of the policies that select the end, or another policy that allows \
         the connection\n    \
         kubectl edit networkpolicy db -n shop\n    \
         kubectl edit networkpolicy default-deny -n shop\n"
    );
    let (verdict, text) = ask(&observed, LAB, "pod/db:5432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Passes);
    assert!(
        text.contains("ingress of pod/db in namespace shop: allowed by networkpolicy/db\n"),
        "{text}"
    );
    let (verdict, text) = ask(&observed, LAB, "pod/db:80").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Dropped);
    assert!(text.contains("declares the ports 5432, not 80"), "{text}");
    // The other end, in the other namespace.
    policy(
        &mut observed,
        "lab",
        "quiet",
        json!({"podSelector": {}, "policyTypes": ["Egress"]}),
    );
    let (verdict, text) = ask(&observed, LAB, "pod/db:5432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Dropped);
    let line =
        "egress of pod/web: dropped, networkpolicy/quiet selects it and has no rule for this";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("kubectl edit networkpolicy quiet -n lab"),
        "{text}"
    );
}

/// Rules are about the port of the pod, after the translation of the Service's address.
#[test]
fn a_service_leads_to_its_endpoints() {
    let mut observed = cluster();
    pod(&mut observed, "shop", "db2", "n1", "10.0.0.4", &json!({}));
    service(
        &mut observed,
        "10.96.0.7",
        &["10.0.0.3", "10.0.0.4"],
        &json!({}),
    );
    let (verdict, _) = ask(&observed, WEB, "svc/db:15432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Passes);
    policy(
        &mut observed,
        "shop",
        "db",
        json!({"podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"ports": [{"port": 15432}]}]}),
    );
    let (verdict, text) = ask(&observed, WEB, "svc/db:sql").unwrap();
    assert_eq!(
        verdict,
        ConnectionVerdict::Partly,
        "the rule has the Service's port"
    );
    for line in [
        "  svc/db has the address 10.96.0.7 and 2 endpoints for port 15432\n",
        "  pod/db, port 5432: dropped\n",
        "  pod/db2, port 5432: passes\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let refused = ask(&observed, WEB, "svc/db:5432").unwrap_err();
    assert!(
        refused.contains("has no such port; it has 15432/TCP"),
        "{refused}"
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut observed = cluster();
    service(&mut observed, "10.96.0.7", &[], &json!({}));
    let (verdict, text) = ask(&observed, WEB, "svc/db:15432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Refused);
    assert!(
        text.contains("`mainstay why svc/db -n shop` says why"),
        "{text}"
    );
    // The endpoint is on another node.
    let mut observed = cluster();
    let local = json!({"internalTrafficPolicy": "Local"});
    service(&mut observed, "10.96.0.7", &["10.0.0.3"], &local);
    let (verdict, text) = ask(&observed, WEB, "svc/db:15432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Refused);
    assert!(text.contains("no endpoint on the node n1"), "{text}");
    assert_eq!(
        ask(&observed, LAB, "svc/db:15432").unwrap().0,
        ConnectionVerdict::Passes
    );
}

#[test]
fn a_headless_service_leads_to_the_port_of_the_pod() {
    let mut observed = cluster();
    service(&mut observed, "None", &["10.0.0.3"], &json!({}));
    policy(
        &mut observed,
        "shop",
        "db",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{"port": 5432}]}]}),
    );
    assert_eq!(
        ask(&observed, WEB, "svc/db:5432").unwrap().0,
        ConnectionVerdict::Passes
    );
    let (verdict, text) = ask(&observed, WEB, "svc/db:15432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Dropped);
    assert!(text.contains("svc/db is headless"), "{text}");
}

/// "Connections between a pod and its own node always pass" (docs/network-policy.md).
#[test]
fn policies_do_not_apply_between_a_pod_and_its_node() {
    let mut observed = cluster();
    let host = json!({"hostNetwork": true});
    pod(&mut observed, "shop", "near", "n2", "192.0.2.2", &host);
    pod(&mut observed, "shop", "far", "n1", "192.0.2.1", &host);
    let node = json!({"metadata": {"name": "n2"}, "spec": {"podCIDR": "10.0.1.0/24"},
        "status": {"addresses": [{"type": "Hostname", "address": "n2"},
            {"type": "InternalIP", "address": "192.0.2.2"}]}});
    observed.node_addresses = addresses_of(&json_tree::from_value(node).unwrap());
    let both = json!(["Ingress", "Egress"]);
    let deny = json!({"podSelector": {}, "policyTypes": both});
    policy(&mut observed, "shop", "deny", deny);
    assert_eq!(
        ask(&observed, ("shop", "near"), "pod/db:5432").unwrap().0,
        ConnectionVerdict::Passes
    );
    assert_eq!(
        ask(&observed, ("shop", "far"), "pod/db:5432").unwrap().0,
        ConnectionVerdict::Dropped
    );
    assert_eq!(
        ask(&observed, ("shop", "db"), "pod/near:22").unwrap().0,
        ConnectionVerdict::Passes
    );
    assert_eq!(
        ask(&observed, ("shop", "db"), "pod/far:22").unwrap().0,
        ConnectionVerdict::Dropped
    );
    assert_eq!(
        ask(&observed, ("shop", "db"), "pod/db:22").unwrap().0,
        ConnectionVerdict::Passes
    );
}

/// The API server of one machine is at the first address of the pods' range.
#[test]
fn a_node_answers_its_own_pods_at_each_of_its_addresses() {
    let mut observed = cluster();
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.0.0/24"}});
    observed.node_addresses = addresses_of(&json_tree::from_value(node).unwrap());
    let deny = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    policy(&mut observed, "shop", "deny", deny);
    service(&mut observed, "10.96.0.1", &["10.0.0.1"], &json!({}));
    let (verdict, text) = ask(&observed, WEB, "svc/db:15432").unwrap();
    assert_eq!(verdict, ConnectionVerdict::Passes, "{text}");
    let line = "policies do not apply between a pod and its own node";
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_question_without_an_answer_says_why() {
    let mut observed = cluster();
    pod(&mut observed, "shop", "new", "n1", "", &json!({}));
    for (client, to, reason) in [
        (
            ("shop", "x"),
            "pod/db:1",
            "pod \"x\" not found in namespace \"shop\"",
        ),
        (WEB, "pod/x:1", "pod \"x\" not found"),
        (WEB, "svc/x:1", "svc \"x\" in namespace \"shop\" not found"),
        (WEB, "pod/db:http", "no port of the name \"http\""),
        (WEB, "pod/new:1", "pod new has no address yet"),
        (("shop", "new"), "pod/db:1", "pod new has no address yet"),
    ] {
        let message = ask(&observed, client, to).unwrap_err();
        assert!(message.contains(reason), "{message}");
    }
    service(
        &mut observed,
        "10.96.0.7",
        &[],
        &json!({"type": "ExternalName", "externalName": "db.test"}),
    );
    let message = ask(&observed, WEB, "svc/db:1").unwrap_err();
    assert!(message.contains("is another name of db.test"), "{message}");
}
