//! DaemonSets: one pod for each eligible node, replaced within the limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::daemon_set::{DaemonSetPlan, NodeFit, Observed, RevisionAction, plan};
use controller_planners::pod_set::PodAction;
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

struct Cluster {
    observed: Observed,
    pods: Vec<Pod>,
    now: Timestamp,
    created: usize,
}

impl Cluster {
    fn new(nodes: usize, strategy: Value) -> Self {
        let set = json!({"metadata": {"name": "agent", "namespace": "d", "uid": "u",
                "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "updateStrategy": strategy,
                "revisionHistoryLimit": 1,
                "template": {"metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "c", "image": "a"}]}}}});
        let set: DaemonSet = json_tree::from_value(set).unwrap();
        let mut cluster = Self {
            observed: Observed {
                set: Arc::new(set),
                ..Observed::default()
            },
            pods: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            created: 0,
        };
        for node in 0..nodes {
            cluster.fit(node, true, true);
        }
        cluster
    }

    fn fit(&mut self, node: usize, starts: bool, stays: bool) {
        let name = format!("n{node}");
        self.observed.nodes.insert(name, NodeFit { starts, stays });
    }

    fn set_image(&mut self, image: &str) {
        let mut set = (*self.observed.set).clone();
        let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
        *set.metadata.generation.as_mut().unwrap() += 1;
        self.observed.set = Arc::new(set);
    }

    fn plan(&self) -> DaemonSetPlan {
        let mut observed = self.observed.clone();
        observed.pods = self
            .pods
            .iter()
            .map(|pod| Arc::new(pod.try_into().unwrap()))
            .collect();
        plan(&observed, self.now).unwrap()
    }

    /// Executes a plan; deleted pods are removed at once.
    fn step(&mut self) {
        let plan = self.plan();
        for action in plan.revisions.into_iter().chain(plan.cleanup) {
            self.revise(action);
        }
        for action in plan.pods {
            match action {
                PodAction::Create(pod) => {
                    self.created += 1;
                    let mut pod = *pod;
                    pod.metadata.uid = Some(format!("pod-{}", self.created));
                    pod.metadata.resource_version = Some(self.created.to_string());
                    pod.metadata.creation_timestamp = Some(Time(self.now));
                    self.pods.push(pod);
                }
                PodAction::Delete { uid, .. } => {
                    let other = |pod: &Pod| pod.metadata.uid.as_deref() != Some(uid.as_str());
                    self.pods.retain(other);
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        if let Some(status) = plan.status {
            let mut set = (*self.observed.set).clone();
            set.status = Some(status);
            self.observed.set = Arc::new(set);
        }
        self.now += SignedDuration::from_secs(1);
    }

    fn revise(&mut self, action: RevisionAction) {
        match action {
            RevisionAction::Create(mut revision) => {
                revision.metadata.uid = revision.metadata.name.clone();
                self.observed.revisions.push(Arc::from(revision));
            }
            RevisionAction::Renumber { uid, revision, .. } => {
                for stored_revision in &mut self.observed.revisions {
                    if stored_revision.metadata.uid.as_deref() == Some(uid.as_str()) {
                        Arc::make_mut(stored_revision).revision = revision;
                    }
                }
            }
            RevisionAction::Delete { uid, .. } => {
                let revisions = &mut self.observed.revisions;
                revisions.retain(|revision| revision.metadata.uid.as_deref() != Some(uid.as_str()));
            }
            RevisionAction::Adopt { .. } => panic!("no orphans here"),
        }
    }

    /// Makes all pods ready, except pods of the image `bad`.
    fn start_pods(&mut self) {
        for pod in &mut self.pods {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone();
            let ready = if image.as_deref() == Some("bad") {
                "False"
            } else {
                "True"
            };
            let status = json!({"phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}]});
            pod.status = Some(json_tree::from_value(status).unwrap());
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if self.plan().is_idle() {
                return;
            }
            self.step();
            self.start_pods();
        }
        panic!("does not settle: {:?}", self.plan());
    }

    /// The node and the image of each pod.
    fn shows(&self) -> String {
        let mut all: Vec<String> = self
            .pods
            .iter()
            .map(|pod| {
                let spec = json_tree::to_value(pod.spec.as_ref().unwrap()).unwrap();
                let terms = &spec["affinity"]["nodeAffinity"]
                    ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
                let node = terms[0]["matchFields"][0]["values"][0].as_str().unwrap();
                format!("{node}:{}", spec["containers"][0]["image"].as_str().unwrap())
            })
            .collect();
        all.sort();
        all.join(" ")
    }

    /// The number of existing, ready pods.
    fn available(&self) -> usize {
        let ready = |pod: &&Pod| {
            let status = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref());
            status.is_some_and(|conditions| conditions[0].status == "True")
        };
        self.pods.iter().filter(ready).count()
    }
}

#[test]
fn each_node_that_takes_one_has_a_pod() {
    let mut cluster = Cluster::new(2, json!({}));
    cluster.fit(2, false, true);
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:a n1:a");
    let pod = &cluster.pods[0];
    let tolerations = pod.spec.as_ref().unwrap().tolerations.clone().unwrap();
    assert!(
        tolerations
            .iter()
            .any(|t| t.key.as_deref() == Some("node.kubernetes.io/not-ready"))
    );
    cluster.fit(0, false, true);
    cluster.fit(1, false, false);
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:a");
    let status = cluster.observed.set.status.clone().unwrap();
    assert_eq!(
        (status.desired_number_scheduled, status.number_misscheduled),
        (0, 1)
    );
}

#[test]
fn an_update_takes_one_away_at_a_time() {
    let mut cluster = Cluster::new(3, json!({}));
    cluster.settle();
    cluster.set_image("b");
    cluster.step();
    assert_eq!(cluster.shows(), "n1:a n2:a");
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:b n1:b n2:b");
    let status = cluster.observed.set.status.clone().unwrap();
    assert_eq!(status.updated_number_scheduled, Some(3));
    assert_eq!(cluster.observed.revisions.len(), 2);
}

/// A tainted node counts neither as unavailable nor in a percentage.
#[test]
fn nodes_that_take_no_pod_do_not_hold_up_an_update() {
    for limit in [json!(1), json!("34%")] {
        let mut cluster = Cluster::new(3, json!({"rollingUpdate": {"maxUnavailable": limit}}));
        for tainted in 3..6 {
            cluster.fit(tainted, false, true);
        }
        cluster.settle();
        cluster.set_image("b");
        cluster.step();
        assert_eq!(cluster.available(), if limit == 1 { 2 } else { 1 });
        cluster.settle();
        assert_eq!(cluster.shows(), "n0:b n1:b n2:b");
    }
}

#[test]
fn a_bad_template_stops_at_the_limit_and_is_put_right() {
    let mut cluster = Cluster::new(3, json!({"rollingUpdate": {"maxUnavailable": 1}}));
    cluster.settle();
    cluster.set_image("bad");
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:bad n1:a n2:a");
    cluster.set_image("a");
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:a n1:a n2:a");
    let numbers: Vec<i64> = cluster
        .observed
        .revisions
        .iter()
        .map(|r| r.revision)
        .collect();
    assert_eq!(numbers, [3, 2], "the old revision is the newest again");
}

#[test]
fn a_revision_without_a_hash_is_not_used() {
    let hash = |labels: &Option<BTreeMap<String, String>>| -> String {
        labels.as_ref().unwrap()["controller-revision-hash"].clone()
    };
    let empty = [("controller-revision-hash".to_owned(), String::new())];
    let mut cluster = Cluster::new(1, json!({"rollingUpdate": {"maxUnavailable": 1}}));
    cluster.settle();
    for labels in [None, Some(BTreeMap::from(empty))] {
        for revision in &mut cluster.observed.revisions {
            Arc::make_mut(revision).metadata.labels.clone_from(&labels);
        }
        cluster.settle();
        let revisions = cluster.observed.revisions.iter();
        let newest = revisions.max_by_key(|one| one.revision).unwrap();
        let newest = hash(&newest.metadata.labels);
        assert_ne!(newest, "");
        assert_eq!(hash(&cluster.pods[0].metadata.labels), newest);
        assert_eq!(cluster.shows(), "n0:a");
    }
}

#[test]
fn with_a_surge_nothing_is_missing() {
    let strategy = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let mut cluster = Cluster::new(2, strategy);
    cluster.settle();
    cluster.set_image("b");
    cluster.step();
    assert_eq!(cluster.shows(), "n0:a n0:b n1:a");
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:b n1:b");
}

#[test]
fn on_delete_somebody_else_deletes() {
    let mut cluster = Cluster::new(2, json!({"type": "OnDelete"}));
    cluster.settle();
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:a n1:a");
    cluster.pods.remove(0);
    cluster.settle();
    assert_eq!(cluster.shows(), "n0:b n1:a");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// For any templates, an update makes at most the allowed number of pods unavailable.
    #[test]
    fn an_update_keeps_within_its_limit(
        limit in 1_usize..4,
        steps in proptest::collection::vec((0..4_u8, prop_oneof![Just("b"), Just("c")]), 0..30)
    ) {
        let mut cluster = Cluster::new(5, json!({"rollingUpdate": {"maxUnavailable": limit}}));
        cluster.settle();
        for (step, image) in steps {
            match step {
                0 => cluster.set_image(image),
                1 => cluster.start_pods(),
                _ => cluster.step(),
            }
            prop_assert!(cluster.available() + limit >= 5, "{}", cluster.shows());
        }
        cluster.set_image("z");
        cluster.start_pods();
        cluster.settle();
        prop_assert_eq!(cluster.shows(), "n0:z n1:z n2:z n3:z n4:z");
    }
}
