//! `mainstay why` on a running server with real containers: a waiting object is traced to its cause.
//!
//! The table of stuck situations is in the modules; `docs/why.md` lists it.

mod capacity;
mod cluster;
mod configuration;
mod containers;
mod endings;
mod images;
mod nodes;
mod placement;
mod refusals;
mod services;
mod sets;
mod situation;
mod storage;
mod web;
mod workloads;

use std::path::Path;
use std::process::{Command, Output};

use end_to_end::applications::{busybox, nginx};
use end_to_end::disk::Disk;
use end_to_end::{Instance, Registry, binary, example, text, wait_for, with_images};
use serde_json::Value;

use situation::{Situation, resolve, resolve_with};

/// A set whose pods are not ready before a user creates a file in them.
const SETS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nginx}
data:
  nginx.conf: |
    user root;
    daemon off;
    pid /run/nginx.pid;
    error_log stderr;
    events {}
    http {
      access_log off;
      server {
        listen 80;
        location = /ready { if (!-f /tmp/ready) { return 503; } return 200; }
      }
    }
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: nginx:1
        command: [/usr/sbin/nginx, -c, /conf/nginx.conf]
        readinessProbe: {httpGet: {path: /ready, port: 80}, periodSeconds: 1, failureThreshold: 1}
        volumeMounts: [{name: conf, mountPath: /conf}]
      volumes: [{name: conf, configMap: {name: nginx}}]
";

/// A set whose image does not exist, and a set whose claim gets no volume.
const STUCK: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pull}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: pull}}
  template:
    metadata: {labels: {app: pull}}
    spec: {containers: [{name: main, image: 'nowhere:1'}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: disk}
spec:
  serviceName: web
  replicas: 1
  selector: {matchLabels: {app: disk}}
  template:
    metadata: {labels: {app: disk}}
    spec:
      containers: [{name: main, image: 'busybox:1', volumeMounts: [{name: www, mountPath: /www}]}]
  volumeClaimTemplates:
  - metadata: {name: www}
    spec:
      storageClassName: ''
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 16Mi}}
";

/// Runs `mainstay why`, without the settings of the user who runs the test.
fn run(arguments: &[&str], data: &Path) -> Output {
    Command::new(binary())
        .arg("why")
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env_remove("KUBECONFIG")
        .output()
        .expect("run mainstay")
}

