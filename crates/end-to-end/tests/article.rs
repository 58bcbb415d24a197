//! The first article, line by line: nginx from Debian's packages, pulled from a real registry;
//! created in order, found by DNS, deleted and back, with its data (seeds.md C1–C20, M1–M6).

use std::fs;

use end_to_end::image::{busybox, nginx};
use end_to_end::{Instance, Kubectl, Registry, text, wait_for};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: nginx
  labels:
    app: nginx
spec:
  ports:
  - port: 80
    name: web
  clusterIP: None
  selector:
    app: nginx
";

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: web
spec:
  serviceName: \"nginx\"
  replicas: 2
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:1.9.1
        ports:
        - containerPort: 80
          name: web
        volumeMounts:
        - name: www
          mountPath: /usr/share/nginx/html
  volumeClaimTemplates:
  - metadata:
      name: www
    spec:
      accessModes:
      - ReadWriteOnce
      resources:
        requests:
          storage: 1Gi
";

const POD_WITH_CLAIM: &str = "
kind: PersistentVolumeClaim
apiVersion: v1
metadata:
  name: pv-claim
spec:
  accessModes:
  - ReadWriteOnce
  resources:
    requests:
      storage: 1Gi
---
apiVersion: v1
kind: Pod
metadata:
  name: pv-pod
spec:
  containers:
    - name: pv-container
      image: nginx:1.9.1
      ports:
        - containerPort: 80
          name: \"http-server\"
      volumeMounts:
        - mountPath: \"/usr/share/nginx/html\"
          name: pv-storage
  volumes:
    - name: pv-storage
      persistentVolumeClaim:
        claimName: pv-claim
";

#[test]
fn the_first_article_holds() {
    let registry = Registry::start();
    registry.push("library/nginx", "1.9.1", &nginx("1.9.1"));
    registry.push("library/busybox", "1.28.4", &busybox());
    let instance = Instance::start_prepared(&[], |data| {
        fs::write(data.join("registries.yaml"), registry.registries_yaml()).expect("write");
    });
    let kubectl = instance.kubectl();

    created_in_order(&kubectl);
    hostnames_are_the_pods_names(&kubectl);
    found_by_dns(&kubectl);
    claims_keep_data(&kubectl);
    scaled_and_patched(&kubectl);
    a_pod_with_a_claim(&kubectl);
}

/// C1, C3, C4, C6, C20; statefulset.md T1.
fn created_in_order(kubectl: &Kubectl) {
    assert_eq!(
        kubectl.ok_with_input(&["create", "-f", "-"], SERVICE),
        "service/nginx created\n"
    );
    let service = kubectl.ok(&["get", "service", "nginx"]);
    let row: Vec<&str> = service
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .collect();
    assert_eq!(
        &row[..5],
        ["nginx", "ClusterIP", "None", "<none>", "80/TCP"]
    );
    let created = kubectl.ok_with_input(&["create", "-f", "-"], SET);
    assert_eq!(created, "statefulset.apps/web created\n");
    let mut highest_seen = Vec::new();
    wait_for("two ready pods", 90, || {
        let pods = kubectl.json(&["get", "pods", "-l", "app=nginx"]);
        let ready: Vec<(String, bool)> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| {
                let conditions = pod["status"]["conditions"].as_array().cloned();
                let ready = conditions
                    .iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True");
                (text(pod, "/metadata/name").to_owned(), ready)
            })
            .collect();
        highest_seen.push(ready.clone());
        if ready.len() == 2 && ready.iter().all(|(_, ready)| *ready) {
            Ok(())
        } else {
            Err(ready)
        }
    });
    for seen in &highest_seen {
        let zero_is_ready = seen.iter().any(|(name, ready)| name == "web-0" && *ready);
        let one_is_there = seen.iter().any(|(name, _)| name == "web-1");
        assert!(
            !one_is_there || zero_is_ready,
            "web-1 came before web-0 was ready: {seen:?}"
        );
    }
    let sets = kubectl.ok(&["get", "statefulset", "web"]);
    assert!(
        sets.starts_with("NAME   READY   AGE\nweb    2/2 "),
        "{sets}"
    );
    let described = kubectl.ok(&["describe", "statefulset", "web"]);
    for message in [
        "create Claim www-web-0 Pod web-0 in StatefulSet web success",
        "create Pod web-0 in StatefulSet web successful",
        "create Pod web-1 in StatefulSet web successful",
    ] {
        assert!(
            described.contains(message),
            "{message:?} is not in:\n{described}"
        );
    }
    let claims = kubectl.ok(&["get", "pvc"]);
    assert!(
        claims.starts_with("NAME        STATUS   VOLUME"),
        "{claims}"
    );
    assert_eq!(claims.matches("Bound").count(), 2, "{claims}");
    assert_eq!(claims.matches("1Gi").count(), 2, "{claims}");
}

