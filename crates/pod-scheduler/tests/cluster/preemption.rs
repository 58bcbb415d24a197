//! Preemption of pods of lower priority.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::*;
use crate::drivers::DRIVER;

const FULL: &str = "0/1 nodes are available: 1 Insufficient cpu.";

impl Cluster {
    async fn create_class(&self, name: &str, value: i32, policy: &str) {
        let class: PriorityClass = typed(json!({
            "metadata": {"name": name}, "value": value, "preemptionPolicy": policy}));
        let api: Api<PriorityClass> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &class).await.unwrap();
    }

    /// A node of two CPUs, with these pods of the class `low` and of one CPU each.
    async fn full(lows: &[&str]) -> Self {
        let cluster = Self::new(&["n1"]).await;
        let preempts = "PreemptLowerPriority";
        cluster.create_class("low", 10, preempts).await;
        cluster.create_class("high", 1000, preempts).await;
        cluster.create_class("content", 1000, "Never").await;
        for name in lows {
            cluster.create_of("low", name, "1").await;
            eventually("n1".to_owned(), || cluster.node_or_reason(name)).await;
        }
        cluster
    }

    async fn create_of(&self, class: &str, name: &str, cpu: &str) {
        let mut spec = asking(cpu);
        spec["priorityClassName"] = class.into();
        self.create_pod(name, spec).await;
    }

    async fn nominated(&self, pod: &str) -> Option<String> {
        let pod = self.pods().get(pod).await.unwrap();
        pod.status.and_then(|status| status.nominated_node_name)
    }

    /// The pods that are being deleted, by name.
    async fn ending(&self) -> Vec<Pod> {
        let pods = self.pods().list(&Default::default()).await.unwrap();
        let ends = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        pods.items.into_iter().filter(ends).collect()
    }

    /// Ends a pod as its node would.
    async fn end(&self, pod: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.pods().delete(pod, &now).await.unwrap();
    }
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap()
}

#[tokio::test]
async fn one_goes_and_says_why() {
    let cluster = Cluster::full(&["a", "b"]).await;
    cluster.create_of("high", "important", "1").await;
    eventually(1, || async { cluster.ending().await.len() }).await;
    let victim = cluster.ending().await.remove(0);
    let conditions = victim.status.clone().unwrap().conditions.unwrap();
    let why = conditions
        .iter()
        .find(|condition| condition.type_ == "DisruptionTarget")
        .unwrap();
    assert_eq!(why.status, "True");
    assert_eq!(why.reason.as_deref(), Some("PreemptionByScheduler"));
    let text = "default-scheduler: preempting to accommodate a higher priority pod";
    assert_eq!(why.message.as_deref(), Some(text));

    let on = Some("n1".to_owned());
    eventually(on, || cluster.nominated("important")).await;
    eventually(FULL.to_owned(), || cluster.node_or_reason("important")).await;
    let event = format!("Warning FailedScheduling: {FULL}");
    eventually(event, || cluster.events("important")).await;
    let uid = cluster.pods().get("important").await.unwrap().metadata.uid;
    let event = format!(
        "Normal Preempted: Preempted by pod {} on node n1",
        uid.unwrap()
    );
    let victim = name_of(&victim);
    let is_reported = || async { cluster.events(&victim).await.contains(&event) };
    eventually(true, is_reported).await;

    // Pods of lower priority do not get the node.
    cluster.create_of("low", "late", "1").await;
    let none = format!(
        "{FULL} preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    eventually(none.clone(), || cluster.node_or_reason("late")).await;
    cluster.end(&victim).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("important")).await;
    eventually(None, || cluster.nominated("important")).await;
    assert_eq!(cluster.node_or_reason("late").await, none);
    assert!(cluster.ending().await.is_empty(), "one was enough");
}

#[tokio::test]
async fn who_is_waited_for_is_not_followed_by_others() {
    let cluster = Cluster::full(&["a", "b"]).await;
    // Another pod, whose end wakes the scheduler.
    cluster.create_of("low", "other", "0").await;
    eventually("n1".to_owned(), || cluster.node_or_reason("other")).await;
    cluster.create_of("high", "important", "1").await;
    eventually(1, || async { cluster.ending().await.len() }).await;
    let on = Some("n1".to_owned());
    eventually(on.clone(), || cluster.nominated("important")).await;
    cluster.end("other").await;
    let waits =
        format!("{FULL} preemption: not eligible due to a terminating pod on the nominated node.");
    eventually(waits, || cluster.node_or_reason("important")).await;
    assert_eq!(cluster.nominated("important").await, on);

    // A pod of equal priority gets a node of its own.
    cluster.create_of("high", "equal", "1").await;
    eventually(2, || async { cluster.ending().await.len() }).await;
    eventually(on, || cluster.nominated("equal")).await;
    for pod in cluster.ending().await {
        cluster.end(&name_of(&pod)).await;
    }
    eventually("n1".to_owned(), || cluster.node_or_reason("important")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("equal")).await;
}

