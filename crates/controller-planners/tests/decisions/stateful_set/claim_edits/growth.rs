//! Volumes that still follow an earlier edit, or whose earlier growth failed (rollouts.md C5).

use json_tree::{Value, json};

use super::super::cluster::Cluster;
use super::{claim, edits, set_templates, steps, template, three};

/// Three claims of 1Gi, of which the highest is told to grow to this size.
fn growing(size: &str) -> Cluster {
    let mut cluster = three("InPlace", template("data", "1Gi"));
    set_templates(&mut cluster, &[template("data", size)]);
    let first = edits(&cluster.step());
    assert_eq!(first, [format!("data-web-2 size={size}")]);
    cluster
}

/// Adds these fields to the status of the highest claim.
fn set_status(cluster: &mut Cluster, fields: &Value) {
    let status = claim(cluster, "data-web-2").status.as_mut().unwrap();
    let mut value = json_tree::to_value(&*status).unwrap();
    for (key, field) in fields.as_object().unwrap() {
        value[&**key] = field.clone();
    }
    *status = json_tree::from_value(value).unwrap();
}

/// rollouts.md C5: a volume that grows beyond the present template changes, too.
#[test]
fn an_over_sized_volume_that_grows_holds_the_others() {
    let mut cluster = growing("3Gi");
    set_templates(&mut cluster, &[template("data", "2Gi")]);
    assert_eq!(edits(&cluster.step()), [""; 0]);
    cluster.grow_volumes(&[]);
    let rest = steps(&mut cluster, &[]);
    assert_eq!(rest, ["data-web-1 size=2Gi", "data-web-0 size=2Gi"]);
}

/// rollouts.md C5: the failure of an earlier request is none of the present one, which the driver has not begun yet.
#[test]
fn a_failure_belongs_to_its_request() {
    for (size, next) in [("3Gi", "2Gi"), ("2Gi", "3Gi")] {
        let mut cluster = growing(size);
        let failed = json!({
            "allocatedResources": {"storage": size},
            "allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"},
            "conditions": [{"type": "ControllerResizeError", "status": "True"}],
        });
        set_status(&mut cluster, &failed);
        set_templates(&mut cluster, &[template("data", next)]);
        assert_eq!(edits(&cluster.step()), [format!("data-web-2 size={next}")]);
        assert_eq!(edits(&cluster.step()), [""; 0], "{next}");
        // The driver begins, and fails again.
        set_status(
            &mut cluster,
            &json!({"allocatedResources": {"storage": next}}),
        );
        assert_eq!(edits(&cluster.step()), [format!("data-web-1 size={next}")]);
    }
}

/// rollouts.md C5: a file system that waits for a pod does not wait any more when a larger size is requested.
#[test]
fn a_volume_that_grows_again_does_not_wait_for_a_pod() {
    let mut cluster = growing("2Gi");
    set_status(
        &mut cluster,
        &json!({
            "allocatedResources": {"storage": "2Gi"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}],
        }),
    );
    set_templates(&mut cluster, &[template("data", "3Gi")]);
    assert_eq!(edits(&cluster.step()), ["data-web-2 size=3Gi"]);
    assert_eq!(edits(&cluster.step()), [""; 0]);
    set_status(
        &mut cluster,
        &json!({"allocatedResources": {"storage": "3Gi"}}),
    );
    assert_eq!(edits(&cluster.step()), ["data-web-1 size=3Gi"]);
}
