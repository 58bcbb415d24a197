//! Claims that follow an edit of their template (rollouts.md C).

mod growth;
mod templates;

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::stateful_set::{
    ActionKind, ActionTarget, Refused, StatefulSetAction, StatefulSetPlan, plan,
};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::cluster::Cluster;
use super::situation::describe;

const UPDATES: &str = "mainstay.dev/claim-updates";
const RECORD: &str = "apps.mainstay.dev/template-metadata";

fn template(name: &str, size: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast", "resources": {"requests": {"storage": size}}}})
}

fn set_templates(cluster: &mut Cluster, templates: &[Value]) {
    let templates = templates.iter().cloned();
    let templates = templates.map(|template| json_tree::from_value(template).unwrap());
    let templates: Vec<PersistentVolumeClaim> = templates.collect();
    cluster.edit(|spec| spec.volume_claim_templates = Some(templates));
}

fn annotate(cluster: &mut Cluster, key: &str, value: &str) {
    let annotations = cluster.set.metadata.annotations.get_or_insert_default();
    annotations.insert(key.to_owned(), value.to_owned());
}

/// Three pods with a claim of 1Gi each, with that value of the annotation.
fn three(updates: &str, template: Value) -> Cluster {
    let mut cluster = Cluster::new("set replicas=3 new claims=data");
    if !updates.is_empty() {
        annotate(&mut cluster, UPDATES, updates);
    }
    set_templates(&mut cluster, &[template]);
    cluster.settle();
    cluster.grow_volumes(&[]);
    cluster.settle();
    cluster.log.clear();
    cluster
}

fn edits(plan: &StatefulSetPlan) -> Vec<String> {
    let text = describe(plan);
    let edits = text.lines().filter(|line| line.starts_with("edit claim"));
    edits
        .map(|line| line.trim_start_matches("edit claim ").to_owned())
        .collect()
}

fn condition(cluster: &Cluster, kind: &str) -> String {
    let status = cluster.set.status.clone().unwrap();
    let mut conditions = status.conditions.unwrap().into_iter();
    let condition = conditions.find(|condition| condition.type_ == kind);
    condition.map_or_else(String::new, |c| {
        let message = c.message.unwrap_or_default();
        format!("{} {}: {message}", c.status, c.reason.unwrap())
    })
}

fn claim<'c>(cluster: &'c mut Cluster, name: &str) -> &'c mut PersistentVolumeClaim {
    cluster.claims.get_mut(name).unwrap()
}

fn annotation(cluster: &Cluster, claim: &str, key: &str) -> Option<String> {
    let annotations = cluster.claims[claim].metadata.annotations.as_ref()?;
    annotations.get(key).cloned()
}

/// Edits of claims, step by step, while the drivers change the volumes after each step.
fn steps(cluster: &mut Cluster, broken: &[&str]) -> Vec<String> {
    let mut steps = Vec::new();
    for _ in 0..10 {
        steps.extend(edits(&cluster.step()));
        cluster.grow_volumes(broken);
    }
    cluster.settle();
    steps
}

/// rollouts.md C1, S2: without the annotation, and with `NewOnly`, no claim and no pod changes.
#[test]
fn without_in_place_no_claim_is_touched() {
    for updates in ["", "NewOnly", "inplace"] {
        let mut cluster = three(updates, template("data", "1Gi"));
        let mut labelled = template("data", "2Gi");
        labelled["metadata"]["labels"] = json!({"chart": "2"});
        set_templates(&mut cluster, &[labelled, template("log", "1Gi")]);
        let before = cluster.claims.clone();
        cluster.settle();
        assert_eq!(cluster.claims, before, "{updates}");
        assert_eq!(cluster.log, Vec::<String>::new(), "{updates}");
        assert_eq!(condition(&cluster, "ClaimsUpToDate"), "", "{updates}");
        // A new pod has all claims of the templates.
        cluster.edit(|spec| spec.replicas = Some(4));
        cluster.settle();
        let size = &cluster.claims["data-web-3"]
            .spec
            .as_ref()
            .unwrap()
            .resources;
        let size = &size.as_ref().unwrap().requests.as_ref().unwrap()["storage"];
        assert_eq!(size.0, "2Gi", "{updates}");
        assert!(cluster.claims.contains_key("log-web-3"), "{updates}");
    }
}

