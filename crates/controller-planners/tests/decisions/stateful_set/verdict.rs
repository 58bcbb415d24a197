//! Rollouts that fail (rollouts.md R11 to R16).

use controller_planners::stateful_set::StatefulSetPlan;
use jiff::SignedDuration;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::cluster::Cluster;
use super::situation::{describe, revision_name};

/// Three pods of image `a`, with that answer to a rollout that fails.
fn three(options: &str) -> Cluster {
    let mut cluster = Cluster::new(&format!("set replicas=3 new {options}"));
    cluster.settle();
    cluster.log.clear();
    cluster
}

fn condition(cluster: &Cluster, kind: &str) -> String {
    let status = cluster.set.status.clone().unwrap();
    let mut conditions = status.conditions.unwrap().into_iter();
    let condition = conditions
        .find(|condition| condition.type_ == kind)
        .unwrap();
    let message = condition.message.unwrap_or_default();
    format!(
        "{} {}: {message}",
        condition.status,
        condition.reason.unwrap()
    )
}

fn evidence(cluster: &Cluster, image: &str) -> Option<Value> {
    let annotations = cluster.revisions[&revision_name(image)]
        .metadata
        .annotations
        .as_ref()?;
    serde_json::from_str(annotations.get("apps.mainstay.dev/rejected")?).ok()
}

/// Gives the pods the state of a waiting container, on a node.
fn waiting(cluster: &mut Cluster, name: &str, reason: &str, restarts: i32) {
    let pod = cluster.objects.pods.get_mut(name).unwrap();
    pod.spec.as_mut().unwrap().node_name = Some("n".to_owned());
    let status = pod.status.as_mut().unwrap();
    let started = status.start_time.take();
    status.start_time = started.or(Some(Time(cluster.now)));
    let state = json!([{"name": "main", "image": "", "imageID": "", "ready": false,
        "restartCount": restarts, "state": {"waiting": {"reason": reason, "message": "no"}}}]);
    status.container_statuses = Some(json_tree::from_value(state).unwrap());
}

/// Plans and lets time pass until nothing changes, or until ten steps are over.
fn go_on(cluster: &mut Cluster, broken: &dyn Fn(&mut Cluster)) -> StatefulSetPlan {
    for _ in 0..80 {
        cluster.step();
        cluster.kubelet();
        broken(cluster);
        cluster.now = cluster
            .now
            .checked_add(SignedDuration::from_secs(5))
            .unwrap();
    }
    cluster.step()
}

