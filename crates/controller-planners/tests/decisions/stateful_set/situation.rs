//! A small language for sets, pods, claims and revisions, so that a situation fits on a few lines.
//!
//! Revisions are named by the image of their template: `a`, `b`, ….

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::stateful_set::{
    ActionKind, ActionTarget, ClaimEdit, GroupMember, Observed, Refused, StatefulSetAction,
    StatefulSetPlan, identity, revisions,
};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use resource_kinds::pod_view::PodView;

use super::policy_words::policy;

pub const SET_UID: &str = "uid-web";

pub fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> String {
    now()
        .checked_sub(SignedDuration::from_secs(seconds))
        .unwrap()
        .to_string()
}

pub fn template(image: &str) -> PodTemplateSpec {
    let template = json!({
        "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "main", "image": image }] },
    });
    json_tree::from_value(template).unwrap()
}

pub fn revision_name(image: &str) -> String {
    let bytes = revisions::bytes(&revisions::encode(&template(image)));
    revisions::name("web", &revisions::hash(&bytes, Some(0)))
}

pub fn revision(image: &str, number: i64) -> ControllerRevision {
    let mut revision = ControllerRevision::default();
    revision.metadata.name = Some(revision_name(image));
    revision.metadata.namespace = Some("default".to_owned());
    revision.metadata.uid = Some(format!("uid-revision-{image}"));
    revision.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    revision.metadata.owner_references = Some(vec![set_owner(SET_UID)]);
    revision.revision = number;
    revision.data = Some(RawExtension(revisions::encode(&template(image))));
    revision
}

fn set_owner(uid: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
    json_tree::from_value(owner("apps/v1", "StatefulSet", "web", uid)).unwrap()
}

fn owner(api: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({ "apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true,
        "blockOwnerDeletion": true })
}

/// Words of the form `key` or `key=value`.
pub struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    pub fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub fn number(&self, key: &str) -> Option<i64> {
        self.get(key).map(|text| text.parse().unwrap())
    }
}

/// The complete Pod objects of a situation.
pub fn pods(text: &str) -> Vec<Pod> {
    let lines = text.lines().map(|line| line.split_whitespace().collect());
    let words = lines.filter_map(|words: Vec<&str>| {
        let (kind, words) = words.split_first()?;
        (*kind == "pod").then(|| Words(words.to_vec()))
    });
    words.map(|words| pod(&words)).collect()
}

/// Parses a situation; panics on unknown words, because the text is part of a test.
pub fn parse(text: &str) -> Observed {
    let mut observed = Observed::default();
    let (mut numbered, mut rejected) = (Vec::new(), Vec::new());
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap();
        let words = Words(words.collect());
        match kind {
            "set" => {
                observed.set = Arc::new(set(&words));
                observed.policy = policy(&words);
            }
            "pod" => observed
                .pods
                .push(Arc::new(PodView::try_from(&pod(&words)).unwrap())),
            "other" => observed.group.push(other(&words)),
            "claim" => {
                let claim = claim(&words);
                let name = claim.metadata.name.clone().unwrap();
                observed.claims.insert(name, Arc::new(claim));
            }
            "revisions" => {
                for word in &words.0 {
                    // `b=2!` is rejected.
                    let (image, number) = word.split_once('=').unwrap();
                    let number = number.trim_end_matches('!');
                    numbered.push((image.to_owned(), number.parse().unwrap()));
                    rejected.extend(word.ends_with('!').then(|| image.to_owned()));
                }
            }
            "collision" => {
                let mut revision = revision("other", 1);
                revision.metadata.name = Some(revision_name(words.0[0]));
                revision.metadata.owner_references = Some(vec![set_owner("uid-other")]);
                observed.revisions.push(Arc::new(revision));
            }
            // `refused create pod web-0: exceeded quota`
            "refused" => {
                let (action, message) = line[kind.len() + 1..].split_once(": ").unwrap();
                let pod = action.strip_prefix("create pod ").unwrap();
                observed.refused.push(Refused {
                    action: ActionTarget {
                        kind: ActionKind::CreatePod,
                        name: pod.to_owned(),
                    },
                    message: message.to_owned(),
                });
            }
            "orphan-revision" => {
                let mut revision = revision(words.0[0], words.number("number").unwrap());
                revision.metadata.owner_references = None;
                observed.revisions.push(Arc::new(revision));
            }
            other => panic!("what is {other}?"),
        }
    }
    for (image, number) in numbered {
        let mut revision = revision(&image, number);
        if rejected.contains(&image) {
            let evidence = ("apps.mainstay.dev/rejected".to_owned(), "{}".to_owned());
            revision.metadata.annotations = Some([evidence].into());
        }
        observed.revisions.push(Arc::new(revision));
    }
    observed
}

