//! Jobs: each pod is counted once, the limits are respected, and the job ends.

use std::sync::Arc;

use controller_planners::job::{JobPlan, Observed, orphaned, plan};
use controller_planners::pod_set::PodAction;
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

struct Cluster {
    observed: Observed,
    pods: Vec<Pod>,
    now: Timestamp,
    created: usize,
}

/// The part of a plan that is executed before the controller is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Upto {
    Nothing,
    Status,
    Release,
    All,
}

impl Cluster {
    fn new(more: Value) -> Self {
        let mut spec = json!({
            "parallelism": 1, "backoffLimit": 6,
            "selector": {"matchLabels": {"job": "u"}},
            "template": {"metadata": {"labels": {"job": "u"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let job = json!({"metadata": {"name": "pi", "namespace": "d", "uid": "u"}, "spec": spec});
        let job: Job = json_tree::from_value(job).unwrap();
        Self {
            observed: Observed {
                job: Arc::new(job),
                pods: Vec::new(),
            },
            pods: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            created: 0,
        }
    }

    fn plan(&self) -> JobPlan {
        let pods = self
            .pods
            .iter()
            .map(|pod| Arc::new(pod.try_into().unwrap()));
        let observed = Observed {
            job: self.observed.job.clone(),
            pods: pods.collect(),
        };
        plan(&observed, self.now).unwrap()
    }

    fn carry_out(&mut self, plan: JobPlan, upto: Upto) {
        if upto >= Upto::Status
            && let Some(status) = plan.status
        {
            let mut job = (*self.observed.job).clone();
            job.status = Some(status);
            self.observed.job = Arc::new(job);
        }
        if upto >= Upto::Release {
            plan.release.into_iter().for_each(|action| self.act(action));
        }
        if upto >= Upto::All {
            plan.pods.into_iter().for_each(|action| self.act(action));
        }
    }

    fn act(&mut self, action: PodAction) {
        let now = self.now;
        match action {
            PodAction::Create(pod) => {
                self.created += 1;
                let mut pod = *pod;
                pod.metadata.uid = Some(format!("pod-{}", self.created));
                pod.metadata.resource_version = Some(self.created.to_string());
                pod.metadata.creation_timestamp = Some(Time(now));
                self.pods.push(pod);
            }
            PodAction::Delete { uid, .. } => {
                let pod = self.pod(uid.as_str());
                pod.metadata.deletion_timestamp = Some(Time(now));
            }
            PodAction::SetFinalizers {
                uid, finalizers, ..
            } => {
                self.pod(uid.as_str()).metadata.finalizers = Some(finalizers);
            }
            other => panic!("unexpected: {other:?}"),
        }
        self.collect();
    }

    /// Removes deleted pods without finalizers.
    fn collect(&mut self) {
        self.pods.retain(|pod| {
            let has_finalizer = pod.metadata.finalizers.iter().flatten().next().is_some();
            has_finalizer || pod.metadata.deletion_timestamp.is_none()
        });
    }

    fn pod(&mut self, uid: &str) -> &mut Pod {
        let pods = self.pods.iter_mut();
        let mut matching = pods.filter(|pod| pod.metadata.uid.as_deref() == Some(uid));
        matching.next().unwrap()
    }

    fn running(&self) -> Vec<String> {
        let pods = self.pods.iter().filter(|pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            pod.metadata.deletion_timestamp.is_none()
                && !matches!(phase, Some("Succeeded" | "Failed"))
        });
        pods.map(|pod| pod.metadata.uid.clone().unwrap()).collect()
    }

    fn end(&mut self, uid: &str, well: bool, code: i32) {
        let phase = if well { "Succeeded" } else { "Failed" };
        let status = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "",
            "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {
                "exitCode": code, "finishedAt": self.now}}}]});
        self.pod(uid).status = Some(json_tree::from_value(status).unwrap());
    }

    fn step(&mut self) {
        let plan = self.plan();
        self.carry_out(plan, Upto::All);
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if self.plan().is_idle() {
                return;
            }
            self.step();
        }
        panic!("does not settle: {:?}", self.plan());
    }

    fn condition(&self) -> Vec<String> {
        let status = self.observed.job.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default().into_iter();
        let true_conditions = conditions.filter(|c| c.status == "True");
        true_conditions
            .map(|c| format!("{} {}", c.type_, c.reason.unwrap_or_default()))
            .collect()
    }

    fn counts(&self) -> (i32, i32) {
        let status = self.observed.job.status.clone().unwrap_or_default();
        (
            status.succeeded.unwrap_or_default(),
            status.failed.unwrap_or_default(),
        )
    }
}

