//! A small language for observed objects, so that a situation fits on a few lines.
//!
//! One object per line: kind, name, words of the form `key` or `key=value`, and after a bar the message of its status.
//! Times are seconds before the time of the question. Revisions are named by the image of their template: `a`, `b`, ….

use std::sync::Arc;

use controller_planners::stateful_set::{identity, revisions};
use diagnosis::{ObservedCluster, ObservedNamespace};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::serde::de::DeserializeOwned;
use resource_kinds::pod_view::PodView;

pub fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Value {
    let then = now()
        .checked_sub(SignedDuration::from_secs(seconds))
        .unwrap();
    then.to_string().into()
}

struct Line<'a> {
    name: &'a str,
    words: Vec<&'a str>,
    said: &'a str,
}

impl<'a> Line<'a> {
    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.words
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key).map(|text| text.parse().unwrap())
    }

    fn since(&self) -> Value {
        ago(self.number("since").unwrap_or(100))
    }
}

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(json_tree::from_value(value).unwrap())
}

/// Parses a situation; panics on unknown words, because the text is part of a test.
pub fn parse(text: &str) -> ObservedNamespace {
    let mut observed = ObservedNamespace::of("default", now());
    let mut cluster = ObservedCluster {
        nodes: Some(Vec::new()),
        volumes: Some(Vec::new()),
        classes: Some(Vec::new()),
        ..ObservedCluster::default()
    };
    let lines = text.lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (words, message) = line.split_once(" | ").unwrap_or((line, ""));
        if line.starts_with('{') {
            let value = serde_json::from_str(line).unwrap();
            whole(value, &mut observed, &mut cluster);
            continue;
        }
        let mut words = words.split_whitespace();
        let kind = words.next().unwrap();
        let name = words.next().unwrap();
        let line = Line {
            name,
            words: words.collect(),
            said: message,
        };
        match kind {
            "set" => {
                observed.sets.push(object(set(&line)));
                let images = ["a", "b"].into_iter().zip(1..);
                let rejected = line.get("rejected");
                observed.revisions.extend(
                    images.map(|(image, number)| revision(image, number, rejected == Some(image))),
                );
            }
            "pod" => {
                let pod: Arc<Pod> = object(pod(&line));
                observed
                    .pods
                    .push(Arc::new(PodView::try_from(&*pod).unwrap()));
                observed.full_pods.push(pod);
            }
            "claim" => observed.claims.push(object(claim(&line))),
            "event" => observed.events.push(object(event(&line))),
            "node" => push(&mut cluster.nodes, node(&line)),
            "class" => push(&mut cluster.classes, class(&line)),
            "forbidden" => {
                cluster.nodes = None;
                cluster.volumes = None;
                cluster.classes = None;
            }
            "why" => {}
            other => panic!("what is {other}?"),
        }
    }
    observed.cluster = Arc::new(cluster);
    observed
}

fn push<T: DeserializeOwned>(to: &mut Option<Vec<Arc<T>>>, value: Value) {
    to.get_or_insert_default().push(object(value));
}

/// Adds an object that is written as complete JSON.
fn whole(mut value: Value, observed: &mut ObservedNamespace, cluster: &mut ObservedCluster) {
    let kind = value.as_object_mut().unwrap().remove("kind").unwrap();
    let meta = &mut value["metadata"];
    let name = meta["name"].as_str().unwrap().to_owned();
    if meta["uid"].is_null() {
        meta["uid"] = format!("uid-{name}").into();
    }
    if meta["resourceVersion"].is_null() {
        meta["resourceVersion"] = "1".into();
    }
    let kind = kind.as_str().unwrap();
    if !["Node", "PersistentVolume", "Namespace"].contains(&kind) && meta["namespace"].is_null() {
        meta["namespace"] = "default".into();
    }
    match kind {
        "StatefulSet" => observed.sets.push(object(value)),
        "Deployment" => observed.deployments.push(object(value)),
        "ReplicaSet" => observed.replica_sets.push(object(value)),
        "ReplicationController" => observed.replication_controllers.push(object(value)),
        "DaemonSet" => observed.daemon_sets.push(object(value)),
        "Job" => observed.jobs.push(object(value)),
        "CronJob" => observed.cron_jobs.push(object(value)),
        "Pod" => {
            let pod: Arc<Pod> = object(value);
            observed
                .pods
                .push(Arc::new(PodView::try_from(&*pod).unwrap()));
            observed.full_pods.push(pod);
        }
        "PersistentVolumeClaim" => observed.claims.push(object(value)),
        "Service" => observed.services.push(object(value)),
        "EndpointSlice" => observed.slices.push(object(value)),
        "Ingress" => observed.ingresses.push(object(value)),
        "HorizontalPodAutoscaler" => observed.autoscalers.push(object(value)),
        "StatefulSetPolicy" => observed.policies.push(object(value)),
        "PodDisruptionBudget" => observed.budgets.push(object(value)),
        "VolumeSnapshot" => observed.snapshots.push(object(value)),
        "Event" => observed.events.push(object(value)),
        "Node" => push(&mut cluster.nodes, value),
        "PersistentVolume" => push(&mut cluster.volumes, value),
        "CSINode" => push(&mut cluster.csi_nodes, value),
        "CSIStorageCapacity" => push(&mut cluster.capacities, value),
        "Namespace" => push(&mut cluster.namespaces, value),
        "CustomResourceDefinition" => push(&mut cluster.definitions, value),
        "APIService" => push(&mut cluster.api_services, value),
        "CertificateSigningRequest" => push(&mut cluster.signing_requests, value),
        "ComponentStatus" => push(&mut cluster.components, value),
        "VolumeSnapshotContent" => push(&mut cluster.snapshot_contents, value),
        "VolumeSnapshotClass" => {
            let class = json_tree::from_value(value).unwrap();
            cluster.snapshot_classes.get_or_insert_default().push(class);
        }
        other => panic!("what is {other}?"),
    }
}

