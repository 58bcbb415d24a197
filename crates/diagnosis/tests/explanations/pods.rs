//! Single pods: the status, and its diagnosis in words.

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use pod_lifecycle::diagnosis::{self, Diagnosis, PodContext};
use resource_kinds::pod_view::PodView;

fn pod(pod: &Pod) -> Option<Diagnosis> {
    diagnosis::pod(&pod.try_into().unwrap())
}

fn pod_in(pod: &Pod, around: &PodContext<'_>) -> Option<Diagnosis> {
    diagnosis::pod_in(&pod.try_into().unwrap(), around)
}

/// A pod of the set `web` on node `n1`; `change` is merged into it.
fn web_1(change: Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "web-1", "namespace": "default", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T12:00:00Z",
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                "uid": "s", "controller": true }],
        },
        "spec": { "nodeName": "n1", "containers": [{ "name": "main", "image": "shop:2" }] },
        "status": { "phase": "Running" },
    });
    merge(&mut pod, change);
    json_tree::from_value(pod).unwrap()
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "message": message,
        "lastTransitionTime": "2026-01-01T12:00:01Z" })
}

/// A pod whose only container is in that state.
fn main_is(state: Value) -> Pod {
    let status = json!({ "name": "main", "image": "shop:2", "imageID": "", "ready": false,
        "restartCount": 0, "started": false, "state": state });
    web_1(json!({ "status": { "containerStatuses": [status],
        "conditions": [condition("Ready", "False", "containers with unready status: [main]")] } }))
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn ended(exit_code: i32, reason: &str, message: &str) -> Value {
    json!({ "terminated": { "exitCode": exit_code, "reason": reason, "message": message,
        "finishedAt": "2026-01-01T12:00:05Z" } })
}

#[track_caller]
fn check(diagnosis: Option<Diagnosis>, expected: [&str; 3]) {
    let diagnosis = diagnosis.expect("something is the matter");
    let reason = diagnosis.reason.to_string();
    let remedy = diagnosis.remedy.to_string();
    assert_eq!([reason.as_str(), &diagnosis.message, &remedy], expected);
    assert!(!diagnosis.message.contains('\n') && !remedy.contains('\n'));
}

#[test]
fn nothing_is_said_of_a_pod_that_is_ready() {
    let ready = web_1(json!({ "status": { "conditions": [condition("Ready", "True", "")] } }));
    assert_eq!(pod(&ready), None);
}

#[test]
fn a_pod_without_a_node_says_what_the_scheduler_said() {
    let reason = "0/1 nodes are available: 1 Insufficient cpu.";
    check(
        pod(&web_1(
            json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending",
            "conditions": [condition("PodScheduled", "False", reason)] } }),
        )),
        [
            "Unschedulable",
            "no node fits: 0/1 nodes are available: 1 Insufficient cpu.",
            "free resources on a node or request less; kubectl describe nodes shows the nodes' resources",
        ],
    );
    // The part of the message about other remedies is left out.
    let longer = format!(
        "{reason} preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let diagnosis = pod(&web_1(json!({ "spec": { "nodeName": null }, "status": {
        "conditions": [condition("PodScheduled", "False", &longer)] } })));
    let message = diagnosis.map(|diagnosis| diagnosis.message);
    assert_eq!(message, Some(format!("no node fits: {reason}")));
    check(
        pod(&web_1(json!({ "spec": { "nodeName": null }, "status": {
            "nominatedNodeName": "n",
            "conditions": [condition("PodScheduled", "False", reason)] } }))),
        [
            "Unschedulable",
            "pods of lower priority make room for it on node n",
            "nothing to do: it starts there when they have ended",
        ],
    );
    let unseen = web_1(json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending" } }));
    check(
        pod(&unseen),
        [
            "NotScheduled",
            "scheduler default-scheduler has not tried to schedule it yet",
            "nothing to do if scheduler default-scheduler runs; otherwise start it",
        ],
    );
}

#[test]
fn scheduling_gates_are_named() {
    let gated = web_1(json!({ "spec": { "nodeName": null,
        "schedulingGates": [{ "name": "example.com/quota" }] } }));
    check(
        pod(&gated),
        [
            "SchedulingGated",
            "scheduling gates hold it back: example.com/quota",
            "the owner of the scheduling gates example.com/quota has to remove them",
        ],
    );
}