#[test]
fn pods_run_until_enough_have_succeeded() {
    let mut cluster = Cluster::new(json!({"completions": 3, "parallelism": 2}));
    cluster.step();
    assert_eq!(cluster.running().len(), 2);
    for _ in 0..3 {
        let first = cluster.running()[0].clone();
        cluster.end(&first, true, 0);
        cluster.settle();
    }
    assert_eq!(cluster.counts(), (3, 0));
    assert_eq!(cluster.created, 3);
    assert_eq!(
        cluster.condition(),
        [
            "SuccessCriteriaMet CompletionsReached",
            "Complete CompletionsReached"
        ]
    );
    let status = cluster.observed.job.status.clone().unwrap();
    assert!(status.completion_time.is_some() && status.start_time.is_some());
}

#[test]
fn failures_are_tried_again_later_each_time_and_not_for_ever() {
    let mut cluster = Cluster::new(json!({"backoffLimit": 2}));
    for wait in [10, 20] {
        cluster.settle();
        let first = cluster.running()[0].clone();
        cluster.end(&first, false, 1);
        cluster.settle();
        assert!(cluster.running().is_empty());
        assert_eq!(cluster.plan().requeue_after.unwrap().as_secs(), wait);
        cluster.now += SignedDuration::from_secs(i64::try_from(wait).unwrap());
    }
    cluster.settle();
    let last = cluster.running()[0].clone();
    cluster.end(&last, false, 1);
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 3));
    assert_eq!(
        cluster.condition(),
        [
            "FailureTarget BackoffLimitExceeded",
            "Failed BackoffLimitExceeded"
        ]
    );
}

