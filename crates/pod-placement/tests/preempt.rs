//! Preemption victims of a more important pod, situation by situation, as kube-scheduler decides
//! it.

use std::sync::Arc;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use pod_placement::{ClusterView, PlacementDecision, place};
use resource_kinds::pod_view::PodView;

/// Nodes with these names, each with two CPUs and ten pods.
fn cluster(nodes: &[&str]) -> ClusterView {
    let mut view = ClusterView::default();
    for name in nodes {
        let node: Node = json_tree::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "2", "pods": "10"}},
        }))
        .expect("a node");
        view.nodes.insert((*name).to_owned(), node.into());
    }
    view
}

/// `name priority cpu`, then words: `on=NODE`, `since=SECONDS`, `app=LABEL`, `never`, `ending` (deleted by the user),
/// `driven` (ending as a victim of another pod), `for=NODE` (nominated).
fn pod(line: &str) -> PodView {
    let mut words = line.split_whitespace();
    let mut next = || words.next().expect("name, priority and cpu");
    let (name, priority, cpu) = (next(), next(), next());
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "resourceVersion": "1"},
        "spec": {"priority": priority.parse::<i32>().expect("a priority"), "containers": [
            {"name": "a", "resources": {"requests": {"cpu": cpu}}}]},
    });
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("on", node) => pod["spec"]["nodeName"] = node.into(),
            ("for", node) => pod["status"]["nominatedNodeName"] = node.into(),
            ("app", label) => pod["metadata"]["labels"] = json!({"app": label}),
            ("since", second) => {
                pod["status"]["startTime"] = format!("2026-01-01T00:00:{second}Z").into();
            }
            ("never", _) => pod["spec"]["preemptionPolicy"] = "Never".into(),
            (how @ ("ending" | "driven"), _) => {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z".into();
                if how == "driven" {
                    pod["status"]["conditions"] = json!([{"type": "DisruptionTarget",
                        "status": "True", "reason": "PreemptionByScheduler"}]);
                }
            }
            (word, _) => panic!("{word} means nothing"),
        }
    }
    let pod: Pod = json_tree::from_value(pod).expect("a pod");
    pod.try_into().expect("a pod")
}

fn with(mut view: ClusterView, pods: &[&str]) -> ClusterView {
    for line in pods {
        let mut pod = pod(line);
        if pod.node.is_some() {
            view.pods.push(Arc::new(pod));
        } else {
            pod.node = pod.nominated.clone();
            view.nominated.push(Arc::new(pod));
        }
    }
    view
}

fn budget(mut view: ClusterView, app: &str, status: Value) -> ClusterView {
    let object = json!({"metadata": {"name": app, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}}, "status": status});
    let object: PodDisruptionBudget = json_tree::from_value(object).expect("a budget");
    view.budgets.push(Arc::new(object));
    view
}

fn show(pod: &PodView, view: &ClusterView) -> String {
    match place(pod, view, None) {
        PlacementDecision::Bind { node } => format!("bind {node}"),
        PlacementDecision::Prepare { node, .. } => format!("prepare {node}"),
        PlacementDecision::Unschedulable(obstacle) => {
            let nomination = if obstacle.keeps_nomination {
                "kept: "
            } else {
                ""
            };
            format!("{nomination}{}", obstacle.message)
        }
        PlacementDecision::Preempt(preemption) => {
            let names = |pods: &[Arc<PodView>]| {
                let names: Vec<&str> = pods.iter().map(|pod| &*pod.name).collect();
                names.join(" ")
            };
            let mut text = format!("on {}: {}", preemption.node, names(&preemption.victims));
            if !preemption.displaced.is_empty() {
                text = format!("{text}; displaced {}", names(&preemption.displaced));
            }
            text
        }
    }
}

#[track_caller]
fn check(view: &ClusterView, coming: &str, expected: &str) {
    assert_eq!(show(&pod(coming), view), expected);
}

#[test]
fn the_less_important_go_and_no_more_than_has_to() {
    let view = with(
        cluster(&["n"]),
        &["a 5 1 on=n", "b 0 500m on=n", "c 3 500m on=n"],
    );
    check(&view, "new 10 500m", "on n: b");
    check(&view, "new 10 1", "on n: c b");
    check(&view, "new 10 2", "on n: a c b");
    check(&view, "new 4 1", "on n: c b");
    let full = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
        1 Insufficient cpu.";
    check(&view, "new 4 1500m", full);
}