/// `statefulset.md` 11.15: a pod that waits for a claim names the claim.
#[test]
fn a_pod_that_waits_for_a_claim_names_it() {
    let pending = |message: &str| {
        web_1(json!({ "spec": { "nodeName": null, "volumes": [
            { "name": "a", "persistentVolumeClaim": { "claimName": "logs-web-1" } },
            { "name": "b", "persistentVolumeClaim": { "claimName": "www-web-1" } },
        ] }, "status": { "conditions": [condition("PodScheduled", "False", message)] } }))
    };
    let named = pod(&pending(
        "0/1 nodes are available: persistentvolumeclaim \"www-web-1\" not found.",
    ));
    assert_eq!(named.as_ref().unwrap().claims, ["www-web-1"]);
    check(
        named,
        [
            "WaitingForClaim",
            "no node until its claims are usable (www-web-1): 0/1 nodes are available: \
             persistentvolumeclaim \"www-web-1\" not found.",
            "its claims must be bound; kubectl -n default describe pvc www-web-1 shows why they wait",
        ],
    );
    let unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    let unnamed = pod(&pending(unbound)).unwrap();
    assert_eq!(unnamed.claims, ["logs-web-1", "www-web-1"]);
}

#[test]
fn an_image_that_cannot_be_pulled_gives_the_same_words_between_pulls() {
    let expected = [
        "ImagePullFailed",
        "image \"shop:2\" of container main cannot be pulled: registry says 404",
        "provide an image of that name in the registry, or use another image: \
         kubectl -n default set image sts/web main=IMAGE",
    ];
    let pulling = main_is(waiting("ErrImagePull", "registry says 404"));
    check(pod(&pulling), expected);
    let between = "Back-off pulling image \"shop:2\": ErrImagePull: registry says 404";
    check(
        pod(&main_is(waiting("ImagePullBackOff", between))),
        expected,
    );
    let first = pod(&pulling);
    assert_eq!(first, pod(&main_is(waiting("ImagePullBackOff", between))));
}

#[test]
fn names_that_are_none_and_images_that_may_not_be_pulled_are_told_apart() {
    let invalid = main_is(waiting(
        "InvalidImageName",
        "Failed to apply default image tag",
    ));
    check(
        pod(&invalid),
        [
            "InvalidImageName",
            "\"shop:2\" of container main is no image name",
            "another name: kubectl -n default set image sts/web main=IMAGE",
        ],
    );
    check(
        pod(&main_is(waiting("ErrImageNeverPull", "x"))),
        [
            "ImageNeverPulled",
            "image \"shop:2\" of container main is not on the node, and imagePullPolicy is Never",
            "bring the image to the node (mainstay image import FILE), or let the node pull it: \
             kubectl -n default patch sts/web -p '{\"spec\":{\"template\":{\"spec\":\
             {\"containers\":[{\"imagePullPolicy\":\"IfNotPresent\",\"name\":\"main\"}]}}}}'",
        ],
    );
}

#[test]
fn missing_configuration_and_failed_starts_say_what_the_node_said() {
    check(
        pod(&main_is(waiting(
            "CreateContainerConfigError",
            "secret \"db\" not found",
        ))),
        [
            "ContainerConfigError",
            "container main cannot be configured: secret \"db\" not found",
            "create the missing object, or correct the reference: kubectl -n default edit sts/web",
        ],
    );
    check(
        pod(&main_is(waiting(
            "RunContainerError",
            "exec /bin/shop: no such file",
        ))),
        [
            "ContainerStartError",
            "container main cannot be started: exec /bin/shop: no such file",
            "correct its command, image or security context: kubectl -n default edit sts/web",
        ],
    );
}

#[test]
fn a_crash_loop_gives_the_last_exit_and_no_back_off_times() {
    let crashed = |end: Value| {
        let mut loops = main_is(waiting(
            "CrashLoopBackOff",
            "back-off 40s restarting failed container=main pod=web-1_default(u)",
        ));
        let statuses = loops.status.as_mut().unwrap().container_statuses.as_mut();
        statuses.unwrap()[0].last_state = json_tree::from_value(end).unwrap();
        loops
    };
    let failed = ended(1, "Error", "no database\n");
    let expected = [
        "ContainerCrashed",
        "container main does not keep running: exit code 1 (Error): no database",
        "the program has to keep running; its last log lines: kubectl -n default logs web-1 -c main",
    ];
    check(pod(&crashed(failed.clone())), expected);
    check(pod(&main_is(failed)), expected);
    let by_signal = pod(&crashed(ended(139, "Error", ""))).unwrap();
    assert_eq!(
        by_signal.message,
        "container main does not keep running: exit code 139 (signal SEGV)"
    );
    let mut hungry = crashed(ended(137, "OOMKilled", ""));
    let limits = json!({ "limits": { "memory": "64Mi" } });
    hungry.spec.as_mut().unwrap().containers[0].resources = json_tree::from_value(limits).unwrap();
    check(
        pod(&hungry),
        [
            "ContainerCrashed",
            "container main does not keep running: it used memory beyond its limit of 64Mi and \
             was killed (OOMKilled)",
            "a higher memory limit, or a program that uses less: kubectl -n default edit sts/web",
        ],
    );
}