fn template(image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "main", "image": image }] },
    })
}

fn revision_name(image: &str) -> String {
    let template = json_tree::from_value(template(image)).unwrap();
    let bytes = revisions::bytes(&revisions::encode(&template));
    revisions::name("web", &revisions::hash(&bytes, Some(0)))
}

fn revision(image: &str, number: i64, is_rejected: bool) -> Arc<ControllerRevision> {
    let template = json_tree::from_value(template(image)).unwrap();
    let evidence = r#"{"at":"2026-01-01T11:58:20Z","pod":"web-1","uid":"u",
        "reason":"ContainerCrashed","message":"container main exits with code 1"}"#;
    let annotations = is_rejected.then(|| json!({ "apps.mainstay.dev/rejected": evidence }));
    object(json!({
        "metadata": { "name": revision_name(image), "namespace": "default",
            "uid": format!("uid-{image}"), "labels": { "app": "web" },
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                "uid": "uid-web", "controller": true }] },
        "revision": number,
        "data": revisions::encode(&template),
    }))
}

fn set(line: &Line<'_>) -> Value {
    let image = line.get("template").unwrap_or("a");
    let current = line.get("current").unwrap_or(image);
    let strategy = if line.has("on-delete") {
        json!({ "type": "OnDelete" })
    } else {
        let partition = line.number("partition").unwrap_or(0);
        json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": partition } })
    };
    let claims = line
        .get("claims")
        .map(|name| json!([{ "metadata": { "name": name }, "spec": {} }]));
    let mut set = json!({
        "metadata": { "name": line.name, "namespace": "default", "uid": "uid-web",
            "resourceVersion": "1", "generation": line.number("generation").unwrap_or(1) },
        "spec": {
            "replicas": line.number("replicas").unwrap_or(1),
            "selector": { "matchLabels": { "app": "web" } },
            "serviceName": "svc",
            "template": template(image),
            "updateStrategy": strategy,
            "podManagementPolicy": if line.has("parallel") { "Parallel" } else { "OrderedReady" },
            "minReadySeconds": line.number("min-ready").unwrap_or(0),
            "volumeClaimTemplates": claims,
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": line.get("deleted").unwrap_or("Retain"),
                "whenScaled": line.get("scaled").unwrap_or("Retain"),
            },
        },
        "status": { "replicas": 0, "observedGeneration": 1,
            "currentRevision": revision_name(current) },
    });
    if line.has("terminating") {
        set["metadata"]["deletionTimestamp"] = line.since();
        set["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    }
    if let Some(reason) = line.get("stalled") {
        set["status"]["conditions"] = json!([{ "type": "Stalled", "status": "True",
            "reason": reason, "lastTransitionTime": line.since() }]);
    }
    set
}

/// `pod web-1 unready node=n1 since=120`
fn pod(line: &Line<'_>) -> Value {
    let image = line.get("image").unwrap_or("a");
    let mut main = json!({ "name": "main", "image": image });
    if line.has("unready") || line.has("ready") {
        main["readinessProbe"] = json!({ "httpGet": { "path": "/ready", "port": 8080 } });
    }
    let claims = line
        .get("claims")
        .into_iter()
        .flat_map(|names| names.split(','));
    let volumes: Vec<Value> = claims
        .map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }))
        .collect();
    let mut labels = json!({ "app": "web", "controller-revision-hash": revision_name(image),
        "statefulset.kubernetes.io/pod-name": line.name });
    if let Some(ordinal) = identity::ordinal("web", line.name) {
        labels["apps.kubernetes.io/pod-index"] = ordinal.to_string().into();
    }
    let mut pod = json!({
        "metadata": { "name": line.name, "namespace": "default",
            "uid": format!("uid-{}", line.name),
            "creationTimestamp": line.since(), "labels": labels, "resourceVersion": "1" },
        "spec": { "nodeName": line.get("node").unwrap_or("n1"), "containers": [main],
            "volumes": volumes },
        "status": status(line),
    });
    if line.has("alone") {
        pod["metadata"]["labels"] = json!({});
    } else {
        let (kind, name, uid) = match line.get("owner") {
            Some(other) => ("Job", other, "uid-other"),
            None => ("StatefulSet", "web", "uid-web"),
        };
        pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": kind,
            "name": name, "uid": uid, "controller": true }]);
    }
    if line.has("unscheduled") {
        pod["spec"]["nodeName"] = Value::Null;
    }
    if let Some(grace) = line.number("terminating") {
        let seconds = line.number("since").unwrap_or(100);
        pod["metadata"]["deletionTimestamp"] = ago(seconds - grace);
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    }
    pod
}