#[test]
fn a_pod_that_fits_drives_nobody_out() {
    let view = with(cluster(&["m", "n"]), &["a 0 1 on=m", "b 0 1 on=n"]);
    check(&view, "new 10 1", "bind m");
    let view = with(cluster(&["m", "n"]), &["a 0 2 on=m", "b 0 1 on=n"]);
    check(&view, "new 10 1", "bind n");
}

#[test]
fn equals_stay() {
    let view = with(cluster(&["n"]), &["a 5 2 on=n"]);
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
        1 No preemption victims found for incoming pod.";
    check(&view, "new 5 1", text);
    check(&view, "new 4 1", text);
}

#[test]
fn what_no_pod_can_help_is_said() {
    let view = with(cluster(&["n"]), &["a 0 2 on=n"]);
    check(
        &view,
        "new 9 3",
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 Preemption is not helpful for scheduling.",
    );
    let mut elsewhere = pod("new 9 1");
    let spec = Arc::make_mut(&mut elsewhere.spec);
    spec.node_selector = Some([("disk".to_owned(), "ssd".to_owned())].into());
    assert_eq!(
        show(&elsewhere, &view),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let mut claiming = pod("new 9 1");
    claiming.claims = [resource_kinds::pod_view::Claim {
        name: "data".into(),
        ephemeral: false,
    }]
    .into();
    assert_eq!(
        show(&claiming, &view),
        "0/1 nodes are available: persistentvolumeclaim \"data\" not found. preemption: \
         0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn a_class_may_be_content_to_wait() {
    let view = with(cluster(&["n"]), &["a 0 2 on=n"]);
    let text = "kept: 0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due \
        to preemptionPolicy=Never.";
    check(&view, "new 9 1 never", text);
}

#[test]
fn of_equals_the_younger_goes() {
    let view = with(
        cluster(&["n"]),
        &["a 0 1 on=n since=20", "b 0 1 on=n since=10"],
    );
    check(&view, "new 9 1", "on n: a");
    let view = with(cluster(&["n"]), &["a 0 1 on=n", "b 0 1 on=n since=10"]);
    check(&view, "new 9 1", "on n: a");
}

#[test]
fn a_budget_is_kept_where_it_can_be() {
    let pods = ["a 1 1 on=n app=x", "b 2 1 on=n app=y"];
    let none = json!({"disruptionsAllowed": 0});
    let view = budget(with(cluster(&["n"]), &pods), "x", none.clone());
    check(&view, "new 9 1", "on n: b");
    check(&view, "new 9 2", "on n: b a");
    // One eviction is allowed, and the first victim uses it.
    let one = budget(
        with(cluster(&["n"]), &pods),
        "x",
        json!({"disruptionsAllowed": 1}),
    );
    check(&one, "new 9 1", "on n: a");
    // The pod's eviction is in progress, and counted in the status.
    let counted = json!({"disruptionsAllowed": 0,
        "disruptedPods": {"a": "2026-01-01T00:00:00Z"}});
    let counted = budget(with(cluster(&["n"]), &pods), "x", counted);
    check(&counted, "new 9 1", "on n: a");
    // A budget of another namespace has no effect.
    let mut elsewhere = budget(with(cluster(&["n"]), &pods), "x", none);
    Arc::make_mut(&mut elsewhere.budgets[0]).metadata.namespace = Some("other".to_owned());
    check(&elsewhere, "new 9 1", "on n: a");
}

#[test]
fn nodes_are_compared_by_what_goes() {
    // Violated budgets are compared first.
    let view = with(cluster(&["m", "n"]), &["a 0 2 on=m app=x", "b 5 2 on=n"]);
    let view = budget(view, "x", json!({"disruptionsAllowed": 0}));
    check(&view, "new 9 2", "on n: b");
    // Then the priority of the most important victim.
    let view = with(
        cluster(&["m", "n"]),
        &["a 5 2 on=m", "b 4 1 on=n", "c 4 1 on=n"],
    );
    check(&view, "new 9 2", "on n: b c");
    // Then the sum of priorities; fewer victims cost less, also with negative priorities.
    let view = with(
        cluster(&["m", "n"]),
        &["a 5 1 on=m", "b 3 1 on=m", "c 5 1 on=n", "d 2 1 on=n"],
    );
    check(&view, "new 9 2", "on n: c d");
    let view = with(
        cluster(&["m", "n"]),
        &["a -5 1 on=m", "b -5 1 on=m", "c -5 2 on=n"],
    );
    check(&view, "new 9 2", "on n: c");
    // Then the latest start of the victims.
    let view = with(
        cluster(&["m", "n"]),
        &["a 5 2 on=m since=10", "b 5 2 on=n since=20"],
    );
    check(&view, "new 9 2", "on n: b");
    // Then the name.
    let view = with(
        cluster(&["m", "n"]),
        &["a 5 2 on=m since=10", "b 5 2 on=n since=10"],
    );
    check(&view, "new 9 2", "on m: a");
}

#[test]
fn a_place_that_is_being_made_is_not_given_away() {
    let driven = "old 0 2 on=n driven";
    let view = with(cluster(&["n"]), &[driven, "first 5 2 for=n"]);
    // While victims are terminating no further victims are chosen.
    check(
        &view,
        "first 5 2 for=n",
        "kept: 0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a \
         terminating pod on the nominated node.",
    );
    // After the end of the victims, the node is reserved for the nominated pod against pods of equal priority.
    let view = with(cluster(&["n"]), &["first 5 2 for=n"]);
    check(&view, "first 5 2 for=n", "bind n");
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
        1 No preemption victims found for incoming pod.";
    check(&view, "second 5 1", text);
    check(&view, "more 6 1", "bind n");
    // A pod with a higher priority replaces the nominated pod.
    let view = with(cluster(&["n"]), &["old 0 2 on=n", "first 5 2 for=n"]);
    check(&view, "more 6 1", "on n: old; displaced first");
    // A pod with an equal priority preempts further victims, in addition to the nominated pod.
    let view = with(
        cluster(&["n"]),
        &["old 0 1 on=n", "older 1 1 on=n", "first 5 1 for=n"],
    );
    check(&view, "second 5 1", "on n: older old");
}

#[test]
fn a_node_that_is_out_of_the_question_is_not_waited_for() {
    let mut view = with(
        cluster(&["m", "n"]),
        &["old 0 2 on=n driven", "other 0 2 on=m", "first 5 2 for=n"],
    );
    let node = view.nodes.get_mut("n").expect("it is there");
    let mut cordoned = (**node).clone();
    cordoned.spec.get_or_insert_default().unschedulable = Some(true);
    *node = cordoned.into();
    check(&view, "first 5 2 for=n", "on m: other");
}

/// A pod that the user deletes counts as a victim.
#[test]
fn who_goes_already_counts_as_a_victim() {
    let view = with(cluster(&["n"]), &["a 0 2 on=n ending"]);
    check(&view, "new 9 1", "on n: a");
}

#[test]
fn ports_and_exclusive_neighbours_are_reasons_too() {
    let mut view = cluster(&["n"]);
    let ports = |pod: &mut PodView| {
        let spec = Arc::make_mut(&mut pod.spec);
        spec.containers[0].ports = Some(vec![k8s_openapi::api::core::v1::ContainerPort {
            container_port: 80,
            host_port: Some(80),
            ..Default::default()
        }]);
    };
    let mut there = pod("a 0 100m on=n");
    ports(&mut there);
    view.pods.push(Arc::new(there));
    view.pods.push(Arc::new(pod("b 0 100m on=n")));
    let mut coming = pod("new 9 100m");
    ports(&mut coming);
    assert_eq!(show(&coming, &view), "on n: a");

    let mut view = cluster(&["n"]);
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "labelSelector": {"matchLabels": {"app": "x"}},
        "topologyKey": "kubernetes.io/hostname"}]}});
    view.pods.push(Arc::new(pod("a 0 100m on=n app=x")));
    view.pods.push(Arc::new(pod("b 0 100m on=n app=y")));
    let mut coming = pod("new 9 100m");
    let affinity = json_tree::from_value(apart).expect("an affinity");
    Arc::make_mut(&mut coming.spec).affinity = Some(affinity);
    assert_eq!(show(&coming, &view), "on n: a");
}