#[track_caller]
fn why(instance: &Instance, arguments: &[&str]) -> String {
    let output = run(arguments, &instance.data());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn wait_for_explanation(instance: &Instance, arguments: &[&str], parts: &[&str]) -> String {
    wait_for(&format!("{parts:?}"), 90, || {
        let response = why(instance, arguments);
        if parts.iter().all(|part| response.contains(part)) {
            Ok(response)
        } else {
            Err(response)
        }
    })
}

/// All situations, as `docs/why.md` lists them.
const TABLE: &[&[Situation]] = &[
    images::IMAGES,
    configuration::CONFIGURATION,
    containers::CONTAINERS,
    placement::PLACEMENT,
    endings::ENDINGS,
    refusals::REFUSALS,
    sets::SETS,
    cluster::CLUSTER,
    services::SERVICES,
    storage::STORAGE,
    workloads::WORKLOADS,
    nodes::LOST,
    capacity::DISK,
    capacity::DRAIN,
    capacity::PRESSURE,
    capacity::STORE,
];

/// findings U34
#[test]
fn workloads_whose_pods_are_not_made() {
    let (_registry, instance) = with_images();
    resolve(&instance, workloads::WORKLOADS);
}

/// findings U34
#[test]
fn services_without_endpoints() {
    let (_registry, instance) = with_images();
    resolve(&instance, services::SERVICES);
}

/// findings U34
#[test]
fn volumes_claims_snapshots_and_parts_of_the_api() {
    let (_registry, instance) = with_images();
    resolve(&instance, storage::STORAGE);
    resolve(&instance, cluster::CLUSTER);
}

/// findings U34, R13: a separate disk, so that the files of this test fill no other disk.
#[test]
fn a_node_without_room() {
    let mut disk = None;
    let arguments = [
        "--store-quota=24Mi",
        "--eviction-hard=nodefs.available<300Mi",
        "--eviction-pressure-transition-period=1s",
    ];
    let instance = Instance::start_prepared(&arguments, |data| {
        disk = Some(Disk::mount(data, 4096));
    });
    // The server is stopped before its disk is removed.
    let started = (instance, disk);
    let kubectl = started.0.kubectl();
    let node = kubectl.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let words = [("NODE", node.clone())];
    resolve_with(&started.0, &words, capacity::DISK);
    resolve_with(&started.0, &words, capacity::DRAIN);
    kubectl.ok(&["drain", &node, "--pod-selector=app=web", "--timeout=300s"]);
    kubectl.ok(&["uncordon", &node]);
    resolve_with(&started.0, &words, capacity::PRESSURE);
    resolve_with(&started.0, &words, capacity::STORE);
}

/// findings U34
#[test]
fn lost_nodes_and_what_runs_there() {
    let (_registry, instance) = with_images();
    resolve(&instance, nodes::LOST);
}

/// findings U35: all waiting objects, one block for each root cause; and no block once the cause is resolved.
#[test]
fn all_that_waits_is_listed() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    wait_for_explanation(&instance, &[], &["nothing is waiting"]);
    kubectl.apply(STUCK);
    let node = kubectl.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    kubectl.ok(&["cordon", &node]);
    let response = wait_for_explanation(
        &instance,
        &[],
        &[
            &format!("node/{node} is waiting (Ready, but not for everything)"),
            "is cordoned: it takes no new pods",
            "sts/pull in namespace default is waiting",
            "sts/disk in namespace default is waiting",
        ],
    );
    assert!(!response.contains("\npod/"), "{response}");
    let of_node = why(&instance, &[&format!("node/{node}")]);
    assert!(
        of_node.contains(&format!("kubectl uncordon {node}")),
        "{of_node}"
    );
    let other = why(&instance, &["-n", "kube-system"]);
    assert_eq!(other, "nothing is waiting\n");
    kubectl.ok(&["uncordon", &node]);
    kubectl.ok(&["delete", "sts", "pull", "disk"]);
    kubectl.ok(&["delete", "pvc", "--all"]);
    wait_for_explanation(&instance, &[], &["nothing is waiting"]);
    let json: Value = serde_json::from_str(&why(&instance, &["-o", "json"])).expect("JSON");
    assert_eq!(text(&json, "/state"), "Fine");
}

/// findings U3
#[test]
fn images_that_cannot_be_had() {
    let (_registry, instance) = with_images();
    let closed = Registry::start_with_login();
    closed.push("library/busybox", "1", &busybox());
    let archive = instance.data().join("shop.tar");
    nginx("9").write_archive(&archive, "localhost/shop:latest");
    let words = [("REGISTRY", closed.address())];
    resolve_with(&instance, &words, images::IMAGES);
}

/// findings U3, C13
#[test]
fn containers_that_cannot_be_made() {
    let (_registry, instance) = with_images();
    resolve(&instance, configuration::CONFIGURATION);
}

/// findings U3
#[test]
fn containers_that_end_or_are_not_ready() {
    let (_registry, instance) = with_images();
    resolve(&instance, containers::CONTAINERS);
}

/// findings U3
#[test]
fn pods_that_no_node_takes() {
    let (_registry, instance) = with_images();
    resolve(&instance, placement::PLACEMENT);
}

/// findings U3
#[test]
fn pods_that_end() {
    let (_registry, instance) = with_images();
    resolve(&instance, endings::ENDINGS);
}

/// findings U3
#[test]
fn pods_that_may_not_be_made() {
    let (_registry, instance) = with_images();
    resolve(&instance, refusals::REFUSALS);
}

/// findings U3
#[test]
fn sets_that_are_held_up() {
    let (_registry, instance) = with_images();
    resolve(&instance, sets::SETS);
}

