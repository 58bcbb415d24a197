//! Claim templates that are added or removed (rollouts.md C7).

use json_tree::json;

use super::super::cluster::Cluster;
use super::super::situation::describe;
use super::{UPDATES, annotate, annotation, condition, set_templates, template, three};

const UNUSED: &str = "apps.mainstay.dev/unused-since";
const REMOVED: &str = "apps.mainstay.dev/removed-claim-templates";

/// rollouts.md C7, C8: a new template remakes the pods in the order of a rollout, without a new revision.
#[test]
fn a_new_template_remakes_the_pods() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    let revisions = cluster.revisions.len();
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    let plan = cluster.step();
    let status = plan.status.clone().unwrap();
    assert_eq!(status.updated_replicas, Some(0));
    let text = condition(&cluster, "Progressing");
    assert!(text.starts_with("True UpdatingPods"), "{text}");
    cluster.settle();
    let rolled = [
        "-web-2", "+web-2:a", "-web-1", "+web-1:a", "-web-0", "+web-0:a",
    ];
    assert_eq!(cluster.log, rolled);
    assert_eq!(cluster.revisions.len(), revisions);
    assert_eq!(
        cluster.set.status.as_ref().unwrap().updated_replicas,
        Some(3)
    );
    for ordinal in 0..3 {
        assert!(cluster.claims.contains_key(&format!("log-web-{ordinal}")));
    }
}

/// rollouts.md C7: the claims of a removed template stay, and are marked when no pod uses them any more.
#[test]
fn claims_of_a_removed_template_are_kept_and_marked() {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    cluster.settle();
    cluster.grow_volumes(&[]);
    cluster.settle();
    cluster.log.clear();
    let removed = json!([template("log", "1Gi")]).to_string();
    annotate(&mut cluster, REMOVED, &removed);
    set_templates(&mut cluster, &[template("data", "1Gi")]);
    cluster.step();
    assert_eq!(
        annotation(&cluster, "log-web-2", UNUSED),
        None,
        "a pod uses it"
    );
    cluster.settle();
    let rolled = [
        "-web-2", "+web-2:a", "-web-1", "+web-1:a", "-web-0", "+web-0:a",
    ];
    assert_eq!(cluster.log, rolled);
    for ordinal in 0..3 {
        let claim = format!("log-web-{ordinal}");
        assert!(annotation(&cluster, &claim, UNUSED).is_some(), "{claim}");
        assert_eq!(
            annotation(&cluster, &format!("data-web-{ordinal}"), UNUSED),
            None
        );
    }
    // The template returns: its claims are used again.
    cluster
        .set
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .remove(REMOVED);
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    cluster.settle();
    assert_eq!(annotation(&cluster, "log-web-0", UNUSED), None);
}

/// rollouts.md R28, C7: the guard holds pods that are to be remade for their claims.
#[test]
fn the_guard_holds_pods_that_are_remade_for_their_claims() {
    let mut cluster = Cluster::new("set replicas=3 new claims=data parallel max=3 guard=Quorum");
    annotate(&mut cluster, UPDATES, "InPlace");
    set_templates(&mut cluster, &[template("data", "1Gi")]);
    cluster.settle();
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    let text = describe(&cluster.step());
    assert_eq!(text.matches("evict ").count(), 1, "{text}");
}

fn owners(cluster: &Cluster, claim: &str) -> Vec<String> {
    let owners = cluster.claims[claim].metadata.owner_references.iter();
    owners.flatten().map(|owner| owner.kind.clone()).collect()
}

/// Removes the template `log`, as the API server stores it.
fn remove_log(cluster: &mut Cluster) {
    let removed = json!([template("log", "1Gi")]).to_string();
    annotate(cluster, REMOVED, &removed);
    set_templates(cluster, &[template("data", "1Gi")]);
}

/// Three pods with the templates `data` and `log`.
fn with_log(updates: &str, options: &str) -> Cluster {
    let mut cluster = Cluster::new(&format!("set replicas=3 new claims=data,log {options}"));
    annotate(&mut cluster, UPDATES, updates);
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    cluster.settle();
    cluster.grow_volumes(&[]);
    cluster.settle();
    cluster.log.clear();
    cluster
}

