//! Objects for which the server creates kernel rules, and endless sequences of objects.

use end_to_end::with_images;
use serde_json::{Value, json};

use super::Scene;

/// Policies with thousands of blocks and exceptions, and Services with thousands of ports, for a running pod.
// findings-2 S36
#[test]
fn large_policies_and_services() {
    let (_registry, instance) = with_images();
    let mut scene = Scene::on(instance, 1);
    let kubectl = scene.instance.kubectl();
    let run = [
        "run",
        "-n",
        "tenant-0",
        "target",
        "--image=busybox:1",
        "--labels=app=a",
    ];
    kubectl.ok(&[&run[..], &["--", "sleep", "1000"]].concat());
    let wait = [
        "wait",
        "-n",
        "tenant-0",
        "--for=condition=Ready",
        "pod/target",
        "--timeout=60s",
    ];
    kubectl.ok(&wait);
    let block = |number: usize| {
        let except: Vec<String> = (0..50)
            .map(|last| format!("10.{number}.{last}.0/24"))
            .collect();
        json!({"ipBlock": {"cidr": format!("10.{number}.0.0/16"), "except": except}})
    };
    let policies: Vec<Value> = (0..20)
        .map(|number| {
            let blocks: Vec<Value> = (0..100).map(block).collect();
            json!({
                "metadata": {"name": format!("p{number}")},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": blocks}], "egress": [{"to": blocks}]}
            })
        })
        .collect();
    let networking = "/apis/networking.k8s.io/v1/namespaces/tenant-0/networkpolicies";
    scene.api.create_all(networking, &policies);
    let services: Vec<Value> = (0..40)
        .map(|number| {
            let port = |port: usize| json!({"name": format!("p{port}"), "port": 1000 + port});
            json!({
                "metadata": {"name": format!("s{number}")},
                "spec": {"selector": {"app": "a"}, "ports": (0..200).map(port).collect::<Vec<_>>()}
            })
        })
        .collect();
    let path = scene.tenants[0].path("services");
    scene.api.create_all(&path, &services);
    scene.wait_until_stable();
    scene.assert_withstood("large policies and Services");
}

/// Events about ever new objects, with messages of the maximum length.
// findings-2 S44
#[test]
fn events_without_end() {
    let mut scene = Scene::with_tenants(1);
    let events: Vec<Value> = (0..20_000)
        .map(|number| {
            json!({
                "metadata": {"name": format!("e{number}")},
                "involvedObject": {"kind": "Pod", "namespace": "tenant-0", "name": format!("p{number}")},
                "reason": "Attack", "message": "x".repeat(1000), "type": "Warning"
            })
        })
        .collect();
    let path = scene.tenants[0].path("events");
    scene.api.create_all(&path, &events);
    scene.wait_until_stable();
    scene.assert_withstood("events without end");
}