/// rollouts.md C2: the opt-in restarts nothing.
#[test]
fn the_opt_in_restarts_nothing() {
    let mut cluster = three("", template("data", "1Gi"));
    annotate(&mut cluster, UPDATES, "InPlace");
    cluster.settle();
    assert_eq!(cluster.log, Vec::<String>::new());
    let text = "True ClaimsMatch: data: 3 compatible, 3Gi in total";
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), text);
    cluster.set.metadata.annotations = None;
    cluster.settle();
    assert_eq!(cluster.log, Vec::<String>::new());
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), "");
}

/// rollouts.md S9: a set without claims has no condition about them, also under the default of a namespace.
#[test]
fn a_set_without_claims_has_no_condition_about_them() {
    let mut cluster = Cluster::new("set replicas=1 new claim-updates=InPlace");
    set_templates(&mut cluster, &[]);
    cluster.settle();
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), "");
}

/// rollouts.md C4, C8: volumes grow one after the other, the highest first, and no pod restarts.
#[test]
fn volumes_grow_one_by_one_without_a_restart() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    let plan = cluster.step();
    assert_eq!(edits(&plan), ["data-web-2 size=2Gi"]);
    let text = "False ClaimsUpdating: data: 0 compatible, 3 updating, 3Gi in total";
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), text);
    assert_eq!(
        edits(&cluster.step()),
        Vec::<String>::new(),
        "one at a time"
    );
    cluster.grow_volumes(&[]);
    let rest = steps(&mut cluster, &[]);
    assert_eq!(rest, ["data-web-1 size=2Gi", "data-web-0 size=2Gi"]);
    let text = "True ClaimsMatch: data: 3 compatible, 6Gi in total";
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), text);
    assert_eq!(cluster.log, Vec::<String>::new());
}

/// rollouts.md C5: the policy allows more changes at once.
#[test]
fn a_policy_decides_how_many_volumes_grow_at_once() {
    let mut cluster = three("", template("data", "1Gi"));
    let policy = json!({"spec": {"setRef": {"name": "web"},
        "claims": {"update": "InPlace", "parallel": 2}}});
    cluster.policy = Some(Arc::new(json_tree::from_value(policy).unwrap()));
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    let plan = cluster.step();
    assert_eq!(edits(&plan), ["data-web-2 size=2Gi", "data-web-1 size=2Gi"]);
}

/// rollouts.md C3, C4: volumes grow while a pod is broken, and a missing pod is made in the same plan.
#[test]
fn growth_waits_for_no_pod_and_no_pod_for_growth() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    cluster.set_image("bad");
    cluster.settle();
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    cluster.pods.remove("web-0");
    let plan = cluster.step();
    let text = describe(&plan);
    assert!(text.contains("create web-0"), "{text}");
    assert_eq!(edits(&plan), ["data-web-2 size=2Gi"]);
    assert!(plan.pods.iter().all(|work| {
        let mut actions = work.actions.iter();
        actions.all(|action| !matches!(action, StatefulSetAction::EditClaim { .. }))
    }));
}

/// rollouts.md C5: one failure does not stop the others, two do.
#[test]
fn volumes_go_on_growing_after_one_failure() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    let done = steps(&mut cluster, &["data-web-2"]);
    let all = [
        "data-web-2 size=2Gi",
        "data-web-1 size=2Gi",
        "data-web-0 size=2Gi",
    ];
    assert_eq!(done, all);
    let text = "False ClaimEditImpossible: data: 2 compatible, 1 failed, 5Gi in total";
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), text);
    let causes: Vec<String> = cluster
        .step()
        .waiting_on
        .iter()
        .map(|w| w.cause.to_string())
        .collect();
    assert_eq!(
        causes,
        ["the volume of claim data-web-2 does not change: no room"]
    );

    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    let done = steps(&mut cluster, &["data-web-2", "data-web-1"]);
    assert_eq!(done, all[..2]);
}