/// All pods of a bad image fail to pull it.
fn no_image(cluster: &mut Cluster) {
    let bad = |cluster: &Cluster| {
        let pods = cluster.pods.iter();
        let bad = pods.filter(|(_, pod)| {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone();
            image.is_some_and(|image| image.starts_with("bad"))
        });
        bad.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    for name in bad(cluster) {
        waiting(cluster, &name, "ImagePullBackOff", 0);
    }
}

/// rollouts.md R12, R13, S9: no further pod gets the revision, and the set is stalled with the evidence.
#[test]
fn a_rollout_that_fails_is_held() {
    for options in ["on-failure=Hold", "on-failure=Hold parallel"] {
        let mut cluster = three(options);
        cluster.set_image("bad");
        go_on(&mut cluster, &no_image);
        assert_eq!(
            cluster.log,
            ["-web-2", "+web-2:bad", "rejected web-2"],
            "{options}"
        );
        let stalled = condition(&cluster, "Stalled");
        let start = format!(
            "True RevisionRejected: revision {} is rejected, and no further pod gets it: pod web-2: ",
            revision_name("bad")
        );
        assert!(stalled.starts_with(&start), "{stalled}");
        let evidence = evidence(&cluster, "bad").unwrap();
        assert_eq!(evidence["pod"], "web-2");
        assert_eq!(evidence["reason"], "ImagePullFailed");
        let status = cluster.set.status.clone().unwrap();
        assert_eq!(status.update_revision, Some(revision_name("bad")), "R13");
        // A missing pod gets the revision before, also in place of the pod that failed.
        cluster.log.clear();
        cluster.delete_pod("web-2");
        cluster.delete_pod("web-0");
        go_on(&mut cluster, &no_image);
        let made: Vec<&String> = cluster
            .log
            .iter()
            .filter(|line| line.starts_with('+'))
            .collect();
        assert_eq!(made, ["+web-0:a", "+web-2:a"], "{options}");
        assert!(condition(&cluster, "Stalled").starts_with("True RevisionRejected"));
        assert!(condition(&cluster, "Available").starts_with("True"));
        // Another template ends it.
        cluster.set_image("b");
        cluster.settle();
        assert!(condition(&cluster, "Progressing").starts_with("True RolloutComplete"));
    }
}

/// rollouts.md R13, R15, R16: the pods return to the revision before, the spec stays, and the same template is not tried
/// again.
#[test]
fn a_rollout_that_fails_is_rolled_back() {
    for options in [
        "on-failure=Rollback",
        "on-failure=Rollback parallel",
        "on-failure=Rollback parallel max=2",
        "on-failure=Rollback guard=Quorum",
        "on-failure=Rollback stuck-rollout=Wait",
    ] {
        let mut cluster = three(options);
        cluster.set_image("bad");
        let plan = go_on(&mut cluster, &no_image);
        assert!(plan.is_idle(), "{options}: {}", describe(&plan));
        let last = cluster.log.last().unwrap();
        assert!(last.ends_with(":a"), "{options}: {:?}", cluster.log);
        assert!(cluster.pods.values().all(|pod| {
            let labels = pod.metadata.labels.as_ref().unwrap();
            labels["controller-revision-hash"] == revision_name("a")
        }));
        let text = condition(&cluster, "Stalled");
        assert!(
            text.contains("the pods return to the revision before: pod web-2"),
            "{text}"
        );
        assert!(
            condition(&cluster, "Available").starts_with("True"),
            "{options}"
        );
        let status = cluster.set.status.clone().unwrap();
        assert_eq!(status.update_revision, Some(revision_name("bad")));
        assert_eq!(status.current_revision, Some(revision_name("a")));
        assert_eq!(status.updated_replicas, Some(0));
        // R15: another template, and the rejected one again.
        cluster.set_image("b");
        cluster.settle();
        cluster.log.clear();
        cluster.set_image("bad");
        go_on(&mut cluster, &no_image);
        assert_eq!(cluster.log, [""; 0], "{options}");
        // Without the verdict it is tried again.
        let revision = cluster.revisions.get_mut(&revision_name("bad")).unwrap();
        revision.metadata.annotations = None;
        go_on(&mut cluster, &no_image);
        assert!(
            cluster.log.contains(&"rejected web-2".to_owned()),
            "{options}"
        );
    }
}

/// rollouts.md R16: a pod that is down goes first.
#[test]
fn the_way_back_begins_with_pods_that_are_down() {
    let mut cluster = three("on-failure=Rollback parallel");
    cluster.set_image("b");
    cluster.step();
    cluster.kubelet();
    cluster.step();
    cluster.kubelet();
    cluster.step();
    cluster.kubelet();
    cluster.step();
    assert_eq!(cluster.log, ["-web-2", "+web-2:b", "-web-1", "+web-1:b"]);
    cluster.log.clear();
    go_on(&mut cluster, &|cluster| {
        let name = "web-1";
        let revision =
            |pod: &Pod| pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"].clone();
        let pod = cluster.objects.pods.get_mut(name);
        if let Some(pod) = pod.filter(|pod| revision(pod) == revision_name("b")) {
            super::cluster::set_ready(pod, false, cluster.now);
            waiting(cluster, name, "CrashLoopBackOff", 9);
        }
    });
    let expected = ["rejected web-1", "-web-1", "+web-1:a", "-web-2", "+web-2:a"];
    assert_eq!(cluster.log, expected);
}

/// rollouts.md R11: restarts, and a deadline since the last change of readiness; a pod without a node is not judged.
#[test]
fn a_pod_fails_by_restarts_or_by_time() {
    let fails = |seconds: i64, change: &dyn Fn(&mut Cluster)| {
        let mut cluster = three("on-failure=Hold");
        cluster.set_image("bad");
        cluster.step();
        cluster.kubelet();
        cluster.step();
        cluster.kubelet();
        waiting(&mut cluster, "web-2", "ContainerCreating", 0);
        change(&mut cluster);
        cluster.now = cluster
            .now
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap();
        let plan = cluster.step();
        let fails = evidence(&cluster, "bad").is_some();
        let wakes = plan.requeue_after.is_some_and(|after| after.as_secs() > 0);
        (fails, wakes)
    };
    let nothing = |_: &mut Cluster| {};
    assert_eq!(fails(290, &nothing), (false, true));
    assert!(fails(310, &nothing).0);
    let restarts = |count| move |cluster: &mut Cluster| waiting(cluster, "web-2", "Crash", count);
    assert!(!fails(1, &restarts(5)).0);
    assert!(fails(1, &restarts(6)).0);
    let unscheduled = |cluster: &mut Cluster| {
        cluster
            .pods
            .get_mut("web-2")
            .unwrap()
            .spec
            .as_mut()
            .unwrap()
            .node_name = None;
    };
    assert_eq!(fails(700, &unscheduled), (false, false));
}

/// rollouts.md R11, R14, S2: without rules, and without an earlier revision, nothing is judged.
#[test]
fn a_first_rollout_is_not_judged() {
    let mut cluster = Cluster::new("set replicas=3 new template=bad on-failure=Rollback");
    go_on(&mut cluster, &no_image);
    assert_eq!(cluster.log, ["+web-0:bad"]);
    let mut cluster = three("guard=1");
    cluster.set_image("bad");
    go_on(&mut cluster, &no_image);
    assert!(evidence(&cluster, "bad").is_none());
}

/// rollouts.md R34: all pods end before the first new one starts, also those that a guard would hold, and on the way
/// back.
#[test]
fn recreated_pods_never_run_beside_the_old_ones() {
    for options in ["", "parallel", "guard=Quorum", "parallel max=1 guard=100%"] {
        let mut cluster = three(&format!("on-failure=Rollback recreate {options}"));
        cluster.set_image("b");
        cluster.settle();
        let gone = ["-web-2", "-web-1", "-web-0"];
        let made = ["+web-0:b", "+web-1:b", "+web-2:b"];
        assert_eq!(cluster.log, [gone, made].concat(), "{options}");
        assert!(condition(&cluster, "Progressing").starts_with("True RolloutComplete"));
        cluster.log.clear();
        cluster.set_image("bad");
        go_on(&mut cluster, &no_image);
        let at = |line: &str| cluster.log.iter().position(|other| other == line);
        let first_made = at("+web-0:bad").unwrap();
        assert_eq!(cluster.log[..first_made], gone, "{options}");
        assert!(
            at("+web-0:b") > at("-web-0"),
            "{options}: {:?}",
            cluster.log
        );
        assert!(
            condition(&cluster, "Available").starts_with("True"),
            "{options}"
        );
    }
}

/// rollouts.md R34: the partition keeps pods, and `OnDelete` leaves all to the user.
#[test]
fn recreate_concerns_only_pods_of_the_update() {
    let mut cluster = three("on-failure=Hold recreate partition=2");
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.log, ["-web-2", "+web-2:b"]);
    let mut cluster = three("on-failure=Hold recreate on-delete");
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.log, [""; 0]);
}

