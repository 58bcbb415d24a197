//! NetworkPolicies by the standard client, on real pods (docs/network-policy.md).

use end_to_end::program::ok;
use end_to_end::registry::curl;
use end_to_end::{Instance, Kubectl, Network, wait_for, wait_for_text, with_images};

/// A web server with a probe, and clients; `other` is for another namespace.
const PODS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: http
    image: nginx:1
    ports: [{name: http, containerPort: 80}]
    readinessProbe: {httpGet: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: http, image: nginx:1}]}
";

const OTHER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: client}}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: http, image: nginx:1}]}
";

/// A pod whose first action is a connection.
const FRESH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: fresh, labels: {app: fresh}}
spec:
  restartPolicy: Never
  containers:
  - name: connect
    image: mainstay/debug
    command: [sh, -c, 'if curl -s -m 3 -o /dev/null "http://WEB/" 2>/dev/null; then echo reached; else echo denied; fi']
"#;

/// Replaces the policy `p` by a policy with this specification.
fn policy(kubectl: &Kubectl, spec: &str) {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n";
    let output = kubectl.apply(&format!("{head}spec: {spec}\n"));
    assert!(!output.contains("Warning"), "{output}");
}

fn get_page(from: &Network, address: &str) -> Result<String, String> {
    let url = format!("http://{address}/");
    from.run(|| curl(&["--fail", "--max-time", "2", &url]))
}

#[track_caller]
fn reaches(from: &Network, address: &str) {
    wait_for(&format!("a page of {address}"), 60, || {
        get_page(from, address)
    });
}

#[track_caller]
fn is_denied(from: &Network, address: &str) {
    let what = format!("silence of {address}");
    wait_for(&what, 60, || match get_page(from, address) {
        Err(_) => Ok(()),
        Ok(page) => Err(page),
    });
}

/// Checks that `mainstay why pod/NAME -n NAMESPACE --to svc/web:8080` prints this line (docs/network-policy.md, "Ask
/// which policy decides").
#[track_caller]
fn why_says(instance: &Instance, namespace: &str, pod: &str, line: &str) {
    let data = instance.data().display().to_string();
    let pod = format!("pod/{pod}");
    let output = ok(&[
        "why",
        &pod,
        "-n",
        namespace,
        "--to",
        "svc/web:8080",
        "--to-namespace",
        "default",
        "--data-dir",
        &data,
    ]);
    assert!(output.contains(line), "no {line:?}: {output}");
}

#[test]
fn connections_pass_as_policies_allow() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(PODS);
    let lab = kubectl.in_new_namespace("lab");
    lab.apply(OTHER);
    kubectl.wait_pods_ready(&["pod/web", "pod/client"]);
    lab.wait_pods_ready(&["pod/other"]);
    let client = Network::of_pod(&kubectl, "client", "nginx");
    let other = Network::of_pod(&lab, "other", "nginx");
    let machine = Network::of_machine();
    let (web, service) = (
        kubectl.pod_ip("web"),
        format!("{}:8080", cluster_ip(&kubectl)),
    );
    for from in [&client, &other] {
        reaches(from, &web);
        reaches(from, &service);
    }
    why_says(&instance, "default", "client", "the connection passes");

    // Only the node reaches the pod, so probes pass.
    policy(&kubectl, "{podSelector: {matchLabels: {app: web}}}");
    is_denied(&client, &web);
    for from in [&client, &other] {
        is_denied(from, &web);
        is_denied(from, &service);
    }
    reaches(&machine, &web);
    reaches(&machine, &service);
    let dropped = "ingress of pod/web: dropped, networkpolicy/p selects it";
    why_says(&instance, "default", "client", dropped);
    let row = kubectl.ok(&["get", "netpol", "p", "--no-headers"]);
    assert!(row.contains("app=web"), "{row}");

    // By label, by namespace, by the name of a port, by address.
    let from = |peer: &str| {
        format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{peer}]}}]}}")
    };
    policy(
        &kubectl,
        &from("{podSelector: {matchLabels: {app: client}}}"),
    );
    reaches(&client, &service);
    is_denied(&other, &service);
    let allowed = "ingress of pod/web: allowed by networkpolicy/p";
    why_says(&instance, "default", "client", allowed);
    let dropped = "ingress of pod/web in namespace default: dropped, networkpolicy/p";
    why_says(&instance, "lab", "other", dropped);
    let of_lab = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lab}}}";
    policy(&kubectl, &from(of_lab));
    reaches(&other, &service);
    is_denied(&client, &service);
    why_says(&instance, "lab", "other", "the connection passes");
    let ports = |ports: &str| {
        format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{ports: [{ports}]}}]}}")
    };
    policy(&kubectl, &ports("{port: http}"));
    reaches(&client, &service);
    policy(&kubectl, &ports("{port: 8080}"));
    is_denied(&client, &service);
    why_says(&instance, "default", "client", "pod/web, port 80: dropped");
    let except = format!("{}/32", kubectl.pod_ip("client"));
    let block = format!("{{ipBlock: {{cidr: 0.0.0.0/0, except: [{except}]}}}}");
    policy(&kubectl, &from(&block));
    reaches(&other, &service);
    is_denied(&client, &service);

    follows_labels(&kubectl, &client, &web, &from);
    limits_what_pods_reach(&kubectl, &web);
    let dropped = "egress of pod/client: dropped, networkpolicy/p";
    why_says(&instance, "default", "client", dropped);

    // Without the policy all connections pass.
    kubectl.ok(&["delete", "netpol", "p"]);
    reaches(&client, &service);
    reaches(&other, &service);
    let restarts = "{.status.containerStatuses[0].restartCount}";
    let restarts = kubectl.ok(&["get", "pod", "web", "-o", &format!("jsonpath={restarts}")]);
    assert_eq!(restarts, "0");
}

fn cluster_ip(kubectl: &Kubectl) -> String {
    kubectl.ok(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
}

/// A changed label of the client changes its allowed connections, and so does a changed label of the server.
fn follows_labels(kubectl: &Kubectl, client: &Network, web: &str, from: &dyn Fn(&str) -> String) {
    policy(
        kubectl,
        &from("{podSelector: {matchLabels: {role: friend}}}"),
    );
    is_denied(client, web);
    kubectl.ok(&["label", "pod", "client", "role=friend"]);
    reaches(client, web);
    kubectl.ok(&["label", "pod", "client", "role-"]);
    is_denied(client, web);
    kubectl.ok(&["label", "pod", "web", "app=open", "--overwrite"]);
    reaches(client, web);
    kubectl.ok(&["label", "pod", "web", "app=web", "--overwrite"]);
    is_denied(client, web);
}

/// Egress, and a pod that is restricted from its start.
fn limits_what_pods_reach(kubectl: &Kubectl, web: &str) {
    let client = Network::of_pod(kubectl, "client", "nginx");
    let egress = |to: &str| {
        let pods = "{matchExpressions: [{key: app, operator: In, values: [client, fresh]}]}";
        format!("{{podSelector: {pods}, policyTypes: [Egress], egress: [{to}]}}")
    };
    policy(
        kubectl,
        &egress("{to: [{podSelector: {matchLabels: {app: web}}}]}"),
    );
    reaches(&client, web);
    policy(kubectl, &egress(""));
    is_denied(&client, web);
    // The policy is enforced from the first packet of a new pod.
    kubectl.apply(&FRESH.replace("WEB", web));
    kubectl.wait_phase("fresh", "Succeeded");
    let logged = wait_for_text("e", 60, || kubectl.ok(&["logs", "fresh"]));
    assert_eq!(logged.lines().last(), Some("denied"), "{logged}");
}