/// rollouts.md C6: the request of a failed growth is taken back, but never to the size of the volume or below.
#[test]
fn a_failed_growth_is_taken_back_above_the_size_of_the_volume() {
    let all = ["data-web-0", "data-web-1", "data-web-2"];
    let failed = || {
        let mut cluster = three("InPlace", template("data", "1Gi"));
        set_templates(&mut cluster, &[template("data", "9Ti")]);
        assert_eq!(steps(&mut cluster, &all).len(), 2);
        cluster
    };
    let mut cluster = failed();
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    let first = edits(&cluster.step());
    assert_eq!(first, ["data-web-2 size=2Gi"]);
    cluster.grow_volumes(&["data-web-1"]);
    assert_eq!(edits(&cluster.step()), ["data-web-1 size=2Gi"]);
    cluster.grow_volumes(&[]);
    assert_eq!(edits(&cluster.step()), ["data-web-0 size=2Gi"]);

    let mut cluster = failed();
    set_templates(&mut cluster, &[template("data", "1Gi")]);
    assert_eq!(edits(&cluster.step()), Vec::<String>::new());
}

/// rollouts.md C5, S9: a refusal is the reason for `Stalled`, the edit is tried again, and the others go on.
#[test]
fn a_refused_edit_is_told_and_tried_again() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    cluster.refused = vec![Refused {
        action: ActionTarget {
            kind: ActionKind::EditClaim,
            name: "data-web-2".to_owned(),
        },
        message: "only dynamically provisioned pvc can be resized".to_owned(),
    }];
    let plan = plan(&cluster.observed(), cluster.now).unwrap();
    assert_eq!(edits(&plan), ["data-web-2 size=2Gi", "data-web-1 size=2Gi"]);
    cluster.set.status = plan.status;
    let text = "True ClaimEditImpossible: claim data-web-2 cannot follow its template: only \
        dynamically provisioned pvc can be resized";
    assert_eq!(condition(&cluster, "Stalled"), text);
}

/// rollouts.md C: labels and annotations follow the template at once; what somebody else has set stays.
#[test]
fn labels_and_annotations_follow_and_those_of_others_stay() {
    let with = |labels: Value, annotations: Value| {
        let mut template = template("data", "1Gi");
        template["metadata"]["labels"] = labels;
        template["metadata"]["annotations"] = annotations;
        template
    };
    let old = with(
        json!({"chart": "1", "tier": "a", "app": "x"}),
        json!({"note": "1"}),
    );
    let mut cluster = three("InPlace", old);
    let others = claim(&mut cluster, "data-web-1")
        .metadata
        .labels
        .as_mut()
        .unwrap();
    others.insert("tier".to_owned(), "mine".to_owned());
    others.insert("backup".to_owned(), "yes".to_owned());
    let new = with(
        json!({"chart": "2", "tier": "b", "zone": "z", "app": "x"}),
        json!({}),
    );
    set_templates(&mut cluster, &[new]);
    let plan = cluster.step();
    assert_eq!(edits(&plan).len(), 3, "all at once: {}", describe(&plan));
    assert!(cluster.step().claim_edits.is_empty());
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let labels = |name: &str| cluster.claims[name].metadata.labels.clone().unwrap();
    let common = [("app", "web"), ("chart", "2"), ("zone", "z")];
    assert_eq!(
        labels("data-web-0"),
        pairs(&[&common[..], &[("tier", "b")]].concat())
    );
    let own = [("tier", "mine"), ("backup", "yes")];
    assert_eq!(labels("data-web-1"), pairs(&[&common[..], &own].concat()));
    assert_eq!(annotation(&cluster, "data-web-0", "note"), None);
    assert_eq!(cluster.log, Vec::<String>::new());
    cluster.settle();
    assert!(condition(&cluster, "ClaimsUpToDate").starts_with("True ClaimsMatch"));

    // Without labels and annotations, the template leaves no record.
    set_templates(&mut cluster, &[template("data", "1Gi")]);
    cluster.settle();
    assert_eq!(
        cluster.claims["data-web-0"].metadata.labels,
        Some(pairs(&[("app", "web")]))
    );
    assert_eq!(annotation(&cluster, "data-web-0", RECORD), None);
}

/// rollouts.md C: claims from before the opt-in have no record; their values are those of the template.
#[test]
fn claims_from_before_the_opt_in_follow_too() {
    let with = |chart: &str| {
        let mut template = template("data", "1Gi");
        template["metadata"]["labels"] = json!({"chart": chart});
        template
    };
    let mut cluster = three("", with("1"));
    annotate(&mut cluster, UPDATES, "InPlace");
    set_templates(&mut cluster, &[with("2")]);
    cluster.settle();
    for claim in cluster.claims.values() {
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["chart"], "2");
    }
}