#[test]
fn a_job_has_a_deadline_and_an_end_of_its_own() {
    let mut cluster =
        Cluster::new(json!({"activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 5}));
    cluster.settle();
    assert_eq!(cluster.plan().requeue_after.unwrap().as_secs(), 30);
    cluster.now += SignedDuration::from_secs(30);
    cluster.settle();
    assert_eq!(cluster.condition()[1], "Failed DeadlineExceeded");
    assert_eq!(cluster.plan().requeue_after.unwrap().as_secs(), 5);
    cluster.now += SignedDuration::from_secs(5);
    assert!(cluster.plan().expired);
}

#[test]
fn a_suspended_job_stops_and_starts_its_clock_anew() {
    let mut cluster = Cluster::new(json!({"suspend": true}));
    cluster.settle();
    assert_eq!(
        (cluster.created, cluster.condition()),
        (0, vec!["Suspended JobSuspended".to_owned()])
    );
    let mut job = (*cluster.observed.job).clone();
    job.spec.as_mut().unwrap().suspend = Some(false);
    cluster.observed.job = Arc::new(job);
    cluster.settle();
    assert_eq!(cluster.running().len(), 1);
    assert!(
        cluster
            .observed
            .job
            .status
            .as_ref()
            .unwrap()
            .start_time
            .is_some()
    );
}

#[test]
fn each_index_has_one_pod() {
    let more = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    let mut cluster = Cluster::new(more);
    cluster.settle();
    let pods = cluster.pods.clone();
    let index = |pod: &Pod| {
        pod.metadata.labels.as_ref().unwrap()["batch.kubernetes.io/job-completion-index"].clone()
    };
    let indexes: Vec<String> = pods.iter().map(index).collect();
    assert_eq!(indexes, ["0", "1", "2"]);
    assert!(pods[1].metadata.name.as_ref().unwrap().starts_with("pi-1-"));
    let variable = pods[1].spec.as_ref().unwrap().containers[0]
        .env
        .clone()
        .unwrap();
    assert_eq!(variable[0].name, "JOB_COMPLETION_INDEX");
    cluster.end("pod-1", true, 0);
    cluster.end("pod-2", false, 1);
    cluster.settle();
    cluster.now += SignedDuration::from_secs(10);
    cluster.settle();
    assert_eq!(index(cluster.pods.last().unwrap()), "1");
    cluster.end("pod-3", true, 0);
    cluster.end("pod-4", true, 0);
    cluster.settle();
    let status = cluster.observed.job.status.clone().unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert_eq!(cluster.counts(), (3, 1));
}

#[test]
fn an_exit_code_can_end_the_job_or_not_count() {
    let rule = |action: &str, code: i32| {
        json!({"podFailurePolicy": {"rules": [{"action": action,
            "onExitCodes": {"operator": "In", "values": [code]}}]}})
    };
    let mut cluster = Cluster::new(rule("FailJob", 42));
    cluster.settle();
    cluster.end("pod-1", false, 42);
    cluster.settle();
    assert_eq!(cluster.condition()[1], "Failed PodFailurePolicy");
    let mut cluster = Cluster::new(rule("Ignore", 42));
    cluster.settle();
    cluster.end("pod-1", false, 42);
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 0));
    assert!(cluster.condition().is_empty());
}

/// The job is deleted with its pods, or its pods stay: in both cases the finalizers are removed.
#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let mut cluster = Cluster::new(json!({"parallelism": 2}));
    cluster.settle();
    let mut pods = cluster.pods.clone();
    let left_behind = &mut pods[0];
    left_behind.metadata.owner_references = None;
    let labels = left_behind.metadata.labels.get_or_insert_default();
    labels.insert("batch.kubernetes.io/job-name".to_owned(), "pi".to_owned());
    let pods: Vec<_> = pods
        .iter()
        .map(|pod| Arc::new(pod.try_into().unwrap()))
        .collect();
    let job = &cluster.observed.job;
    assert_eq!(orphaned(&pods, "pi", Some(job)).unwrap().len(), 0);
    assert_eq!(orphaned(&pods, "pi", None).unwrap().len(), 2);
    let mut another = (**job).clone();
    another.metadata.uid = Some("another".to_owned());
    assert_eq!(orphaned(&pods, "pi", Some(&another)).unwrap().len(), 1);
    assert_eq!(orphaned(&pods, "other", None).unwrap().len(), 0);
}

// findings C14
#[test]
fn a_pod_that_no_job_owns_or_can_own_is_let_go() {
    cov_mark::check!(findings_c14);
    let mut cluster = Cluster::new(json!({"parallelism": 1}));
    cluster.settle();
    let mut pod = cluster.pods[0].clone();
    pod.metadata.owner_references = None;
    let label = |pod: &mut Pod, key: &str, value: &str| {
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(key.to_owned(), value.to_owned());
    };
    label(&mut pod, "batch.kubernetes.io/job-name", "pi");
    let job = cluster.observed.job.clone();
    let let_go = |pod: &Pod, name: &str| {
        let pods = [Arc::new(pod.try_into().unwrap())];
        let job = (name == "pi").then_some(&*job);
        !orphaned(&pods, name, job).unwrap().is_empty()
    };
    assert!(!let_go(&pod, "pi"), "it is adopted again");
    let mut deleted = pod.clone();
    deleted.metadata.deletion_timestamp = Some(Time(cluster.now));
    assert!(let_go(&deleted, "pi"));
    label(&mut pod, "job", "of nobody");
    assert!(let_go(&pod, "pi"));
    pod.metadata.labels = None;
    assert!(let_go(&pod, ""), "nobody knows whose it was");
}