#[tokio::test]
async fn a_more_important_pod_takes_the_place_over() {
    let cluster = Cluster::full(&["a", "b"]).await;
    cluster
        .create_class("highest", 2000, "PreemptLowerPriority")
        .await;
    cluster.create_of("high", "important", "2").await;
    let on = Some("n1".to_owned());
    eventually(on.clone(), || cluster.nominated("important")).await;
    eventually(2, || async { cluster.ending().await.len() }).await;
    cluster.create_of("highest", "most", "2").await;
    eventually(on, || cluster.nominated("most")).await;
    eventually(None, || cluster.nominated("important")).await;
    for pod in cluster.ending().await {
        cluster.end(&name_of(&pod)).await;
    }
    eventually("n1".to_owned(), || cluster.node_or_reason("most")).await;
    let none = format!(
        "{FULL} preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    eventually(none, || cluster.node_or_reason("important")).await;
}

#[tokio::test]
async fn a_class_may_be_content_to_wait() {
    let cluster = Cluster::full(&["a", "b"]).await;
    cluster.create_of("content", "patient", "1").await;
    let waits = format!("{FULL} preemption: not eligible due to preemptionPolicy=Never.");
    eventually(waits, || cluster.node_or_reason("patient")).await;
    assert!(cluster.ending().await.is_empty());
    cluster.end("a").await;
    eventually("n1".to_owned(), || cluster.node_or_reason("patient")).await;
}

/// The nomination of a deleted pod blocks no pod.
#[tokio::test]
async fn a_place_is_free_again_when_its_pod_is_gone() {
    let cluster = Cluster::full(&["a", "b"]).await;
    cluster.create_of("high", "important", "1").await;
    eventually(1, || async { cluster.ending().await.len() }).await;
    let on = Some("n1".to_owned());
    eventually(on, || cluster.nominated("important")).await;
    let victim = name_of(&cluster.ending().await[0]);
    cluster.create_of("low", "late", "1").await;
    let waits = || async { cluster.node_or_reason("late").await.starts_with(FULL) };
    eventually(true, waits).await;
    cluster.end(&victim).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("important")).await;
    cluster.end("important").await;
    eventually("n1".to_owned(), || cluster.node_or_reason("late")).await;
}

/// KEP-2485: of the pods on a node, the one that uses the claim for one pod (`ReadWriteOncePod`) is preempted.
#[tokio::test]
async fn the_user_of_a_claim_for_one_pod_makes_room() {
    let cluster = Cluster::full(&["a"]).await;
    let modes = json!(["ReadWriteOncePod"]);
    let volume = json!({"metadata": {"name": "single"}, "spec": {
        "accessModes": modes, "capacity": {"storage": "1Gi"}, "storageClassName": "by-hand",
        "csi": {"driver": DRIVER, "volumeHandle": "single"}}});
    let params = PostParams::default();
    cluster
        .volumes()
        .create(&params, &typed(volume))
        .await
        .unwrap();
    let claim = json!({"metadata": {"name": "single"}, "spec": {
        "storageClassName": "by-hand", "volumeName": "single", "accessModes": modes,
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster
        .claims()
        .create(&params, &typed(claim))
        .await
        .unwrap();
    for (name, class) in [("user", "low"), ("important", "high")] {
        let mut spec = claiming("single");
        spec["priorityClassName"] = class.into();
        cluster.create_pod(name, spec).await;
        if name == "user" {
            eventually("n1".to_owned(), || cluster.node_or_reason(name)).await;
        }
    }
    let ending = || async {
        cluster
            .ending()
            .await
            .iter()
            .map(name_of)
            .collect::<Vec<_>>()
    };
    eventually(vec!["user".to_owned()], ending).await;
    let in_use = "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and \
        ReadWriteOncePod access mode.";
    eventually(in_use.to_owned(), || cluster.node_or_reason("important")).await;
    cluster.end("user").await;
    eventually("n1".to_owned(), || cluster.node_or_reason("important")).await;
    assert_eq!(cluster.node_or_reason("a").await, "n1");
    assert!(cluster.ending().await.is_empty(), "one was enough");
}