/// rollouts.md C: the attributes class is changed like a size; a class, a mode or a smaller size cannot follow.
#[test]
fn what_cannot_be_changed_is_counted() {
    let edited = |field: &str, value: Value| {
        let mut cluster = three("InPlace", template("data", "1Gi"));
        let mut template = template("data", "1Gi");
        template["spec"][field] = value;
        set_templates(&mut cluster, &[template]);
        let edits = edits(&cluster.step());
        cluster.settle();
        (edits, condition(&cluster, "ClaimsUpToDate"))
    };
    let (edits, _) = edited("volumeAttributesClassName", json!("gold"));
    assert_eq!(edits, ["data-web-2 attributes=gold"]);
    let differs = "False ClaimsDiffer: data: 0 compatible, 3 incompatible, 3Gi in total";
    for (field, value) in [
        ("storageClassName", json!("slow")),
        ("accessModes", json!(["ReadWriteMany"])),
        ("volumeMode", json!("Block")),
        ("selector", json!({"matchLabels": {"a": "b"}})),
    ] {
        let expected = (Vec::<String>::new(), differs.to_owned());
        assert_eq!(edited(field, value), expected, "{field}");
    }
    let (edits, text) = edited("resources", json!({"requests": {"storage": "512Mi"}}));
    assert_eq!(edits, Vec::<String>::new());
    assert_eq!(
        text,
        "False ClaimsDiffer: data: 0 compatible, 3 over-sized, 3Gi in total"
    );
    let (edits, text) = edited("dataSource", json!({"kind": "VolumeSnapshot", "name": "s"}));
    assert_eq!(edits, Vec::<String>::new());
    assert!(text.starts_with("True ClaimsMatch"), "{text}");
}

/// rollouts.md C: a claim that is not bound waits, and one that is being deleted is left alone.
#[test]
fn only_bound_claims_grow() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    claim(&mut cluster, "data-web-2")
        .status
        .as_mut()
        .unwrap()
        .phase = Some("Pending".to_owned());
    claim(&mut cluster, "data-web-1")
        .metadata
        .deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        cluster.now,
    ));
    let policy = json!({"spec": {"setRef": {"name": "web"}, "claims": {"parallel": 3}}});
    cluster.policy = Some(Arc::new(json_tree::from_value(policy).unwrap()));
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    assert_eq!(edits(&cluster.step()), ["data-web-0 size=2Gi"]);
}

/// rollouts.md C4: a claim that is not bound, or whose file system grows with the next pod, is not one of the volumes
/// that change at once.
#[test]
fn a_claim_that_waits_does_not_hold_the_others() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    let status = claim(&mut cluster, "data-web-2").status.as_mut().unwrap();
    status.phase = Some("Lost".to_owned());
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    assert_eq!(edits(&cluster.step()), ["data-web-1 size=2Gi"]);
    let pending = json!([{"type": "FileSystemResizePending", "status": "True"}]);
    let status = claim(&mut cluster, "data-web-1").status.as_mut().unwrap();
    status.conditions = Some(json_tree::from_value(pending).unwrap());
    for pod in cluster.pods.values_mut() {
        pod.spec.as_mut().unwrap().node_name = Some("n".to_owned());
    }
    assert_eq!(edits(&cluster.step()), [""; 0], "the node extends it now");
    cluster
        .pods
        .get_mut("web-1")
        .unwrap()
        .spec
        .as_mut()
        .unwrap()
        .node_name = None;
    assert_eq!(edits(&cluster.step()), ["data-web-0 size=2Gi"]);
    assert!(condition(&cluster, "ClaimsUpToDate").contains("3 updating"));
}