/// `statefulset.md` 12.2, 12.3: init containers run one after the other; a later container is not the cause.
#[test]
fn of_init_containers_the_first_that_is_not_done_is_the_cause() {
    let status = |name: &str, ready: bool, state: Value| {
        json!({ "name": name, "image": "i", "imageID": "", "ready": ready, "restartCount": 0,
            "started": false, "state": state })
    };
    let with_second = |state: Value| {
        web_1(json!({
            "spec": { "initContainers": [{ "name": "one" }, { "name": "two" }] },
            "status": {
                "phase": "Pending",
                "conditions": [condition("Initialized", "False", "")],
                "initContainerStatuses": [
                    status("one", true, ended(0, "Completed", "")),
                    status("two", false, state),
                ],
                "containerStatuses": [status("main", false, waiting("PodInitializing", ""))],
            },
        }))
    };
    let running = json!({ "running": { "startedAt": "2026-01-01T12:00:03Z" } });
    check(
        pod(&with_second(running)),
        [
            "InitContainerRunning",
            "init container two is still running",
            "it has to end with exit code 0; its output: kubectl -n default logs web-1 -c two",
        ],
    );
    check(
        pod(&with_second(ended(2, "Error", ""))),
        [
            "ContainerCrashed",
            "init container two does not succeed: exit code 2 (Error)",
            "the program has to keep running; its last log lines: kubectl -n default logs web-1 -c two",
        ],
    );
}

fn running(started: bool, spec: Value) -> Pod {
    let mut container = json!({ "name": "main", "image": "shop:2" });
    merge(&mut container, spec);
    web_1(json!({
        "spec": { "containers": [container] },
        "status": {
            "conditions": [condition("Ready", "False", "")],
            "containerStatuses": [{ "name": "main", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "started": started,
                "state": { "running": { "startedAt": "2026-01-01T12:00:03Z" } } }],
        },
    }))
}