fn set(words: &Words<'_>) -> StatefulSet {
    let image = words.get("template").unwrap_or("a");
    let current = words.get("current").unwrap_or(image);
    let mut rolling = json!({ "partition": words.number("partition").unwrap_or(0) });
    if let Some(max) = words.get("max") {
        rolling["maxUnavailable"] = max
            .parse::<i64>()
            .map_or_else(|_| Value::from(max), Value::from);
    }
    let strategy = if words.has("on-delete") {
        json!({ "type": "OnDelete" })
    } else if words.has("bare-rolling-update") {
        json!({ "type": "RollingUpdate" })
    } else {
        json!({ "type": "RollingUpdate", "rollingUpdate": rolling })
    };
    let claims: Vec<Value> = words
        .get("claims")
        .iter()
        .flat_map(|names| names.split(','))
        .map(|name| json!({ "metadata": { "name": name }, "spec": sized(words) }))
        .collect();
    let mut set = json!({
        "metadata": { "name": "web", "namespace": "default", "uid": SET_UID, "generation": 1,
            "resourceVersion": "1" },
        "spec": {
            "replicas": words.number("replicas").unwrap_or(1),
            "selector": { "matchLabels": { "app": "web" } },
            "serviceName": "svc",
            "template": template(image),
            "updateStrategy": strategy,
            "podManagementPolicy": if words.has("parallel") { "Parallel" } else { "OrderedReady" },
            "minReadySeconds": words.number("min-ready").unwrap_or(0),
            "revisionHistoryLimit": words.number("limit").unwrap_or(10),
            "volumeClaimTemplates": claims,
            "ordinals": { "start": words.number("start").unwrap_or(0) },
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": words.get("deleted").unwrap_or("Retain"),
                "whenScaled": words.get("scaled").unwrap_or("Retain"),
            },
        },
        "status": { "replicas": 0, "currentRevision": revision_name(current),
            "currentReplicas": words.number("current-replicas").unwrap_or(0) },
    });
    for option in [
        "stuck-rollout",
        "scale-down",
        "max-unavailable",
        "progress-deadline-seconds",
        "claim-updates",
    ] {
        if let Some(value) = words.get(option) {
            set["metadata"]["annotations"][format!("mainstay.dev/{option}")] = json!(value);
        }
    }
    if let Some(name) = words.get("removed") {
        let removed = json!([{"metadata": {"name": name}}]).to_string();
        set["metadata"]["annotations"]["apps.mainstay.dev/removed-claim-templates"] =
            removed.into();
    }
    if words.has("new") {
        set["status"] = json!({ "replicas": 0 });
    }
    if words.has("deleting") {
        set["metadata"]["deletionTimestamp"] = json!(ago(1));
    }
    json_tree::from_value(set).unwrap()
}