/// rollouts.md C5: the attributes of volumes change one after the other, too; a template without a class has no say.
#[test]
fn attributes_classes_follow_one_by_one() {
    let with = |class: &str| {
        let mut template = template("data", "1Gi");
        template["spec"]["volumeAttributesClassName"] = json!(class);
        template
    };
    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(&mut cluster, &[with("gold")]);
    for ordinal in [2, 1, 0] {
        let name = format!("data-web-{ordinal}");
        assert_eq!(edits(&cluster.step()), [format!("{name} attributes=gold")]);
        assert_eq!(edits(&cluster.step()), [""; 0], "one at a time");
        let status = claim(&mut cluster, &name).status.as_mut().unwrap();
        status.current_volume_attributes_class_name = Some("gold".to_owned());
    }
    cluster.settle();
    assert!(condition(&cluster, "ClaimsUpToDate").starts_with("True"));
    // A failed change of a class that the template no longer names stops no growth.
    set_templates(&mut cluster, &[with("bad")]);
    for name in ["data-web-2", "data-web-1"] {
        assert_eq!(edits(&cluster.step()), [format!("{name} attributes=bad")]);
        let failed = json!([{"type": "ModifyVolumeError", "status": "True", "message": "no"}]);
        let status = claim(&mut cluster, name).status.as_mut().unwrap();
        status.conditions = Some(json_tree::from_value(failed).unwrap());
    }
    assert_eq!(edits(&cluster.step()), [""; 0], "two have failed");
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    assert_eq!(edits(&cluster.step()), ["data-web-2 size=2Gi"]);
}

/// rollouts.md C5: a refused size does not hold back the labels of its claim.
#[test]
fn labels_and_sizes_are_edits_of_their_own() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    let mut both = template("data", "2Gi");
    both["metadata"]["labels"] = json!({"chart": "2"});
    set_templates(&mut cluster, &[both]);
    let first = edits(&cluster.step());
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(
        first
            .iter()
            .all(|edit| edit.contains("chart=2") && !edit.contains("size"))
    );
    assert_eq!(edits(&cluster.step()), ["data-web-2 size=2Gi"]);
}

/// A pod's own reason for waiting is told, beside a claim that cannot follow.
#[test]
fn the_reasons_of_pods_come_first() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    cluster.set_image("bad");
    cluster.settle();
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    cluster.refused = vec![Refused {
        action: ActionTarget {
            kind: ActionKind::EditClaim,
            name: "data-web-2".to_owned(),
        },
        message: "no".to_owned(),
    }];
    let plan = plan(&cluster.observed(), cluster.now).unwrap();
    let causes: Vec<(Option<i64>, String)> = plan
        .waiting_on
        .iter()
        .map(|waiting| (waiting.ordinal, waiting.cause.to_string()))
        .collect();
    let of_pod = causes
        .iter()
        .position(|(_, text)| text.contains("pod web-2 is not ready"));
    let of_claim = causes
        .iter()
        .position(|(_, text)| text.contains("claim data-web-2"));
    assert!(of_pod.is_some() && of_pod < of_claim, "{causes:?}");
}

/// rollouts.md C8: a claim that is missing is not up to date.
#[test]
fn missing_claims_are_counted() {
    let mut cluster = three("NewOnly", template("data", "1Gi"));
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    cluster.settle();
    annotate(&mut cluster, UPDATES, "InPlace");
    cluster.step();
    let text = condition(&cluster, "ClaimsUpToDate");
    assert!(text.starts_with("False ClaimsUpdating"), "{text}");
    assert!(text.contains("log: 0 compatible, 3 updating"), "{text}");
}

/// rollouts.md D9: a volume that has grown by itself fits its template, up to the maximum.
#[test]
fn a_volume_that_has_grown_by_itself_fits() {
    let mut cluster = three("", template("data", "1Gi"));
    let policy = json!({"spec": {"setRef": {"name": "web"},
        "claims": {"update": "InPlace", "autogrow": {"max": "3Gi"}}}});
    cluster.policy = Some(Arc::new(json_tree::from_value(policy).unwrap()));
    for (ordinal, size) in [(0, "3Gi"), (1, "4Gi")] {
        let spec = claim(&mut cluster, &format!("data-web-{ordinal}"))
            .spec
            .as_mut()
            .unwrap();
        let requests = spec.resources.as_mut().unwrap().requests.as_mut().unwrap();
        requests.get_mut("storage").unwrap().0 = size.to_owned();
    }
    cluster.grow_volumes(&[]);
    assert_eq!(edits(&cluster.step()), [""; 0]);
    let text = "False ClaimsDiffer: data: 2 compatible, 1 over-sized, 8Gi in total";
    assert_eq!(condition(&cluster, "ClaimsUpToDate"), text);
}