/// The UID of the running pod of an index.
fn of_index(cluster: &Cluster, index: u32) -> Option<String> {
    let running = cluster.running();
    let mut pods = cluster.pods.iter();
    let pod_of_index = pods.find(|pod| {
        let notes = pod.metadata.annotations.clone().unwrap_or_default();
        notes.get("batch.kubernetes.io/job-completion-index") == Some(&index.to_string())
            && running.contains(pod.metadata.uid.as_ref().unwrap())
    });
    pod_of_index.and_then(|pod| pod.metadata.uid.clone())
}

/// Ends the pod of an index, and lets the next pod start.
fn end_index(cluster: &mut Cluster, index: u32, code: i32) {
    let uid = of_index(cluster, index).unwrap();
    cluster.end(&uid, code == 0, code);
    cluster.settle();
    cluster.now += SignedDuration::from_secs(700);
    cluster.settle();
}

fn indexes(cluster: &Cluster) -> (String, String) {
    let status = cluster.observed.job.status.clone().unwrap_or_default();
    (
        status.completed_indexes.unwrap_or_default(),
        status.failed_indexes.unwrap_or_default(),
    )
}

fn indexed(more: Value) -> Cluster {
    let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "backoffLimit": i32::MAX});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut cluster = Cluster::new(spec);
    cluster.settle();
    cluster
}

#[test]
fn an_index_that_fails_too_often_does_not_hold_up_the_others() {
    let mut cluster = indexed(json!({"backoffLimitPerIndex": 1}));
    let uid = of_index(&cluster, 1).unwrap();
    cluster.end(&uid, false, 1);
    cluster.settle();
    // The failed pod waits, uncounted, for its replacement; the other pods continue.
    assert_eq!((cluster.counts(), of_index(&cluster, 1)), ((0, 0), None));
    assert_eq!(cluster.running().len(), 2);
    let plan = cluster.plan();
    assert_eq!(plan.requeue_after.map(|wait| wait.as_secs()), Some(10));
    cluster.now += SignedDuration::from_secs(10);
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 1));
    let next = of_index(&cluster, 1).unwrap();
    let notes = cluster.pod(&next).metadata.annotations.clone().unwrap();
    assert_eq!(notes["batch.kubernetes.io/job-index-failure-count"], "1");
    end_index(&mut cluster, 1, 1);
    assert_eq!(indexes(&cluster), (String::new(), "1".to_owned()));
    assert_eq!((cluster.counts(), of_index(&cluster, 1)), ((0, 2), None));
    assert!(cluster.condition().is_empty());
    end_index(&mut cluster, 0, 0);
    end_index(&mut cluster, 2, 0);
    assert_eq!(indexes(&cluster), ("0,2".to_owned(), "1".to_owned()));
    assert_eq!(
        cluster.condition(),
        ["FailureTarget FailedIndexes", "Failed FailedIndexes"]
    );
    assert_eq!(cluster.counts(), (2, 2));
}

#[test]
fn a_job_bears_so_many_failed_indexes() {
    let mut cluster = indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1}));
    end_index(&mut cluster, 0, 1);
    assert!(cluster.condition().is_empty());
    end_index(&mut cluster, 2, 1);
    assert_eq!(
        cluster.condition(),
        [
            "FailureTarget MaxFailedIndexesExceeded",
            "Failed MaxFailedIndexesExceeded"
        ]
    );
    assert!(cluster.running().is_empty());
    assert_eq!(indexes(&cluster).1, "0,2");
}

#[test]
fn a_rule_fails_an_index_at_once_and_another_forgives() {
    let rule = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let rules = json!([rule("FailIndex", 42), rule("Ignore", 7)]);
    let mut cluster =
        indexed(json!({"backoffLimitPerIndex": 0, "podFailurePolicy": {"rules": rules}}));
    for _ in 0..3 {
        end_index(&mut cluster, 0, 7);
    }
    assert_eq!(
        (cluster.counts(), indexes(&cluster).1.as_str()),
        ((0, 0), "")
    );
    let mut cluster =
        indexed(json!({"backoffLimitPerIndex": 5, "podFailurePolicy": {"rules": rules}}));
    end_index(&mut cluster, 0, 42);
    assert_eq!(
        (cluster.counts(), indexes(&cluster).1.as_str()),
        ((0, 1), "0")
    );
}