/// `other cache guard=Quorum replicas=3 ready=2`: another set of the group `bank`, with that number of ready pods.
fn other(words: &Words<'_>) -> GroupMember {
    let (name, ready) = (words.0[0], words.number("ready").unwrap());
    let mut set = StatefulSet::default();
    set.metadata.name = Some(name.to_owned());
    set.metadata.uid = Some(format!("uid-{name}"));
    set.spec.get_or_insert_default().replicas = words
        .number("replicas")
        .map(|number| number.try_into().unwrap());
    let mut spec = words.0.clone();
    spec.push("group=bank");
    let pods = (0..ready).map(|ordinal| {
        let ordinal = ordinal.to_string();
        let mut pod = pod(&Words(vec![&ordinal, "ready", "a"]));
        pod.metadata.name = Some(format!("{name}-{ordinal}"));
        pod.metadata.uid = pod.metadata.name.clone();
        let owner = owner("apps/v1", "StatefulSet", name, &format!("uid-{name}"));
        pod.metadata.owner_references = Some(vec![json_tree::from_value(owner).unwrap()]);
        Arc::new(PodView::try_from(&pod).unwrap())
    });
    GroupMember {
        pods: pods.collect(),
        set: Arc::new(set),
        policy: policy(&Words(spec)).unwrap(),
    }
}

/// `pod 1 ready a since=30 terminating`
fn pod(words: &Words<'_>) -> Pod {
    let ordinal: i64 = words.0[0].parse().unwrap();
    let (state, image) = (words.0[1], words.0[2]);
    let name = identity::pod_name("web", ordinal);
    let mut labels = identity::pod_labels("web", ordinal, &revision_name(image));
    labels.insert(
        "app".to_owned(),
        words.get("app").unwrap_or("web").to_owned(),
    );
    if words.has("nameless") {
        labels.remove("statefulset.kubernetes.io/pod-name");
    }
    if let Some(role) = words.get("role") {
        labels.insert("role".to_owned(), role.to_owned());
    }
    if let Some(zone) = words.get("zone") {
        labels.insert("topology.kubernetes.io/zone".to_owned(), zone.to_owned());
    }
    let owners = if words.has("orphan") {
        json!([])
    } else if words.has("foreign") {
        json!([owner("apps/v1", "ReplicaSet", "other", "uid-other")])
    } else {
        json!([owner("apps/v1", "StatefulSet", "web", SET_UID)])
    };
    let phase = match state {
        "ready" | "running" => "Running",
        "failed" => "Failed",
        "succeeded" => "Succeeded",
        "pending" => "Pending",
        other => panic!("what is {other}?"),
    };
    let since = words.number("since").unwrap_or(100);
    let started = if words.has("was-ready") {
        since + 600
    } else {
        since
    };
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "labels": labels,
            "uid": format!("uid-{name}"), "ownerReferences": owners, "resourceVersion": "1" },
        "status": {
            "phase": phase,
            "startTime": ago(started),
            "conditions": [{
                "type": "Ready",
                "status": if state == "ready" { "True" } else { "False" },
                "lastTransitionTime": ago(since),
            }],
        },
    });
    if words.has("silent-node") {
        let containers = json!({ "type": "ContainersReady", "status": "True" });
        let conditions = pod["status"]["conditions"].as_array_mut();
        conditions.unwrap().push(containers);
    }
    // `hold=Update held=30 done`: the hook `drain` began 30 seconds ago.
    if let Some(purpose) = words.get("hold") {
        let since = ago(words.number("held").unwrap_or(30));
        let until = ago(words.number("held").unwrap_or(30) - 60);
        let purpose_and = format!("{purpose}/drain/{since}");
        let hold = json!({ "id": purpose_and, "purpose": purpose, "hook": "drain", "since": since,
            "until": until, "requested": (purpose == "Evict").then_some(since),
            "cancels": words.has("cancelling"), "exec": { "command": ["drain"] } });
        pod["metadata"]["annotations"] = json!({ "node.mainstay.dev/hook": hold.to_string() });
        if words.has("done") {
            let done = json!({ "type": "mainstay.dev/HookDone", "status": "True",
                "message": purpose_and });
            let conditions = pod["status"]["conditions"].as_array_mut();
            conditions.unwrap().push(done);
        }
    }
    if words.has("terminating") {
        pod["metadata"]["deletionTimestamp"] = json!(ago(1));
    }
    json_tree::from_value(pod).unwrap()
}