/// `statefulset.md` 12.5: a failing probe is named with its request.
#[test]
fn probes_are_named_with_what_they_ask() {
    let readiness = json!({ "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 } } });
    let unready = running(true, readiness.clone());
    check(
        pod(&unready),
        [
            "ReadinessProbe",
            "readiness probe of container main does not pass (GET /ready on port 8080)",
            "the program has to answer the probe; its output: \
             kubectl -n default logs web-1 -c main",
        ],
    );
    let since = pod(&unready).unwrap().since.unwrap();
    assert_eq!(since.to_string(), "2026-01-01T12:00:03Z");
    let mut both = readiness;
    both["startupProbe"] = json!({ "exec": { "command": ["pg_isready", "-q"] } });
    let message = |pod_: &Pod| pod(pod_).unwrap().message;
    assert_eq!(
        message(&running(false, both)),
        "startup probe of container main has not passed (command pg_isready -q)"
    );
    let hook = json!({ "lifecycle": { "postStart": { "exec": { "command": ["x"] } } } });
    assert_eq!(
        message(&running(false, hook)),
        "postStart hook of container main has not ended"
    );
    let tcp = json!({ "readinessProbe": { "tcpSocket": { "port": "db" } } });
    let mut again = running(true, tcp);
    let statuses = again.status.as_mut().unwrap().container_statuses.as_mut();
    statuses.unwrap()[0].last_state = json_tree::from_value(ended(3, "Error", "")).unwrap();
    assert_eq!(
        message(&again),
        "readiness probe of container main does not pass (TCP port db); \
         its run before: exit code 3 (Error)"
    );
}

/// `statefulset.md` 3.34: readiness gates have the messages of the kubelet.
#[test]
fn readiness_gates_have_the_texts_of_the_kubelet() {
    let gated = |conditions: Vec<Value>| {
        web_1(json!({
            "spec": { "readinessGates": [{ "conditionType": "example.com/lb" }] },
            "status": { "conditions": conditions, "containerStatuses": [{ "name": "main",
                "image": "i", "imageID": "", "ready": true, "restartCount": 0 }] },
        }))
    };
    check(
        pod(&gated(vec![condition("Ready", "False", "")])),
        [
            "ReadinessGate",
            "corresponding condition of pod readiness gate \"example.com/lb\" does not exist.",
            "the controller of the pod's condition example.com/lb has to set it to True",
        ],
    );
    let closed = gated(vec![
        condition("Ready", "False", ""),
        condition("example.com/lb", "False", ""),
    ]);
    assert_eq!(
        pod(&closed).unwrap().message,
        "the status of pod readiness gate \"example.com/lb\" is not \"True\", but False"
    );
}

#[test]
fn a_pod_that_is_being_deleted_says_what_it_still_waits_for() {
    let going = |change: Value| {
        let mut all = json!({ "metadata": { "deletionTimestamp": "2026-01-01T12:01:00Z",
            "deletionGracePeriodSeconds": 30 } });
        merge(&mut all, change);
        web_1(all)
    };
    let stopping = going(json!({}));
    check(
        pod(&stopping),
        [
            "Terminating",
            "being deleted: its containers have 30s to stop",
            "nothing to do; it is removed when its containers have stopped",
        ],
    );
    let since = pod(&stopping).unwrap().since.unwrap();
    assert_eq!(since.to_string(), "2026-01-01T12:00:30Z");
    let blocked = going(json!({ "metadata": { "deletionGracePeriodSeconds": 0,
        "finalizers": ["example.com/backup"] } }));
    check(
        pod(&blocked),
        [
            "HeldByFinalizer",
            "being deleted: finalizers hold it: example.com/backup",
            "the owner of example.com/backup must finish and remove it; to force the removal: kubectl -n \
             default patch pod web-1 --type merge -p '{\"metadata\":{\"finalizers\":null}}'",
        ],
    );
    let late = PodContext {
        now: Some("2026-01-01T12:01:01Z".parse().unwrap()),
        ..PodContext::default()
    };
    check(
        pod_in(&stopping, &late),
        [
            "Terminating",
            "being deleted: its grace of 30s is over and n1 has not confirmed its end",
            "if the machine behind n1 is off permanently: \
             kubectl -n default delete pod web-1 --force --grace-period=0",
        ],
    );
}

/// `statefulset.md` 3.31: a lost node is the cause for its pods.
#[test]
fn a_lost_node_is_the_cause_of_what_happens_on_it() {
    let node = json!({ "metadata": { "name": "n1" }, "status": { "conditions": [
        condition("Ready", "Unknown", "Kubelet stopped posting node status.")] } });
    let node: Node = json_tree::from_value(node).unwrap();
    let around = PodContext {
        node: Some(&node),
        now: None,
    };
    let going = web_1(
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T12:01:00Z",
        "deletionGracePeriodSeconds": 30 } }),
    );
    check(
        pod_in(&going, &around),
        [
            "NodeLost",
            "being deleted, but node n1 does not answer: its containers may still run",
            "node n1 has to come back; if its machine is off permanently: kubectl taint node n1 \
             node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or \
             kubectl -n default delete pod web-1 --force --grace-period=0",
        ],
    );
    let unready = web_1(json!({ "status": {
        "conditions": [condition("Ready", "False", ""), condition("ContainersReady", "True", "")],
        "containerStatuses": [{ "name": "main", "image": "i", "imageID": "", "ready": true,
            "restartCount": 0 }] } }));
    let expected = [
        "NodeLost",
        "node n1 does not respond: its containers may still run",
        "node n1 has to come back; kubectl describe node n1 says since when it is silent; if its \
         machine is off permanently: kubectl taint node n1 \
         node.kubernetes.io/out-of-service=nodeshutdown:NoExecute replaces its pods within 20s, or \
         kubectl -n default delete pod web-1 --force --grace-period=0 this one at once",
    ];
    check(pod_in(&unready, &around), expected);
    check(pod(&unready), expected);
}

