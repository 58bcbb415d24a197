//! Services for clients outside, on real containers: load balancers with the node's own addresses, a separate port for
//! each ordinal, clients that stay with their pod (statefulset.md §10).

use end_to_end::registry::curl;
use end_to_end::{Kubectl, wait_for, wait_for_text, with_images};

/// A set whose pods respond with their names.
const NAMES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: names}
spec:
  clusterIP: None
  selector: {app: names}
  ports: [{name: http, port: 80}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: names
  annotations: {mainstay.dev/ordinal-node-port: "31410"}
spec:
  serviceName: names
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: names}}
  template:
    metadata: {labels: {app: names}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: http
        image: nginx:1
        ports: [{containerPort: 80}]
        lifecycle:
          postStart:
            exec: {command: [sh, -c, 'hostname > /usr/share/nginx/html/index.html']}
"#;

const FRONT: &str = r"
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  type: LoadBalancer
  selector: {app: names}
  sessionAffinity: ClientIP
  ports: [{port: 18480, targetPort: 80}]
";

fn page(url: &str) -> Result<String, String> {
    let page = curl(&["--fail", "--max-time", "60", url])?;
    Ok(page.trim().to_owned())
}

#[track_caller]
fn wait_for_page(url: &str, expected: &str) {
    wait_for(&format!("{expected} at {url}"), 30, || match page(url) {
        Ok(page) if page == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn each_ordinal_and_a_load_balancer_are_reached_from_outside() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(NAMES);
    kubectl.ok(&["rollout", "status", "statefulset/names", "--timeout=300s"]);
    let node = kubectl.node_address();
    for ordinal in 0..2 {
        wait_for_page(
            &format!("http://{node}:{}/", 31410 + ordinal),
            &format!("names-{ordinal}"),
        );
    }

    a_service_of_a_further_range(&kubectl);

    // The type LoadBalancer: no node port is needed, the Service has its own port.
    kubectl.apply(FRONT);
    let printed = wait_for_text(&node, 30, || {
        kubectl.ok(&["get", "service", "front", "--no-headers"])
    });
    assert!(printed.contains("LoadBalancer"), "{printed}");
    let front = format!("http://{node}:18480/");
    let first = wait_for("the front to respond", 30, || page(&front));
    // A client stays with its pod as long as the pod exists.
    for _ in 0..6 {
        assert_eq!(page(&front).as_ref(), Ok(&first));
    }
    wait_for_text("EnsuredLoadBalancer", 30, || {
        kubectl.ok(&["describe", "service", "front"])
    });

    health_checks_of_load_balancers(&kubectl, &node);

    // A second load balancer cannot get the port, and its events name the owner.
    kubectl.ok(&[
        "create",
        "service",
        "loadbalancer",
        "late",
        "--tcp=18480:80",
    ]);
    wait_for_text("is taken by Service default/front", 30, || {
        kubectl.ok(&["describe", "service", "late"])
    });
    let late = kubectl.ok(&["get", "service", "late", "--no-headers"]);
    assert!(late.contains("<pending>"), "{late}");

    // After the scale-down, the ordinal's port is closed.
    kubectl.ok(&["scale", "statefulset", "names", "--replicas=1"]);
    wait_for("the port of names-1 to close", 30, || {
        match page(&format!("http://{node}:31411/")) {
            Err(_) => Ok(()),
            Ok(page) => Err(page),
        }
    });
    wait_for_page(&format!("http://{node}:31410/"), "names-0");
}

/// With `externalTrafficPolicy: Local` a port of the node reports whether it has pods.
fn health_checks_of_load_balancers(kubectl: &Kubectl, node: &str) {
    let patch = |policy: &str| {
        let spec = format!(r#"{{"spec": {{"externalTrafficPolicy": "{policy}"}}}}"#);
        kubectl.ok(&["patch", "service", "front", "-p", &spec]);
    };
    patch("Local");
    let described = kubectl.ok(&["describe", "service", "front"]);
    let line = described
        .lines()
        .find(|line| line.starts_with("HealthCheck NodePort:"));
    let port = line.and_then(|line| line.split_whitespace().last());
    let port = port.unwrap_or_else(|| panic!("no port in {described}"));
    let check = format!("http://{node}:{port}/healthz");
    wait_for_text("\"localEndpoints\":2", 30, || {
        page(&check).unwrap_or_else(|error| error)
    });
    patch("Cluster");
    wait_for("the port to close", 30, || match page(&check) {
        Err(_) => Ok(()),
        Ok(page) => Err(page),
    });
}

/// KEP-1880: a Service with an address of a ServiceCIDR is reached from pods and from the node, and an address without a
/// Service refuses; the ServiceCIDR goes after the Service.
#[track_caller]
fn a_service_of_a_further_range(kubectl: &Kubectl) {
    let more = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more}
spec: {cidrs: [10.201.0.0/24]}
---
apiVersion: v1
kind: Service
metadata: {name: further}
spec:
  clusterIP: 10.201.0.7
  selector: {app: names}
  ports: [{port: 80}]
";
    kubectl.apply(more);
    let url = "http://10.201.0.7/";
    let fetch = ["exec", "names-0", "--", "curl", "-sS", "-m", "60", url];
    wait_for_text("names-", 30, || kubectl.run(&fetch).stdout);
    wait_for_text("names-", 30, || page(url).unwrap_or_else(|error| error));
    // The code of a refused connection; that of a timeout is 28.
    wait_for_text("curl: (7)", 30, || {
        page("http://10.201.0.8/").unwrap_or_else(|error| error)
    });
    kubectl.ok(&["delete", "servicecidr", "more", "--wait=false"]);
    wait_for_text("Terminating", 30, || {
        kubectl.ok(&["get", "servicecidr", "more", "-o", "yaml"])
    });
    kubectl.ok(&["delete", "service", "further"]);
    kubectl.ok(&["wait", "--for=delete", "servicecidr/more", "--timeout=120s"]);
}