/// rollouts.md C7: the claims of a removed template lose the owners that would delete them with the set or a pod.
#[test]
fn claims_of_a_removed_template_have_no_owner_that_deletes_them() {
    for updates in ["InPlace", "NewOnly", ""] {
        let mut cluster = with_log(updates, "deleted=Delete scaled=Delete");
        assert_eq!(owners(&cluster, "log-web-0"), ["StatefulSet"], "{updates}");
        // The highest pod owns its claims when the template goes, and the set is scaled up in the same write.
        cluster.edit(|spec| spec.replicas = Some(2));
        cluster.step();
        assert_eq!(owners(&cluster, "log-web-2"), ["Pod"], "{updates}");
        cluster.edit(|spec| spec.replicas = Some(3));
        remove_log(&mut cluster);
        cluster.settle();
        for ordinal in 0..3 {
            let claim = format!("log-web-{ordinal}");
            assert_eq!(owners(&cluster, &claim), [""; 0], "{updates} {claim}");
            let claim = format!("data-web-{ordinal}");
            assert_eq!(owners(&cluster, &claim), ["StatefulSet"], "{updates}");
        }
    }
}

/// rollouts.md C7: a pod template that names a kept claim uses it, and its pods are not remade without end.
#[test]
fn a_pod_template_may_name_a_kept_claim() {
    let mut cluster = Cluster::new("set replicas=1 new claims=data,log");
    annotate(&mut cluster, UPDATES, "InPlace");
    set_templates(
        &mut cluster,
        &[template("data", "1Gi"), template("log", "1Gi")],
    );
    cluster.settle();
    remove_log(&mut cluster);
    let volume = json!({"name": "old", "persistentVolumeClaim": {"claimName": "log-web-0"}});
    cluster.edit(|spec| {
        let pod = spec.template.spec.as_mut().unwrap();
        pod.volumes = Some(vec![json_tree::from_value(volume).unwrap()]);
    });
    cluster.settle();
    assert_eq!(cluster.log.last().map(String::as_str), Some("+web-0:a"));
    assert!(cluster.step().is_idle());
    assert_eq!(annotation(&cluster, "log-web-0", UNUSED), None);
}

/// rollouts.md C7: a pod that is made again at an older revision gets the volumes that this revision mounts, and a new
/// ordinal of that revision its claim.
#[test]
fn an_older_revision_keeps_its_volumes() {
    for updates in ["InPlace", "NewOnly"] {
        let mut cluster = with_log(updates, "deleted=Delete");
        let mount = json!({"name": "log", "mountPath": "/log"});
        let mount: k8s_openapi::api::core::v1::VolumeMount = json_tree::from_value(mount).unwrap();
        cluster.edit(|spec| {
            let pod = spec.template.spec.as_mut().unwrap();
            pod.containers[0].volume_mounts = Some(vec![mount]);
        });
        cluster.settle();
        remove_log(&mut cluster);
        cluster.edit(|spec| {
            let pod = spec.template.spec.as_mut().unwrap();
            pod.containers[0].volume_mounts = None;
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 5}});
            spec.update_strategy = Some(json_tree::from_value(strategy).unwrap());
            spec.replicas = Some(4);
        });
        cluster.pods.remove("web-0");
        cluster.settle();
        for ordinal in [0, 3] {
            let pod = cluster.pods[&format!("web-{ordinal}")]
                .spec
                .as_ref()
                .unwrap();
            let names: Vec<&str> = pod
                .volumes
                .iter()
                .flatten()
                .map(|v| v.name.as_str())
                .collect();
            assert_eq!(names, ["data", "log"], "{updates} {ordinal}");
        }
        assert_eq!(owners(&cluster, "log-web-3"), [""; 0], "{updates}");
        assert_eq!(annotation(&cluster, "log-web-0", UNUSED), None, "{updates}");
    }
}