/// The specification of a claim or of its template, of `size=2` GiB.
fn sized(words: &Words<'_>) -> Value {
    match words.get("size") {
        Some(size) => json!({"resources": {"requests": {"storage": format!("{size}Gi")}}}),
        None => json!({}),
    }
}

/// `claim www-web-0 owner=set size=2 volume=1 failed`
fn claim(words: &Words<'_>) -> PersistentVolumeClaim {
    let name = words.0[0];
    let (_, ordinal) = name.rsplit_once('-').unwrap();
    let pod = format!("web-{ordinal}");
    let owners: Vec<Value> = words
        .get("owner")
        .iter()
        .flat_map(|owners| owners.split(','))
        .map(|who| match who {
            "set" => owner("apps/v1", "StatefulSet", "web", SET_UID),
            "old-set" => owner("apps/v1", "StatefulSet", "web", "uid-of-old-set"),
            "pod" => owner("v1", "Pod", &pod, &format!("uid-{pod}")),
            "old-pod" => owner("v1", "Pod", &pod, "uid-of-old-pod"),
            "foreign" => owner("example.com/v1", "Backup", "b", "uid-b"),
            other => panic!("who is {other}?"),
        })
        .collect();
    let mut claim = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "ownerReferences": owners, "resourceVersion": "1" },
        "spec": sized(words),
    });
    if let Some(size) = words.get("volume") {
        let capacity = json!({"storage": format!("{size}Gi")});
        claim["status"] = json!({"phase": "Bound", "capacity": capacity});
    }
    if words.has("failed") {
        let failed = json!({"type": "NodeResizeError", "status": "True"});
        claim["status"]["conditions"] = json!([failed]);
    }
    if words.has("terminating") {
        claim["metadata"]["deletionTimestamp"] = json!(ago(1));
    }
    json_tree::from_value(claim).unwrap()
}

/// The image of a revision, from its name.
fn image_of(name: &str) -> String {
    let images = ["a", "b", "c", "d", "e", "f"];
    let matching = images
        .into_iter()
        .find(|image| revision_name(image) == name);
    matching.map_or_else(|| name.to_owned(), str::to_owned)
}

/// A plan as text, one line for each action, event and reason.
pub fn describe(plan: &StatefulSetPlan) -> String {
    let mut lines: Vec<String> = plan.actions().map(action).collect();
    lines.extend(plan.notices.iter().map(|notice| {
        let level = if notice.warning { "warning" } else { "normal" };
        format!("{level} {}: {}", notice.reason, notice.message)
    }));
    lines.extend(plan.waiting_on.iter().map(|waiting| match waiting.ordinal {
        Some(ordinal) => format!("{ordinal} waits: {}", waiting.cause),
        None => format!("waits: {}", waiting.cause),
    }));
    if let Some(delay) = plan.requeue_after {
        lines.push(format!("again after {} s", delay.as_secs()));
    }
    if let Some(status) = &plan.status {
        let number = |value: Option<i32>| value.unwrap_or_default();
        let name = |name: &Option<String>| image_of(name.as_deref().unwrap_or_default());
        lines.push(format!(
            "status: {} pods, {} ready, {} available, {} current of {}, {} updated of {}{}",
            status.replicas,
            number(status.ready_replicas),
            number(status.available_replicas),
            number(status.current_replicas),
            name(&status.current_revision),
            number(status.updated_replicas),
            name(&status.update_revision),
            status
                .collision_count
                .map_or(String::new(), |count| format!(", {count} collisions")),
        ));
        lines.extend(conditions(status));
    }
    if plan.is_idle() {
        lines.push("nothing to do".to_owned());
    }
    lines.join("\n")
}

/// The conditions `Progressing` and `Stalled`. `Available` is left out, because it follows from the counts.
fn conditions(status: &StatefulSetStatus) -> Vec<String> {
    let conditions = status.conditions.iter().flatten();
    let reported = conditions.filter(|condition| match condition.type_.as_str() {
        "Available" => false,
        "Stalled" => condition.status == "True",
        _ => true,
    });
    reported
        .map(|condition| {
            let reason = condition.reason.as_deref().unwrap_or_default();
            let message = condition.message.as_deref().unwrap_or_default();
            let readable = message
                .split(' ')
                .map(|word| match word.trim_end_matches(':') {
                    name if name.starts_with("web-") => word.replace(name, &image_of(name)),
                    _ => word.to_owned(),
                });
            let message = readable.collect::<Vec<_>>().join(" ");
            format!(
                "{}={} {reason}: {message}",
                condition.type_, condition.status
            )
        })
        .collect()
}