#[test]
fn a_job_may_be_done_before_all_indexes_are() {
    let rules = json!([{"succeededIndexes": "0,2", "succeededCount": 2}, {"succeededCount": 3}]);
    let mut cluster = indexed(json!({"successPolicy": {"rules": rules}}));
    end_index(&mut cluster, 0, 0);
    assert!(cluster.condition().is_empty());
    end_index(&mut cluster, 2, 0);
    assert_eq!(
        cluster.condition(),
        ["SuccessCriteriaMet SuccessPolicy", "Complete SuccessPolicy"]
    );
    assert!(cluster.running().is_empty());
    let status = cluster.observed.job.status.clone().unwrap();
    let message = status.conditions.unwrap()[0].message.clone().unwrap();
    assert_eq!(message, "Matched rules at index 0");
    let any = json!([{"succeededIndexes": "0-1"}, {"succeededCount": 1}]);
    let mut cluster = indexed(json!({"successPolicy": {"rules": any}}));
    end_index(&mut cluster, 2, 0);
    assert_eq!(cluster.condition()[0], "SuccessCriteriaMet SuccessPolicy");
}

type Events = Vec<(u8, prop::sample::Index)>;

/// The controller may be killed between any two writes, and users may delete pods: each pod is counted once, and the
/// number of running pods stays within the limit.
fn counted_once(mut cluster: Cluster, events: Events) -> Result<(), TestCaseError> {
    let (mut good, mut bad) = (0, 0);
    for (event, which) in events {
        let running = cluster.running();
        match event {
            0 if !running.is_empty() => {
                let uid = running[which.index(running.len())].clone();
                let well = which.index(2) == 0;
                cluster.end(&uid, well, i32::from(!well));
                if well { good += 1 } else { bad += 1 }
            }
            1 if !running.is_empty() => {
                let uid = running[which.index(running.len())].clone();
                let now = cluster.now;
                cluster.pod(&uid).metadata.deletion_timestamp = Some(Time(now));
                bad += 1;
                cluster.collect();
            }
            2 => cluster.now += SignedDuration::from_secs(700),
            3 | 4 => {
                let upto = [Upto::Nothing, Upto::Status, Upto::Release][which.index(3)];
                let plan = cluster.plan();
                cluster.carry_out(plan, upto);
            }
            _ => cluster.step(),
        }
        prop_assert!(cluster.running().len() <= 2);
    }
    let stopped_early = !cluster.condition().is_empty();
    cluster.now += SignedDuration::from_secs(7000);
    for _ in 0..50 {
        cluster.settle();
        let Some(uid) = cluster.running().first().cloned() else {
            break;
        };
        cluster.end(&uid, true, 0);
        good += 1;
    }
    prop_assert!(
        cluster
            .condition()
            .iter()
            .any(|c| c.starts_with("Complete"))
    );
    prop_assert!(cluster.counts().0 >= 4);
    if !stopped_early {
        prop_assert_eq!(cluster.counts(), (good, bad));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_pod_is_counted_once(
        events in proptest::collection::vec((0..6_u8, any::<prop::sample::Index>()), 0..60)
    ) {
        let spec = json!({"completions": 4, "parallelism": 2, "backoffLimit": 100});
        counted_once(Cluster::new(spec), events)?;
    }

    #[test]
    fn each_pod_of_an_index_is_counted_once(
        events in proptest::collection::vec((0..6_u8, any::<prop::sample::Index>()), 0..60)
    ) {
        let spec = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed",
            "backoffLimit": i32::MAX, "backoffLimitPerIndex": 100});
        counted_once(Cluster::new(spec), events)?;
    }
}