/// A claim for one pod (`ReadWriteOncePod`), bound to a volume that every node reaches.
fn with_exclusive_claim(view: &mut ClusterView, claim: &str) {
    let object = json!({
        "metadata": {"name": claim, "namespace": "default",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"accessModes": ["ReadWriteOncePod"], "storageClassName": "", "volumeName": claim},
        "status": {"phase": "Bound"},
    });
    let object = json_tree::from_value(object).expect("a claim");
    let key = ("default".to_owned(), claim.to_owned());
    view.claims.insert(key, Arc::new(object));
    let volume = json!({"metadata": {"name": claim}, "spec": {
        "accessModes": ["ReadWriteOncePod"], "csi": {"driver": "d", "volumeHandle": claim}}});
    let volume = json_tree::from_value(volume).expect("a volume");
    view.volumes.insert(claim.to_owned(), Arc::new(volume));
}

/// A pod that uses claims.
fn using(line: &str, claims: &[&str]) -> PodView {
    let mut pod = pod(line);
    let claim = |name: &&str| resource_kinds::pod_view::Claim {
        name: (*name).into(),
        ephemeral: false,
    };
    pod.claims = claims.iter().map(claim).collect();
    pod
}

/// KEP-2485: the pod that uses a ReadWriteOncePod claim is preempted, and no other pod.
#[test]
fn the_user_of_a_claim_for_one_pod_goes_and_no_other() {
    let cluster = |user: &str| {
        let lower = ["a -5 100m on=m", "b -5 100m on=n", "c 0 100m on=n"];
        let mut view = with(cluster(&["m", "n"]), &lower);
        for claim in ["data", "log"] {
            with_exclusive_claim(&mut view, claim);
        }
        view.pods.push(Arc::new(using(user, &["data"])));
        view
    };
    let view = cluster("user 5 100m on=n");
    let new = |line: &str| show(&using(line, &["data"]), &view);
    assert_eq!(new("new 9 100m"), "on n: user");
    // The new pod needs the resources of other pods as well.
    assert_eq!(new("new 9 1900m"), "on n: user b");
    // A claim of that name in another namespace is another claim.
    let mut elsewhere = using("new 9 100m", &["data"]);
    elsewhere.namespace = "other".into();
    assert!(!show(&elsewhere, &view).contains("on n: "));
    // A claim that no pod uses does not delay the binding.
    assert_eq!(show(&using("new 9 100m", &["log"]), &view), "bind m");

    // Pods of an equal and of a higher priority stay, on each node.
    let in_use = "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
        ReadWriteOncePod access mode. preemption: 0/2 nodes are available: 2";
    for line in ["new 5 100m", "new 4 100m"] {
        let decision = new(line);
        assert!(decision.starts_with(in_use), "{decision}");
    }
    let never = new("new 9 100m never");
    assert!(
        never.ends_with("not eligible due to preemptionPolicy=Never."),
        "{never}"
    );
    // A pod that is being deleted counts as a victim already.
    let ending = cluster("user 5 100m on=n ending");
    assert_eq!(show(&using("new 9 100m", &["data"]), &ending), "on n: user");
}

/// Users of two claims on two nodes: no node is free of both claims. On one node, both users are preempted.
#[test]
fn the_users_of_two_claims_go_only_from_one_node() {
    let users = |second: &str| {
        let mut view = cluster(&["m", "n"]);
        for (claim, line) in [("data", "first 1 100m on=m"), ("log", second)] {
            with_exclusive_claim(&mut view, claim);
            view.pods.push(Arc::new(using(line, &[claim])));
        }
        show(&using("new 9 100m", &["data", "log"]), &view)
    };
    let apart = users("second 0 100m on=n");
    assert!(
        apart.contains("preemption: 0/2 nodes are available: 2 node has pod using"),
        "{apart}"
    );
    assert_eq!(users("second 0 100m on=m"), "on m: first second");
}
