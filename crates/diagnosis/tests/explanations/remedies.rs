//! Remedies of a pod: the commands, as they are printed.

use std::sync::Arc;

use diagnosis::{CauseChain, Log, ObservedCluster, ObservedNamespace, TargetKind, explain};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use resource_kinds::pod_view::PodView;

use super::situation::now;

/// A pod `web` without an owner, in the namespace `shop`.
fn web(spec: Value, status: Value) -> Value {
    json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1" },
        "spec": spec,
        "status": status,
    })
}

fn owned(mut pod: Value, kind: &str, name: &str) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": kind,
        "name": name, "uid": "o", "controller": true }]);
    pod["metadata"]["labels"] = json!({ "pod-template-hash": "5d9" });
    pod
}

/// The container `main`, on a node, in that state.
fn main(container: Value, state: Value) -> Value {
    let mut container = container;
    container["name"] = "main".into();
    let status = json!({ "name": "main", "image": "i", "imageID": "", "ready": false,
        "restartCount": 1, "state": state });
    web(
        json!({ "nodeName": "n1", "containers": [container] }),
        json!({ "containerStatuses": [status] }),
    )
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn unplaced(spec: Value, message: &str) -> Value {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{ "name": "main" }]);
    }
    let scheduled = json!({ "type": "PodScheduled", "status": "False", "message": message });
    web(spec, json!({ "conditions": [scheduled] }))
}

fn event(kind: &str, reason: &str, message: &str) -> Value {
    json!({
        "metadata": { "name": reason, "namespace": "shop" },
        "involvedObject": { "kind": "Pod", "name": "web", "uid": "u",
            "fieldPath": "spec.containers{main}" },
        "type": kind, "reason": reason, "message": message,
        "lastTimestamp": "2026-01-01T11:59:50Z",
    })
}

fn chain(pods: &[Value], events: &[Value]) -> CauseChain {
    let mut observed = ObservedNamespace::of("shop", now());
    for pod in pods {
        let pod: Pod = json_tree::from_value(pod.clone()).unwrap();
        observed
            .pods
            .push(Arc::new(PodView::try_from(&pod).unwrap()));
        observed.full_pods.push(Arc::new(pod));
    }
    for event in events {
        let event = json_tree::from_value(event.clone()).unwrap();
        observed.events.push(Arc::new(event));
    }
    let mut explanation = explain(TargetKind::Pod, "web", &observed).unwrap();
    explanation.chains.remove(0)
}

#[track_caller]
fn check(pods: &[Value], events: &[Value], commands: &[&str]) {
    let chain = chain(pods, events);
    assert_eq!(chain.remedy.commands, commands, "{chain:#?}");
}

/// findings U36: the remedy changes the template of a pod with an owner, and recreates a pod without an owner.
#[test]
fn the_change_is_made_where_the_pod_comes_from() {
    let never = || main(json!({ "image": "a" }), waiting("ErrImageNeverPull", "x"));
    let patch = r#"-p '{"spec":{"template":{"spec":{"containers":[{"imagePullPolicy":"IfNotPresent","name":"main"}]}}}}'"#;
    for (kind, name, target) in [
        ("StatefulSet", "db", "sts/db"),
        ("DaemonSet", "db", "ds/db"),
        ("ReplicaSet", "db-5d9", "deployment/db"),
    ] {
        let command = format!("kubectl -n shop patch {target} {patch}");
        check(&[owned(never(), kind, name)], &[], &[&command]);
    }
    check(
        &[never()],
        &[],
        &["kubectl -n shop patch pod web --dry-run=client -o yaml -p \
           '{\"spec\":{\"containers\":[{\"imagePullPolicy\":\"IfNotPresent\",\"name\":\"main\"}]}}' \
           | kubectl replace --force -f -"],
    );
    check(&[owned(never(), "Database", "db")], &[], &[]);
}

