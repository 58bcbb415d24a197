//! The pages of `docs` and the README, pasted unchanged by a user who has only the pages (findings U7, U8, U11).

use std::fs;

use end_to_end::applications::redis;
use end_to_end::{Instance, Pasted, Registry, example, wait_for_text};
use serde_json::json;

/// findings U11: the metrics, and an account that may read only them.
#[test]
fn the_monitoring_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    let pasted = Pasted::for_instance(&instance);
    let output = pasted.page("docs/monitoring.md");
    for text in [
        "[+]",
        "mainstay_store_bytes",
        "node_cpu_usage_seconds_total",
        "Ready",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    let kubectl = instance.kubectl();
    let account = "--as=system:serviceaccount:monitoring:prometheus";
    for refused in [["get", "secrets"], ["create", "pods"]] {
        let response = kubectl.run(&[&["auth", "can-i"], &refused[..], &[account, "-A"]].concat());
        assert_eq!(response.stdout, "no\n", "{response:?}");
    }
    // Every metric in the alerts is served here, or is documented as a metric of another program.
    let page = fs::read_to_string(example("../docs/monitoring.md")).expect("the page");
    let figures = kubectl.ok(&["get", "--raw", "/metrics"]);
    for name in [
        "mainstay_store_full",
        "apiserver_request_total",
        "workqueue_depth",
    ] {
        assert!(page.contains(name), "{name}");
        assert!(figures.contains(name), "{name}");
    }
}

/// findings U11: a user with a certificate, a program with a token, each with rights in one namespace.
#[test]
fn the_access_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    // The server has no systemd unit here. The commands after the restart are typed in the directory of the files.
    let restart = ("systemctl restart mainstay", "cd - > /dev/null");
    let pasted = Pasted::for_instance(&instance).with(restart.0, restart.1);
    let output = pasted.page("docs/access.md");
    for text in [
        "jane",
        "shop-team",
        "\"PodList\"",
        "system:masters",
        "notAfter=",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    assert!(output.stdout.contains("yes\n"), "{output:#?}");
    assert!(output.stdout.contains("no\n"), "{output:#?}");
    let jane = pasted.directory().join("jane.kubeconfig");
    let kubectl = end_to_end::Kubectl::new(&jane);
    let refused = kubectl.fails(&["get", "pods", "-n", "kube-system"]);
    assert!(refused.contains("User \"jane\" cannot list"), "{refused}");
}

/// findings U11: policies of a namespace, used unchanged.
#[test]
fn the_network_policy_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    let pasted = Pasted::for_instance(&instance);
    let output = pasted.page("docs/network-policy.md");
    for text in [
        "default-deny",
        "networkpolicy.networking.k8s.io/web created",
        "egress of pod/db: dropped, networkpolicy/default-deny selects it",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
}

/// rollouts.md R27, S9, R11 to R13, R2, R6, R7, R22, R26: a guarded set, an update that is rolled back, a leader that goes last,
/// steps, and a hook before a pod goes, used unchanged.
#[test]
fn the_rollout_policies_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    let pasted = Pasted::for_instance(&instance);
    // A warning of kubectl itself.
    let pasted = pasted.with_warning("previously managed with 'kubectl apply'");
    let output = pasted.page("docs/rollout-policies.md");
    for text in [
        "statefulsetpolicy.apps.mainstay.dev/db condition met",
        "and 3 are; 1 of these has not recovered",
        "pod/db-0: mainstay.dev/Recovered is not True: CheckFailed",
        "partitioned roll out complete: 3 new pods have been updated",
        "held\n",
        "statefulset.apps/db condition met",
        "the guard of StatefulSetPolicy db holds pod db-2: 2 of 2 pods must stay healthy, and 1 are",
        "statefulset.apps/voter created",
        "is rejected, and the pods return to the revision before: pod db-2: container db has restarted 2",
        "apps.mainstay.dev/rejected-\n",
        "1     db-1  restart",
        "2     db-0  restart",
        "3     db-2  restart",
        "pauses after step 1 of 2, until it is approved",
        "db-2 waits: hook hand-over runs before pod db-2 goes for ScaleDown, at most until",
        "held by its hook\n",
        "\"status\":\"Success\",\"code\":201",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    let refused =
        "violate the guard of StatefulSetPolicy db: 2 of 3 pods must stay healthy, and 2 are";
    assert!(output.stderr.contains(refused), "{output:#?}");
    let unhooked = "Cannot evict pod before its hooks of StatefulSetPolicy db are done";
    assert!(output.stderr.contains(unhooked), "{output:#?}");
    let refused = "StatefulSetPolicy voter: 2 of 3 pods of group members must stay healthy, and 2 are; \
                   StatefulSet db has 1 of 2";
    assert!(output.stderr.contains(refused), "{output:#?}");
}