fn action(action: &StatefulSetAction) -> String {
    match action {
        StatefulSetAction::ConfirmSet => "confirm set".to_owned(),
        StatefulSetAction::AdoptRevision { name, .. } => {
            format!("adopt revision {}", image_of(name))
        }
        StatefulSetAction::AdoptPod { name, .. } => format!("adopt {name}"),
        StatefulSetAction::ReleasePod { name, .. } => format!("release {name}"),
        StatefulSetAction::CreateRevision(revision) => {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            format!(
                "create revision {} as number {}",
                image_of(name),
                revision.revision
            )
        }
        StatefulSetAction::RenumberRevision { name, revision, .. } => {
            format!("renumber revision {} to {revision}", image_of(name))
        }
        StatefulSetAction::RejectRevision { name, .. } => {
            format!("reject revision {}", image_of(name))
        }
        StatefulSetAction::RecordStep { name, record, .. } => {
            format!("record step {} of {}", record.passed, image_of(name))
        }
        StatefulSetAction::DeleteRevision { name, .. } => {
            format!("delete revision {}", image_of(name))
        }
        StatefulSetAction::CreateClaim(claim) => {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            format!(
                "create claim {name}{}",
                owners(claim.metadata.owner_references.as_deref())
            )
        }
        StatefulSetAction::SetClaimOwners {
            name, owners: list, ..
        } => {
            let text = owners(Some(list));
            format!(
                "claim {name} {}",
                if text.is_empty() {
                    " owned by nobody"
                } else {
                    &text
                }
            )
            .replace("  ", " ")
        }
        StatefulSetAction::EditClaim { name, edit, .. } => {
            let words = match &**edit {
                ClaimEdit::Volume(edit) => {
                    let sizes = edit.storage.iter().map(|size| format!(" size={size}"));
                    let class = edit.attributes_class.iter();
                    let class = class.map(|class| format!(" attributes={class}"));
                    sizes.chain(class).collect::<Vec<_>>()
                }
                ClaimEdit::Metadata(edit) => {
                    let pairs = edit.labels.iter().chain(&edit.annotations);
                    let pairs = pairs.map(|(key, value)| match value {
                        Some(value) => format!(" {key}={value}"),
                        None => format!(" -{key}"),
                    });
                    pairs.collect()
                }
            };
            format!("edit claim {name}{}", words.concat())
        }
        StatefulSetAction::CreatePod(pod) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let labels = pod.metadata.labels.as_ref().unwrap();
            let image = pod.spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap();
            let revision = image_of(&labels["controller-revision-hash"]);
            if revision == image {
                format!("create {name} at {image}")
            } else {
                format!("create {name} with image {image} at {revision}")
            }
        }
        StatefulSetAction::LabelPod { name, .. } => format!("label {name}"),
        StatefulSetAction::AnnotatePod {
            name, annotations, ..
        } => {
            let keys = annotations.iter().map(|(key, value)| match value {
                Some(_) => (*key).to_owned(),
                None => format!("-{key}"),
            });
            format!("annotate {name} {}", keys.collect::<Vec<_>>().join(" "))
        }
        StatefulSetAction::DeletePod { name, .. } => format!("delete {name}"),
        StatefulSetAction::EvictPod { name, purpose, .. } => {
            format!("evict {name} for {}", purpose.as_str())
        }
    }
}

fn owners(
    owners: Option<&[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]>,
) -> String {
    let names: Vec<String> = owners
        .unwrap_or_default()
        .iter()
        .map(|owner| format!("{} {}", owner.kind, owner.name))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" owned by {}", names.join(", "))
    }
}