/// findings U36
#[test]
fn what_a_container_refers_to_is_created() {
    let refused = |container: Value, message: &str| {
        owned(
            main(container, waiting("CreateContainerConfigError", message)),
            "StatefulSet",
            "db",
        )
    };
    let env = |kind: &str| {
        let level = json!({ kind: { "name": "a", "key": "level" } });
        json!({ "env": [{ "name": "L", "valueFrom": level }] })
    };
    check(
        &[refused(env("configMapKeyRef"), "configmap \"a\" not found")],
        &[],
        &["kubectl -n shop create configmap a --from-literal=level=VALUE"],
    );
    check(
        &[refused(env("secretKeyRef"), "secret \"a\" not found")],
        &[],
        &["kubectl -n shop create secret generic a --from-literal=level=VALUE"],
    );
    check(
        &[refused(json!({}), "couldn't find key k in Secret shop/a")],
        &[],
        &["kubectl -n shop patch secret a --type merge -p '{\"stringData\":{\"k\":\"VALUE\"}}'"],
    );
    check(
        &[refused(
            json!({}),
            "container has runAsNonRoot and image will run as root",
        )],
        &[],
        &[
            "kubectl -n shop patch sts/db -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":\
           [{\"securityContext\":{\"runAsUser\":1000},\"name\":\"main\"}]}}}}'",
        ],
    );
}

/// findings U36
#[test]
fn volumes_that_cannot_be_mounted_say_what_they_need() {
    let mut pod = main(json!({}), waiting("ContainerCreating", ""));
    pod["spec"]["volumes"] = json!([
        { "name": "conf", "configMap": { "name": "a" } },
        { "name": "host", "hostPath": { "path": "/srv", "type": "Directory" } },
    ]);
    let warning = |part: &str| {
        let message = format!("MountVolume.SetUp failed for volume {part}");
        event("Warning", "FailedMount", &message)
    };
    check(
        &[pod.clone()],
        &[warning("\"conf\" : configmap \"a\" not found")],
        &["kubectl -n shop create configmap a"],
    );
    check(
        &[pod.clone()],
        &[warning(
            "\"conf\" : configmap references non-existent config key: k",
        )],
        &["kubectl -n shop patch configmap a --type merge -p '{\"data\":{\"k\":\"VALUE\"}}'"],
    );
    check(
        &[owned(pod, "StatefulSet", "db")],
        &[warning(
            "\"host\" : hostPath type check failed: /srv is not a directory",
        )],
        &[
            "kubectl -n shop patch sts/db -p '{\"spec\":{\"template\":{\"spec\":{\"volumes\":[{\"name\":\
           \"host\",\"hostPath\":{\"path\":\"/srv\",\"type\":\"DirectoryOrCreate\"}}]}}}}'",
        ],
    );
}

/// findings U36: the exit code of a stopped program is not the reason.
#[test]
fn who_is_killed_for_a_probe_is_told_so() {
    let probe = json!({ "livenessProbe": { "httpGet": { "path": "/live", "port": 80 } } });
    let mut pod = main(probe, waiting("CrashLoopBackOff", "x"));
    pod["status"]["containerStatuses"][0]["lastState"] = json!({ "terminated": { "exitCode": 0,
        "reason": "Completed", "startedAt": "2026-01-01T11:59:40Z" } });
    let events = [
        event(
            "Normal",
            "Killing",
            "Container main failed liveness probe, will be restarted",
        ),
        event(
            "Warning",
            "Unhealthy",
            "Liveness probe failed: HTTP probe failed with statuscode: 500",
        ),
    ];
    let chain_of_kill = chain(&[pod.clone()], &events);
    let messages: Vec<&str> = chain_of_kill
        .links
        .iter()
        .map(|link| &*link.message)
        .collect();
    assert_eq!(
        messages,
        [
            "container main is killed again and again: its liveness probe fails (GET /live on port \
             80)",
            "Liveness probe failed: HTTP probe failed with statuscode: 500",
        ]
    );
    assert_eq!(chain_of_kill.links[0].reason, "LivenessProbe");
    assert_eq!(
        chain_of_kill.links[0].log,
        Log::Readable { previous: false }
    );
    let patch = &chain_of_kill.remedy.commands[0];
    let probe_patch = r#""livenessProbe":{"httpGet":{"path":"/PATH","port":PORT}}"#;
    assert!(patch.contains(probe_patch), "{patch}");
    // A kill of an earlier run is not the cause of this exit.
    pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["startedAt"] =
        "2026-01-01T11:59:55Z".into();
    let chain_of_kill = chain(&[pod], &events);
    assert_eq!(
        chain_of_kill.links[0].message,
        "container main does not keep running: exit code 0 (Completed)"
    );
}

/// findings U36
#[test]
fn a_probe_that_takes_too_long_is_given_more_time() {
    let probe = json!({ "readinessProbe": { "exec": { "command": ["x"] }, "timeoutSeconds": 2 } });
    let mut pod = main(probe, json!({ "running": {} }));
    pod["status"]["containerStatuses"][0]["started"] = true.into();
    let message = "Readiness probe errored and resulted in unknown state: command timed out: \"x\" \
                timed out after 2s";
    check(
        &[owned(pod, "StatefulSet", "db")],
        &[event("Warning", "Unhealthy", message)],
        &[
            "kubectl -n shop patch sts/db -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":\
           [{\"readinessProbe\":{\"timeoutSeconds\":20},\"name\":\"main\"}]}}}}'",
        ],
    );
}

/// findings U36: a program that is killed before it has started gets more time and more failures.
#[test]
fn a_slow_start_is_given_more_time() {
    let probe = json!({ "startupProbe": { "exec": { "command": ["x"] }, "failureThreshold": 4 } });
    let pod = main(probe, json!({ "running": {} }));
    for (message, more) in [
        ("Startup probe failed: x", r#"{"failureThreshold":40}"#),
        (
            "Startup probe failed: command timed out: \"x\" timed out after 1s",
            r#"{"timeoutSeconds":10,"failureThreshold":40}"#,
        ),
    ] {
        let explained = chain(
            std::slice::from_ref(&pod),
            &[event("Warning", "Unhealthy", message)],
        );
        let expected = format!("{{\"startupProbe\":{more},\"name\":\"main\"}}");
        assert!(
            explained.remedy.commands[0].contains(&expected),
            "{explained:#?}"
        );
    }
}

/// findings U36
#[test]
fn memory_is_doubled() {
    let limits = json!({ "resources": { "limits": { "memory": "64Mi" } } });
    let end = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    check(
        &[owned(main(limits, end), "StatefulSet", "db")],
        &[],
        &["kubectl -n shop set resources sts/db -c main --limits=memory=128Mi"],
    );
}

/// findings U36
#[test]
fn who_is_not_placed_is_told_what_would_help() {
    let message = |text: &str| format!("0/1 nodes are available: 1 {text}.");
    let selector = json!({ "nodeSelector": { "disk": "fast" } });
    check(
        &[unplaced(
            selector,
            &message("node(s) didn't match Pod's node affinity/selector"),
        )],
        &[],
        &["kubectl label --overwrite node NODE disk=fast"],
    );
    let large = json!({ "containers": [
        { "name": "small", "resources": { "requests": { "cpu": "1m" } } },
        { "name": "large", "resources": { "requests": { "cpu": "100" }, "limits": { "cpu": "100" } } },
    ] });
    check(
        &[owned(
            unplaced(large, &message("Insufficient cpu")),
            "StatefulSet",
            "db",
        )],
        &[],
        &[
            "kubectl -n shop patch sts/db -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":\
           [{\"resources\":{\"requests\":{\"cpu\":\"AMOUNT\"},\"limits\":{\"cpu\":\"AMOUNT\"}},\
           \"name\":\"large\"}]}}}}'",
        ],
    );
    let port = || {
        json!({ "containers": [
        { "name": "main", "ports": [{ "containerPort": 80, "hostPort": 8080 }] },
    ] })
    };
    let mut other = web(port(), json!({ "phase": "Running" }));
    other["metadata"]["name"] = "other".into();
    other["spec"]["nodeName"] = "n1".into();
    let conflict = message("node(s) didn't have free ports for the requested pod ports");
    let explained = chain(&[unplaced(port(), &conflict), other], &[]);
    assert_eq!(
        explained.remedy.text,
        "port 8080 of the node is in use by pod other: use another one"
    );
    assert!(explained.remedy.commands[0].contains("\"hostPort\":PORT"));
    let mut other_scheduler = unplaced(json!({ "schedulerName": "own" }), "");
    other_scheduler["status"] = json!({});
    let explained = chain(&[other_scheduler], &[]);
    assert!(explained.remedy.commands[0].contains("\"schedulerName\":\"default-scheduler\""));
}

/// findings U36
#[test]
fn a_pod_that_failed_says_how_and_wants_its_log() {
    let status = json!({ "name": "main", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": { "terminated": { "exitCode": 7, "reason": "Error" } } });
    let failed = web(
        json!({ "nodeName": "n1", "containers": [{ "name": "main" }] }),
        json!({ "phase": "Failed", "containerStatuses": [status] }),
    );
    let explained = chain(&[failed], &[]);
    assert_eq!(
        explained.links[0].message,
        "failed: container main: exit code 7 (Error)"
    );
    assert_eq!(explained.links[0].log, Log::Readable { previous: false });
    assert_eq!(
        explained.remedy.commands,
        ["kubectl -n shop delete pod web"]
    );
}

/// findings U36: a stopped shim is named in words, and there is no remedy.
#[test]
fn a_shim_that_is_stopped_is_named() {
    let mut pod = main(json!({}), json!({ "running": {} }));
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T11:59:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    let message = "the shim of sandbox u does not answer (waited 10 s)";
    let explained = chain(&[pod], &[event("Warning", "FailedKillPod", message)]);
    assert_eq!(
        explained.links[1].message,
        "the process that looks after its containers (their shim) does not answer: it is stopped, \
         or waits for a disk"
    );
    assert!(
        explained
            .remedy
            .text
            .starts_with("nothing to do: the node kills the pod")
    );
}

/// A volume ties its pod to one node: the remedy is about that node.
#[test]
fn a_pod_without_the_node_of_its_volume_needs_that_node() {
    let message = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, \
                1 node(s) were unschedulable.";
    let volumes = json!([{ "name": "d", "persistentVolumeClaim": { "claimName": "d-web" } }]);
    let pod: Pod = json_tree::from_value(unplaced(json!({ "volumes": volumes }), message)).unwrap();
    let claim = json!({ "metadata": { "name": "d-web", "namespace": "shop" },
        "spec": { "volumeName": "pv" } });
    let host = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["h1"] });
    let volume = json!({ "metadata": { "name": "pv" }, "spec": { "nodeAffinity": { "required": {
        "nodeSelectorTerms": [{ "matchExpressions": [host] }] } } } });
    let node = |ready: &str, unschedulable: bool| {
        json!({ "metadata": { "name": "n1", "labels": { "kubernetes.io/hostname": "h1" } },
            "spec": { "unschedulable": unschedulable },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
    };
    for (nodes, text, commands) in [
        (
            json!([]),
            "which does not exist: start mainstay on its machine",
            vec![],
        ),
        (
            json!([node("Unknown", true)]),
            "which does not respond: it has to come back",
            vec!["kubectl describe node n1"],
        ),
        (
            json!([node("True", true)]),
            "which is cordoned: allow pods on it again",
            vec!["kubectl uncordon n1"],
        ),
    ] {
        let mut observed = ObservedNamespace::of("shop", now());
        observed
            .pods
            .push(Arc::new(PodView::try_from(&pod).unwrap()));
        observed
            .claims
            .push(json_tree::from_value(claim.clone()).map(Arc::new).unwrap());
        observed.cluster = Arc::new(ObservedCluster {
            nodes: Some(
                nodes
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|node| Arc::new(json_tree::from_value(node.clone()).unwrap()))
                    .collect(),
            ),
            volumes: Some(vec![Arc::new(
                json_tree::from_value(volume.clone()).unwrap(),
            )]),
            ..ObservedCluster::default()
        });
        let explanation = explain(TargetKind::Pod, "web", &observed).unwrap();
        let remedy = &explanation.chains[0].remedy;
        let tied = "volume pv of its claim d-web can only be used on node h1";
        assert_eq!(remedy.text, format!("{tied}, {text}"));
        assert_eq!(remedy.commands, commands);
    }
}