/// rollouts.md R13, R34: while a rejected revision is held, no pod of the revision before is made beside its pods.
#[test]
fn a_held_revision_runs_alone() {
    let mut cluster = three("on-failure=Hold recreate parallel");
    cluster.set_image("bad");
    go_on(&mut cluster, &no_image);
    cluster.log.clear();
    cluster.delete_pod("web-1");
    go_on(&mut cluster, &no_image);
    assert_eq!(cluster.log, [""; 0]);
    for pod in ["web-0", "web-2"] {
        cluster.delete_pod(pod);
    }
    go_on(&mut cluster, &no_image);
    let all = ["+web-0:a", "+web-1:a", "+web-2:a"];
    assert_eq!(cluster.log, all);
}

/// rollouts.md R11: a registry may be away for a while, and an evicted pod says nothing about its template.
#[test]
fn trouble_that_passes_is_no_failure() {
    let rejects = |seconds: i64, reason: &str, phase: &str| {
        let mut cluster = three("on-failure=Hold");
        cluster.set_image("bad");
        for _ in 0..2 {
            cluster.step();
            cluster.kubelet();
        }
        waiting(&mut cluster, "web-2", reason, 0);
        let status = cluster
            .pods
            .get_mut("web-2")
            .unwrap()
            .status
            .as_mut()
            .unwrap();
        status.phase = Some(phase.to_owned());
        cluster.now = cluster
            .now
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap();
        cluster.step();
        evidence(&cluster, "bad").is_some()
    };
    assert!(!rejects(290, "ErrImagePull", "Pending"));
    assert!(rejects(310, "ErrImagePull", "Pending"));
    assert!(rejects(1, "InvalidImageName", "Pending"));
    assert!(!rejects(900, "ContainerCreating", "Failed"));
}

