//! What statuses say of containers besides their states.

use serde_json::json;

use crate::world::World;

#[test]
fn a_running_container_has_its_user_and_its_mounts() {
    // statefulset.md 12.1
    let mount = |name: &str, extra: serde_json::Value| {
        let mut whole = json!({"name": name, "mountPath": format!("/{name}")});
        for (key, value) in extra.as_object().unwrap() {
            whole[key] = value.clone();
        }
        whole
    };
    let mut world = World::new(
        json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [
        mount("data", json!({})),
        mount("conf", json!({"readOnly": true})),
        mount("deep", json!({"readOnly": true, "recursiveReadOnly": "IfPossible"}))]}]}),
    );
    world.pass(0);
    let statuses = world.status.container_statuses.clone().unwrap();
    let shown = serde_json::to_value(&statuses[0]).unwrap();
    assert_eq!(
        shown["user"],
        json!({"linux": {"uid": 1000, "gid": 2000, "supplementalGroups": [2000]}})
    );
    assert_eq!(
        shown["volumeMounts"],
        json!([
            {"name": "data", "mountPath": "/data"},
            {"name": "conf", "mountPath": "/conf", "readOnly": true,
                "recursiveReadOnly": "Disabled"},
            {"name": "deep", "mountPath": "/deep", "readOnly": true,
                "recursiveReadOnly": "Enabled"}])
    );
}

#[test]
fn while_an_image_is_pulled_again_its_trouble_is_shown() {
    // statefulset.md 12.9
    let mut world = World::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    let trouble = ("ErrImagePull", "not found");
    world.behaviour.bad_images.insert("c", trouble);
    world.pass(3);
    world.record.container("c").image.ensure();
    world.pass(1);
    assert_eq!(
        world.state("c"),
        "waiting ImagePullBackOff, ready false, restarts 0"
    );
}
