//! The time of a plan for a set: 1, 100 and 10,000 replicas in four situations.
//!
//! `cargo bench -p controller-planners --bench stateful_set`. Prints the median and the 99th percentile of a
//! plan, and the median per 1,000 replicas.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_planners::stateful_set::{Observed, identity, plan, revisions};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use resource_kinds::pod_view::Sharing;

const REPLICAS: [i32; 3] = [1, 100, 10_000];
/// Each situation is measured for about this long.
const ROUND: Duration = Duration::from_secs(1);
const PLANS_MIN: usize = 20;

type Situation = (&'static str, &'static str, fn(i32) -> Observed);

const SITUATIONS: [Situation; 4] = [
    ("all ready, nothing to do", "OrderedReady", all_ready),
    ("half made", "OrderedReady", half_created),
    (
        "half made, half of that starting",
        "Parallel",
        half_created_at_once,
    ),
    ("half updated", "OrderedReady", half_updated),
];

fn main() {
    println!("situation, policy, replicas: median, p99 of a plan; median per 1,000 replicas");
    for (situation, policy, observe) in SITUATIONS {
        for replicas in REPLICAS {
            let observed = observe(replicas);
            let times = measure(&observed);
            let median = times[times.len() / 2];
            let p99 = times[times.len() * 99 / 100];
            let per_thousand = median * 1000 / replicas.unsigned_abs();
            println!(
                "{situation}, {policy}, {replicas}: {median:.1?}, {p99:.1?}; {per_thousand:.1?}"
            );
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

fn measure(observed: &Observed) -> Vec<Duration> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < PLANS_MIN || begun.elapsed() < ROUND {
        let start = Instant::now();
        black_box(plan(black_box(observed), now()).expect("a plan"));
        times.push(start.elapsed());
    }
    times.sort();
    times
}

fn all_ready(replicas: i32) -> Observed {
    let observed = settled(observed_set("OrderedReady", replicas, replicas, |_| {
        ("a", true)
    }));
    assert!(
        plan(&observed, now()).expect("a plan").is_idle(),
        "there is nothing to do"
    );
    observed
}

fn half_created(replicas: i32) -> Observed {
    settled(observed_set("OrderedReady", replicas, replicas / 2, |_| {
        ("a", true)
    }))
}

fn half_created_at_once(replicas: i32) -> Observed {
    let ready = replicas / 4;
    let observed = observed_set("Parallel", replicas, replicas / 2, |ordinal| {
        ("a", ordinal < ready)
    });
    settled(observed)
}

fn half_updated(replicas: i32) -> Observed {
    let image = |ordinal| if ordinal < replicas / 2 { "a" } else { "b" };
    let mut observed = observed_set("OrderedReady", replicas, replicas, |ordinal| {
        (image(ordinal), true)
    });
    let mut set = (*observed.set).clone();
    let spec = set.spec.as_mut().expect("a specification");
    spec.template = template("b");
    observed.set = Arc::new(set);
    observed.revisions.push(Arc::new(revision("b", 2)));
    settled(observed)
}

/// The observed state after the status of a first plan is stored.
fn settled(mut observed: Observed) -> Observed {
    if let Some(status) = plan(&observed, now()).expect("a plan").status {
        let mut set = (*observed.set).clone();
        set.status = Some(status);
        observed.set = Arc::new(set);
    }
    observed
}

/// A set and its first pods with their claims; each pod is given by its image and its readiness.
fn observed_set(
    policy: &str,
    replicas: i32,
    existing: i32,
    pod: impl Fn(i32) -> (&'static str, bool),
) -> Observed {
    let set = set(policy, replicas);
    let mut claims = BTreeMap::new();
    let mut pods = Vec::new();
    // A watch cache stores equal parts of objects once.
    let mut sharing = Sharing::default();
    for ordinal in 0..existing {
        let (image, ready) = pod(ordinal);
        pods.push(Arc::new(
            sharing
                .pod(&created_pod(&set, ordinal, image, ready))
                .expect("a pod"),
        ));
        let name = identity::claim_name("data", "web", i64::from(ordinal));
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some(name.clone());
        claim.metadata.namespace = Some("default".to_owned());
        claim.metadata.uid = Some(format!("uid-{name}"));
        claim.metadata.resource_version = Some("1".to_owned());
        claims.insert(name, Arc::new(claim));
    }
    Observed {
        set: Arc::new(set),
        pods,
        revisions: vec![Arc::new(revision("a", 1))],
        claims,
        policy: None,
        group: Vec::new(),
        refused: Vec::new(),
    }
}

fn set(policy: &str, replicas: i32) -> StatefulSet {
    let set = json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "uid-web", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "serviceName": "web",
            "podManagementPolicy": policy,
            "selector": { "matchLabels": { "app": "web" } },
            "template": template("a"),
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
        },
        "status": { "replicas": 0, "currentRevision": revision_name("a") },
    });
    json_tree::from_value(set).expect("a set")
}

fn template(image: &str) -> k8s_openapi::api::core::v1::PodTemplateSpec {
    let template = json!({
        "metadata": { "labels": { "app": "web", "tier": "store" } },
        "spec": { "containers": [{
            "name": "main", "image": image, "ports": [{ "containerPort": 80 }],
            "env": [{ "name": "MODE", "value": "fast" }],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            "readinessProbe": { "httpGet": { "path": "/", "port": 80 } },
        }] },
    });
    json_tree::from_value(template).expect("a template")
}

fn revision_name(image: &str) -> String {
    let bytes = revisions::bytes(&revisions::encode(&template(image)));
    revisions::name("web", &revisions::hash(&bytes, Some(0)))
}

fn revision(image: &str, number: i64) -> ControllerRevision {
    let mut revision = ControllerRevision {
        revision: number,
        data: Some(RawExtension(revisions::encode(&template(image)))),
        ..ControllerRevision::default()
    };
    revision.metadata.name = Some(revision_name(image));
    revision.metadata.namespace = Some("default".to_owned());
    revision.metadata.uid = Some(format!("uid-{image}"));
    revision.metadata.owner_references =
        Some(vec![identity::owner_reference(&set("", 0)).expect("a set")]);
    revision
}

fn created_pod(set: &StatefulSet, ordinal: i32, image: &str, ready: bool) -> Pod {
    let revision = revision_name(image);
    let mut pod =
        identity::pod(set, &template(image), i64::from(ordinal), &revision).expect("a pod");
    let earlier = Time(Timestamp::from_second(1_700_000_000).expect("a time"));
    pod.metadata.uid = Some(format!("uid-{ordinal}"));
    pod.metadata.creation_timestamp = Some(earlier.clone());
    pod.spec.as_mut().expect("a specification").node_name = Some("node-1".to_owned());
    let condition = |kind: &str, status: bool| PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(earlier.clone()),
        ..PodCondition::default()
    };
    pod.status = Some(PodStatus {
        phase: Some(if ready { "Running" } else { "Pending" }.to_owned()),
        start_time: Some(earlier.clone()),
        conditions: Some(vec![
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ]),
        ..PodStatus::default()
    });
    pod
}