/// rollouts.md R18 to R20: a rollout before it happens, used unchanged.
#[test]
fn the_plan_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    let pasted = Pasted::for_instance(&instance);
    let output = pasted.page("docs/plan.md");
    for text in [
        "StatefulSet ledger/db: 3 pods to restart, 3 claims to resize",
        "  spec.template.spec.containers[db].env[VERSION].value: \"1\" -> \"2\"",
        "1     db-2  restart  db-",
        "3     db-0  restart  db-",
        "data-db-2  resize  64Mi -> 128Mi",
        "exit status 1",
        "StatefulSet ledger/db: 3 claims to resize\nStatefulSetPolicy db is in force",
        "Then it waits: the guard of StatefulSetPolicy db holds pod db-2: 3 of 3 pods must stay healthy",
        "exit status 2",
        "statefulset.apps/db configured",
        "StatefulSet ledger/db: nothing changes",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    let refused = "the cluster is not as it was planned: the StatefulSet is version";
    assert!(output.stderr.contains(refused), "{output:#?}");
}

/// rollouts.md C1, C4, C7, C8: edits of claim templates, used unchanged.
#[test]
fn the_claim_templates_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    let pasted = Pasted::for_instance(&instance);
    let kept = "the claims of the removed template \"data\" are kept";
    let pasted = pasted
        .with_warning(kept)
        .with_warning("previously managed with 'kubectl apply'")
        .with_warning("does not enforce the size of volumes");
    let output = pasted.page("docs/claim-templates.md");
    for text in [
        "data-db-0   2Gi    2",
        "data-db-1   2Gi    2",
        "data: 2 compatible, 4Gi in total",
        "persistentvolumeclaim/data-db-1",
        "statefulset.apps/db rolled back",
        "orders\n",
        "data-db-0   100Mi\ndata-db-1   150Mi\n",
        "% of the bytes are used: the request grows to 150Mi\n",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    assert!(output.stderr.contains(kept), "{output:#?}");
}

/// findings U1, U8: images from files, without a reachable registry, and the images in the program.
#[test]
fn the_images_page_can_be_pasted() {
    let registry = Registry::start();
    registry.push("library/redis", "7", &redis());
    let instance = Instance::start(&[]);
    let here = format!(
        "--src-tls-verify=false docker://{}/library/redis:7",
        registry.address()
    );
    let pasted = Pasted::for_instance(&instance).with("docker://docker.io/library/redis:7", &here);
    let output = pasted.page("docs/images.md");
    for text in [
        "kubernetes.default.svc.cluster.local",
        "PONG",
        "docker.io/library/redis:7",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    let copied = fs::read(pasted.directory().join("copy.md")).expect("the copied file");
    assert_eq!(copied, fs::read(example("../README.md")).expect("the page"));
}

/// findings U7: the README's tour, while the example of its first command runs.
#[test]
fn the_tour_can_be_pasted() {
    let manifest = example("web.yaml");
    let instance = Instance::start(&["-f", manifest.to_str().expect("a path in UTF-8")]);
    // The reader continues in another shell when the server prints this, after it has applied the manifest.
    wait_for_text("In another shell", 60, || instance.output());
    let pasted = Pasted::for_instance(&instance);
    let output = pasted.part("README.md", "In another shell", Some("Now Ctrl-C"));
    for text in ["Hello from web-1", "data-web-4", "rolled back", "sts/web"] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    // The commands of other pages for this set.
    let output = pasted.part(
        "docs/troubleshooting.md",
        "1. Show the state",
        Some("3. Run the printed"),
    );
    assert!(output.stdout.contains("nothing is waiting"), "{output:#?}");
    pasted.page("docs/conditions.md");
    pasted.part(
        "docs/storage.md",
        "## Expand a volume",
        Some("## Snapshots"),
    );
}

/// The volume of an existing claim gets another class by a snapshot.
#[test]
fn an_existing_volume_gets_a_replica() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let container = json!({"name": "c", "image": "mainstay/debug", "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                "terminationGracePeriodSeconds": 1, "containers": [container]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "storageClassName": "local-cow", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "64Mi"}}}}]}});
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("db", 1);
    let write = ["sh", "-c", "echo kept > /data/word; sync"];
    kubectl.ok(&[&["exec", "db-0", "--"], &write[..]].concat());
    Pasted::for_instance(&instance).part(
        "docs/storage.md",
        "### A replica for an existing volume",
        Some("## Volumes on other machines"),
    );
    kubectl.wait_ready("db", 1);
    let class = "jsonpath={.spec.storageClassName}";
    let class = kubectl.ok(&["get", "pvc", "data-db-0", "-o", class]);
    assert_eq!(class, "local-replicated");
    assert_eq!(
        kubectl.ok(&["exec", "db-0", "--", "cat", "/data/word"]),
        "kept\n"
    );
    kubectl.ok(&["delete", "volumesnapshot", "db-0", "--timeout=300s"]);
}

/// findings U7: a snapshot is taken and restored with the class that supports it, whatever the disk is.
#[test]
fn the_snapshot_page_can_be_pasted() {
    let instance = Instance::start(&[]);
    let pasted = Pasted::for_instance(&instance);
    let output = pasted.part(
        "docs/storage.md",
        "## Snapshots and copies",
        Some("VolumeSnapshot, VolumeSnapshotContent and"),
    );
    assert!(output.stdout.contains("before\n"), "{output:#?}");
}