fn status(line: &Line<'_>) -> Value {
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({ "type": kind, "status": status, "lastTransitionTime": line.since() })
    };
    if line.has("unscheduled") {
        let mut scheduled = condition("PodScheduled", false);
        scheduled["message"] = line.said.into();
        return json!({ "phase": "Pending", "conditions": [scheduled] });
    }
    let ready = line.has("ready");
    let waiting = |reason: &str| json!({ "waiting": { "reason": reason, "message": line.said } });
    let state = match line.words[0] {
        "ready" | "unready" => json!({ "running": { "startedAt": line.since() } }),
        "not-pulled" => waiting("ErrImagePull"),
        "crashes" | "killed" => waiting("CrashLoopBackOff"),
        "starting" => waiting("ContainerCreating"),
        other => panic!("what is {other}?"),
    };
    let last = match line.words[0] {
        "crashes" => json!({ "terminated": { "exitCode": 1, "reason": "Error" } }),
        "killed" => json!({ "terminated": { "exitCode": 137, "reason": "Error" } }),
        _ => json!({}),
    };
    let phase = if state["running"].is_null() {
        "Pending"
    } else {
        "Running"
    };
    json!({
        "phase": phase,
        "startTime": ago(line.number("started").or(line.number("since")).unwrap_or(100)),
        "conditions": [condition("Ready", ready), condition("PodScheduled", true)],
        "containerStatuses": [{ "name": "main", "image": "i", "imageID": "", "ready": ready,
            "restartCount": 0, "started": true, "state": state, "lastState": last }],
    })
}

/// `claim www-web-0 Pending class=fast selected=n1`
fn claim(line: &Line<'_>) -> Value {
    let phase = line.words[0];
    let mut claim = json!({
        "metadata": { "name": line.name, "namespace": "default",
            "uid": format!("uid-{}", line.name),
            "creationTimestamp": line.since(), "resourceVersion": "1", "annotations": {},
            "finalizers": ["kubernetes.io/pvc-protection"] },
        "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
            "storageClassName": line.get("class"), "volumeName": line.get("volume") },
        "status": { "phase": phase },
    });
    let annotations = &mut claim["metadata"]["annotations"];
    if phase != "Pending" {
        annotations["pv.kubernetes.io/bind-completed"] = "yes".into();
    }
    if let Some(node) = line.get("selected") {
        annotations["volume.kubernetes.io/selected-node"] = node.into();
    }
    if line.has("no-class") {
        claim["spec"]["storageClassName"] = "".into();
    }
    if line.has("terminating") {
        claim["metadata"]["deletionTimestamp"] = line.since();
    }
    claim
}

/// `event Pod/web-1 Unhealthy count=12 since=120 last=4 | Readiness probe failed`
fn event(line: &Line<'_>) -> Value {
    let (kind, name) = line.name.split_once('/').unwrap();
    let path = (kind == "Pod").then_some("spec.containers{main}");
    let path = path.filter(|_| !line.has("of-the-pod"));
    let uid = if kind == "StatefulSet" {
        "uid-web".to_owned()
    } else {
        format!("uid-{name}")
    };
    json!({
        "metadata": { "name": "e", "namespace": "default" },
        "involvedObject": { "kind": kind, "namespace": "default", "name": name, "uid": uid, "fieldPath": path },
        "type": "Warning",
        "reason": line.words[0],
        "message": line.said,
        "count": line.number("count").unwrap_or(1),
        "firstTimestamp": line.since(),
        "lastTimestamp": ago(line.number("last").unwrap_or(5)),
    })
}

fn node(line: &Line<'_>) -> Value {
    let status = if line.has("lost") { "Unknown" } else { "True" };
    let taints = line
        .get("taint")
        .map(|key| json!([{ "key": key, "effect": "NoSchedule" }]));
    json!({
        "metadata": { "name": line.name },
        "spec": { "unschedulable": line.has("cordoned"), "taints": taints },
        "status": { "conditions": [{ "type": "Ready", "status": status, "message": line.said,
            "reason": "NodeStatusUnknown", "lastTransitionTime": line.since() }] },
    })
}

fn class(line: &Line<'_>) -> Value {
    let mode = if line.has("waits") {
        "WaitForFirstConsumer"
    } else {
        "Immediate"
    };
    json!({
        "metadata": { "name": line.name },
        "provisioner": line.get("provisioner").unwrap_or("example.com/disks"),
        "volumeBindingMode": mode,
    })
}