/// findings U34: the page has a row for each situation, and no other rows.
#[test]
fn the_page_lists_the_table() {
    let page = example("../docs/why.md");
    let page = std::fs::read_to_string(page).expect("read the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut listed: Vec<&str> = rows
        .filter_map(|row| Some(row.split_once("` |")?.0))
        .collect();
    let table = TABLE.iter().copied().flatten();
    let mut tested: Vec<&str> = table.map(|situation| situation.name).collect();
    listed.sort_unstable();
    tested.sort_unstable();
    assert_eq!(listed, tested);
}

#[test]
fn a_set_is_led_back_to_the_probe_that_fails() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(SETS);
    // web-0 runs, and its probe gets 503: web-1 has to wait.
    let response = wait_for_explanation(
        &instance,
        &["sts/web"],
        &["Readiness probe failed: HTTP probe failed with statuscode: 503"],
    );
    let lines: Vec<&str> = response.lines().collect();
    assert_eq!(lines[0], "sts/web is waiting (0 of 2 pods are available)");
    assert_eq!(lines[1], "  web-1 waits for web-0 to be Ready");
    assert!(
        lines[2].starts_with(
            "    ← pod/web-0: readiness probe of container main does not pass \
             (GET /ready on port 80)"
        ),
        "{response}"
    );
    assert!(
        response.contains("its output: kubectl -n default logs web-0 -c main"),
        "{response}"
    );
    // A pod that does not exist yet has an equal cause.
    let missing = why(&instance, &["pod", "web-1"]);
    assert!(
        missing.contains("web-1 waits for web-0 to be Ready"),
        "{missing}"
    );
    for pod in ["web-0", "web-1"] {
        wait_for("the pod to run", 60, || {
            kubectl
                .run(&["exec", pod, "--", "touch", "/tmp/ready"])
                .success()
        });
    }
    kubectl.wait_ready("web", 2);
    let fine = wait_for_explanation(&instance, &["sts/web"], &["nothing is waiting"]);
    assert_eq!(
        fine,
        "sts/web: nothing is waiting (2 of 2 pods are available)\n"
    );
    let json: Value =
        serde_json::from_str(&why(&instance, &["sts/web", "-o", "json"])).expect("JSON");
    assert_eq!(text(&json, "/state"), "Fine");
}

#[test]
fn images_and_claims_that_cannot_be_had_are_named() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(STUCK);
    let response = wait_for_explanation(
        &instance,
        &["statefulset", "pull"],
        &[
            "pull-1 waits for pull-0 to be Ready",
            "image \"nowhere:1\" of container main cannot be pulled: ",
        ],
    );
    assert!(
        response.contains("kubectl -n default set image sts/pull main=IMAGE"),
        "{response}"
    );
    let parts = ["no persistent volumes available for this claim and no storage class is set"];
    wait_for_explanation(&instance, &["sts/disk"], &parts);
    let response = why(&instance, &["pvc/www-disk-0", "-o", "json"]);
    let json: Value = serde_json::from_str(&response).expect("JSON");
    assert_eq!(text(&json, "/state"), "Waiting");
    assert_eq!(text(&json, "/chains/0/links/0/object/name"), "www-disk-0");
    assert!(
        text(&json, "/chains/0/remedy").starts_with("create a PersistentVolume without a class"),
        "{response}"
    );
    // A missing object, a word that is no kind, and a server that does not run.
    let missing = run(&["sts/nothing"], &instance.data());
    assert_eq!(missing.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&missing.stderr);
    assert!(errors.contains("there are disk, pull"), "{errors}");
    let unknown = run(&["sekret/web"], &instance.data());
    assert_eq!(unknown.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&unknown.stderr);
    assert!(
        errors.contains("cannot be asked about; allowed"),
        "{errors}"
    );
}

#[test]
fn a_server_that_does_not_answer_is_told_as_such() {
    let mut instance = Instance::start(&[]);
    instance.interrupt();
    let output = run(&["sts/web"], &instance.data());
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("is the server running? `mainstay up` starts one"),
        "{errors}"
    );
    let nowhere = run(&["sts/web"], Path::new("/nonexistent"));
    assert_eq!(nowhere.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&nowhere.stderr);
    assert!(errors.contains("read /nonexistent/kubeconfig"), "{errors}");
}