/// rollouts.md R13: without pods, a rejected revision does not become the current one.
#[test]
fn a_set_without_pods_keeps_the_revision_before() {
    for options in ["on-failure=Hold", "on-failure=Rollback"] {
        let mut cluster = three(options);
        cluster.set_image("bad");
        go_on(&mut cluster, &no_image);
        cluster.edit(|spec| spec.replicas = Some(0));
        go_on(&mut cluster, &no_image);
        assert!(cluster.pods.is_empty(), "{options}");
        cluster.edit(|spec| spec.replicas = Some(2));
        cluster.log.clear();
        go_on(&mut cluster, &no_image);
        assert_eq!(cluster.log, ["+web-0:a", "+web-1:a"], "{options}");
        assert!(condition(&cluster, "Stalled").starts_with("True RevisionRejected"));
    }
}

/// rollouts.md C7, R16: the way back from an update that removed or added a claim template ends.
#[test]
fn the_way_back_ends_with_other_claim_templates() {
    let template = |name: &str| {
        let template = json!({"metadata": {"name": name},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}}});
        json_tree::from_value(template).unwrap()
    };
    let both = ["data", "log"];
    for (before, after) in [(&both[..], &both[..1]), (&both[..1], &both[..])] {
        for order in ["", "parallel", "recreate"] {
            let mut cluster = Cluster::new(&format!(
                "set replicas=2 new on-failure=Rollback claim-updates=InPlace {order}"
            ));
            let set = |cluster: &mut Cluster, image: &str, names: &[&str]| {
                let mounts = names
                    .iter()
                    .map(|name| json!({"name": name, "mountPath": name}));
                let mounts = Value::from(mounts.collect::<Vec<Value>>());
                cluster.set_image(image);
                cluster.edit(|spec| {
                    let pod = spec.template.spec.as_mut().unwrap();
                    pod.containers[0].volume_mounts = Some(json_tree::from_value(mounts).unwrap());
                    let templates = names.iter().map(|name| template(name));
                    spec.volume_claim_templates = Some(templates.collect());
                });
            };
            set(&mut cluster, "a", before);
            cluster.settle();
            let removed = before.iter().filter(|name| !after.contains(name));
            let removed = removed.map(|name| json!({"metadata": {"name": name}, "spec": {}}));
            let removed = Value::from(removed.collect::<Vec<Value>>()).to_string();
            let annotations = cluster.set.metadata.annotations.get_or_insert_default();
            let record = "apps.mainstay.dev/removed-claim-templates".to_owned();
            annotations.insert(record, removed);
            set(&mut cluster, "bad", after);
            let plan = go_on(&mut cluster, &no_image);
            let mut actions = plan.actions();
            let text = describe(&plan);
            assert!(
                !actions.any(|action| action.changes_pods()),
                "{order}: {text}"
            );
            assert!(
                condition(&cluster, "Available").starts_with("True"),
                "{order}"
            );
            assert!(
                condition(&cluster, "Stalled").starts_with("True"),
                "{order}"
            );
        }
    }
}

/// rollouts.md R34: surplus pods of another revision end before the first new pod starts.
#[test]
fn surplus_pods_end_before_the_first_new_one() {
    for order in ["", "parallel"] {
        let mut cluster = three(&format!("on-failure=Hold recreate {order}"));
        cluster.set_image("b");
        cluster.edit(|spec| spec.replicas = Some(1));
        cluster.settle();
        let expected = ["-web-2", "-web-1", "-web-0", "+web-0:b"];
        assert_eq!(cluster.log, expected, "{order}");
    }
}

/// rollouts.md R11: a partition keeps a set between two revisions; a pod that has been Ready is not judged there.
#[test]
fn a_pod_that_fails_long_after_its_update_is_not_judged() {
    let mut cluster = three("on-failure=Rollback partition=2");
    cluster.set_image("b");
    cluster.settle();
    let later = SignedDuration::from_hours(2000);
    waiting(&mut cluster, "web-2", "CrashLoopBackOff", 60);
    cluster.now = cluster.now.checked_add(later).unwrap();
    let pod = cluster.objects.pods.get_mut("web-2").unwrap();
    super::cluster::set_ready(pod, false, cluster.now);
    cluster.step();
    assert!(evidence(&cluster, "b").is_none());
}