/// C7.
fn hostnames_are_the_pods_names(kubectl: &Kubectl) {
    for pod in ["web-0", "web-1"] {
        let name = kubectl.ok(&["exec", pod, "--", "sh", "-c", "hostname"]);
        assert_eq!(name, format!("{pod}\n"));
    }
}

/// C9, C10, T37–T39: names from a busybox pod, on a terminal, that is gone afterwards.
fn found_by_dns(kubectl: &Kubectl) {
    let run = [
        "run",
        "-i",
        "--tty",
        "--image",
        "busybox:1.28.4",
        "dns-test",
        "--restart=Never",
    ];
    let shown = kubectl.on_terminal(
        &[&run[..], &["--rm", "/bin/sh"]].concat(),
        "nslookup web-0.nginx.default.svc.cluster.local; nslookup web-1.nginx.default.svc.cluster.local\n\
         echo resolv: $(cat /etc/resolv.conf)\nexit\n",
    );
    assert_eq!(shown.code, 0, "{shown:#?}");
    for pod in ["web-0", "web-1"] {
        let address = kubectl.pod_ip(pod);
        assert!(
            shown.stdout.contains(&address),
            "{pod} is {address}: {shown:#?}"
        );
    }
    assert!(
        shown
            .stdout
            .contains("default.svc.cluster.local svc.cluster.local"),
        "{shown:#?}"
    );
    assert!(
        shown.stdout.contains("pod \"dns-test\" deleted"),
        "{shown:#?}"
    );
    assert!(
        kubectl
            .fails(&["get", "pod", "dns-test"])
            .contains("not found")
    );
}

/// C8, C11: each pod's page is its own and survives the pod.
fn claims_keep_data(kubectl: &Kubectl) {
    let write = "echo hello $(hostname) > /usr/share/nginx/html/index.html";
    for pod in ["web-0", "web-1"] {
        kubectl.ok(&["exec", pod, "--", "sh", "-c", write]);
    }
    pages_are_their_own(kubectl);
    let uid = text(&kubectl.pod("web-0"), "/metadata/uid").to_owned();
    let deleted = kubectl.ok(&["delete", "pod", "-l", "app=nginx"]);
    assert_eq!(deleted.lines().count(), 2, "{deleted}");
    kubectl.wait_ready("web", 2);
    assert_ne!(text(&kubectl.pod("web-0"), "/metadata/uid"), uid);
    pages_are_their_own(kubectl);
    hostnames_are_the_pods_names(kubectl);
}

fn pages_are_their_own(kubectl: &Kubectl) {
    for pod in ["web-0", "web-1"] {
        let page = wait_for("nginx to answer", 20, || {
            let output = kubectl.run(&["exec", "-i", pod, "--", "curl", "-s", "localhost"]);
            if output.code == 0 {
                Ok(output.stdout)
            } else {
                Err(output)
            }
        });
        assert_eq!(page, format!("hello {pod}\n"));
    }
}

/// C12, C13, C17, T5: up in order, down in reverse; claims stay.
fn scaled_and_patched(kubectl: &Kubectl) {
    assert_eq!(
        kubectl.ok(&["scale", "sts", "web", "--replicas=4"]),
        "statefulset.apps/web scaled\n"
    );
    kubectl.wait_ready("web", 4);
    let patch = r#"{"spec":{"replicas":2}}"#;
    assert_eq!(
        kubectl.ok(&["patch", "sts", "web", "-p", patch]),
        "statefulset.apps/web patched\n"
    );
    kubectl.wait_ready("web", 2);
    let claims = kubectl.ok(&["get", "pvc", "-o", "name"]);
    assert_eq!(
        claims.lines().count(),
        4,
        "claims outlive the pods: {claims}"
    );
    let rollout = kubectl.ok(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert!(
        rollout.contains("partitioned roll out complete: 2 new pods"),
        "{rollout}"
    );
}

/// M5, M6.
fn a_pod_with_a_claim(kubectl: &Kubectl) {
    kubectl.apply(POD_WITH_CLAIM);
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready",
        "pod/pv-pod",
        "--timeout=60s",
    ]);
    assert_eq!(
        kubectl.json(&["get", "pvc", "pv-claim"])["status"]["phase"],
        "Bound"
    );
}