/// `statefulset.md` 3.31: an administrator has declared that the machine is off, before or after the eviction.
#[test]
fn a_pod_of_a_node_out_of_service_is_being_removed() {
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown",
        "effect": "NoExecute" });
    let node = json!({ "metadata": { "name": "n1" }, "spec": { "taints": [taint] },
        "status": { "conditions": [condition("Ready", "Unknown", "Kubelet stopped posting.")] } });
    let node: Node = json_tree::from_value(node).unwrap();
    let around = PodContext {
        node: Some(&node),
        now: None,
    };
    let unready = web_1(json!({ "status": { "conditions": [condition("Ready", "False", "")] } }));
    let going = web_1(
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T12:01:00Z",
        "deletionGracePeriodSeconds": 30 } }),
    );
    for pod in [unready, going] {
        let view = PodView::try_from(&pod).unwrap();
        let owner = view.controller.as_deref();
        let next = match owner {
            Some(owner) => format!("{} {} replaces it", owner.kind, owner.name),
            None => "no controller replaces it: create it again".to_owned(),
        };
        let remedy = format!("nothing to do for 20s: the pod is removed within that time; {next}");
        check(
            pod_in(&pod, &around),
            [
                "NodeLost",
                "node n1 does not respond, and its taint node.kubernetes.io/out-of-service says that \
                 its machine is off: the pod is removed",
                &remedy,
            ],
        );
    }
}

/// `statefulset.md` 3.31: a pod that fails over names the next step.
#[test]
fn a_pod_that_fails_over_says_what_follows() {
    let node = json!({ "metadata": { "name": "n1" }, "status": { "conditions": [
        condition("Ready", "Unknown", "Kubelet stopped posting node status.")] } });
    let node: Node = json_tree::from_value(node).unwrap();
    let around = PodContext {
        node: Some(&node),
        now: None,
    };
    let marked = json!({ "node.mainstay.dev/ends-with-lease": "true" });
    let unready = web_1(json!({ "metadata": { "annotations": marked },
        "status": { "conditions": [condition("Ready", "False", "")] } }));
    let going = web_1(json!({ "metadata": { "annotations": marked,
        "deletionTimestamp": "2026-01-01T12:01:00Z", "deletionGracePeriodSeconds": 30 } }));
    for pod in [unready, going] {
        check(
            pod_in(&pod, &around),
            [
                "NodeLost",
                "node n1 does not respond: its containers end with the node's lease, and its set \
                 replaces it on another node",
                "nothing to do for 60s; after that an event StaysWithNode of the pod names what \
                 keeps it, such as a volume that lives on n1: then n1 has to come back; if its machine \
                 is off permanently: kubectl taint node n1 \
                 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or \
                 kubectl -n default delete pod web-1 --force --grace-period=0",
            ],
        );
    }
}

/// `statefulset.md` 3.30: an ended pod has its result.
#[test]
fn pods_that_have_ended_say_how() {
    let evicted = web_1(json!({ "status": { "phase": "Failed", "reason": "Evicted",
        "message": "The node was low on resource: memory." } }));
    check(
        pod(&evicted),
        [
            "Evicted",
            "was evicted from its node: The node was low on resource: memory.",
            "nothing to do; StatefulSet web replaces it",
        ],
    );
    let mut alone = web_1(json!({ "status": { "phase": "Succeeded" } }));
    alone.metadata.owner_references = None;
    check(
        pod(&alone),
        [
            "Completed",
            "ended, all containers with exit code 0",
            "create it again, after kubectl -n default delete pod web-1",
        ],
    );
}

#[test]
fn a_pod_that_nobody_has_begun_with_and_one_that_is_being_prepared_are_told_apart() {
    assert_eq!(
        pod(&web_1(json!({}))).unwrap().message,
        "node n1 has not started it yet"
    );
    assert_eq!(
        pod(&main_is(waiting("ContainerCreating", "")))
            .unwrap()
            .message,
        "container main is being prepared: network, volumes, image"
    );
}

/// An empty pod, and a pod with only a node, have a diagnosis too.
#[test]
fn any_pod_has_an_answer() {
    let metadata = json!({ "name": "p", "namespace": "d", "uid": "u", "resourceVersion": "1" });
    let empty: Pod = json_tree::from_value(json!({ "metadata": metadata.clone() })).unwrap();
    assert!(pod(&empty).is_some());
    let bare = json!({ "metadata": metadata, "spec": { "containers": [], "nodeName": "n" },
        "status": { "containerStatuses": [] } });
    let bare: Pod = json_tree::from_value(bare).unwrap();
    assert_eq!(
        pod(&bare).unwrap().message,
        "not ready, and its status does not say why"
    );
}
