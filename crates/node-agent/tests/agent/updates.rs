//! Changes of objects and images that a running pod uses.

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube_api_client::{Patch, PatchParams};
use std::os::unix::fs::{MetadataExt, chown};

use crate::block;
use crate::harness::{Harness, phase, state};
use crate::images::layer_with;
use crate::pods::SLEEP;
use crate::registry::Registry;
use crate::spec::shell;

pub async fn secrets_and_labels_reach_a_running_pod() {
    // statefulset.md 12.11, 12.13
    let harness = Harness::started("follow").await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"p": "old"}});
    harness.create::<Secret>(secret).await;
    let script = format!(
        "until test $(cat /s/p) = new; do sleep 0.05; done; echo secret $(cat /s/p); \
         until busybox grep -q blue /d/labels; do sleep 0.05; done; cat /d/labels; echo; \
         until busybox grep -q far /d/annotations; do sleep 0.05; done; echo annotated; {SLEEP}"
    );
    let field =
        |path: &str| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.{path}")}});
    let spec = json!({
        "containers": [{"name": "c", "command": shell(&script), "volumeMounts": [
            {"name": "s", "mountPath": "/s"}, {"name": "d", "mountPath": "/d"}]}],
        "volumes": [
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "d", "downwardAPI": {"items": [field("labels"), field("annotations")]}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let params = PatchParams::default();
    let patch = Patch::Merge(json!({"stringData": {"p": "new"}}));
    let secrets = harness.api::<Secret>();
    secrets.patch("s", &params, &patch).await.unwrap();
    harness.logged("p", "c", "secret new").await;
    let say = async |metadata: Value| {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        harness
            .api::<Pod>()
            .patch("p", &params, &patch)
            .await
            .unwrap();
    };
    say(json!({"labels": {"colour": "blue"}})).await;
    harness.logged("p", "c", "app=\"x\"\ncolour=\"blue\"").await;
    say(json!({"annotations": {"way": "far"}})).await;
    harness.logged("p", "c", "annotated").await;
    harness.end().await;
}

pub async fn a_tag_that_has_moved_is_followed_as_the_policy_says() {
    // statefulset.md 12.9
    let harness = Harness::started("moved").await;
    let version = |text: &str| vec![layer_with(&[("version", text.as_bytes().to_vec())])];
    let registry = Registry::start(&[("app", version("first"))]).await;
    let image = registry.name("app");
    let of = |policy: &str| {
        json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": image, "imagePullPolicy": policy,
                "command": shell(&format!("cat /version; echo; {SLEEP}"))}]})
    };
    let says = async |name: &str, policy: &str, version: &str| {
        harness.pod(name, of(policy)).await;
        harness.ready(name).await;
        harness.logged(name, "c", version).await;
    };
    says("before", "Always", "first").await;
    registry.put("app", &version("second"));
    says("present", "IfNotPresent", "first").await;
    says("moved", "Always", "second").await;
    // The next instance of a container uses the present image of the tag.
    let uid = harness.ready("before").await.metadata.uid.unwrap();
    let sandbox = harness.runtime.sandbox(&uid).await.unwrap().unwrap();
    sandbox.signal("c-0", 9).await.unwrap();
    let again = |pod: &_| state(pod, "c") == ("running".to_owned(), 1);
    harness.until("before", "running again", again).await;
    harness.logged("before", "c", "second").await;

    // Without the registry, the present image is used if the pull policy allows it.
    drop(registry);
    harness.pod("asks", of("Always")).await;
    let failed = |pod: &_| state(pod, "c").0 == "ErrImagePull";
    harness.until("asks", "refused", failed).await;
    says("takes", "IfNotPresent", "second").await;
    harness.end().await;
}

pub async fn a_volume_is_given_to_the_group_as_the_policy_says() {
    // statefulset.md 12.16
    let harness = Harness::started("owners").await;
    let path = harness.dir.join("volume-of-node");
    std::fs::create_dir(&path).unwrap();
    let create_file = |name: &str| {
        let file = path.join(name);
        std::fs::write(&file, "").unwrap();
        chown(&file, Some(0), Some(0)).unwrap();
        file
    };
    block::claim(&harness, "data", &path, "Filesystem", None).await;
    let run = async |name: &str, policy: Option<&str>| {
        let spec = json!({"restartPolicy": "Never",
            "securityContext": {"fsGroup": 3000, "fsGroupChangePolicy": policy},
            "containers": [{"name": "c", "command": shell("touch /data/$NAME /own/file"),
                "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"},
                    {"name": "data", "mountPath": "/own", "subPathExpr": "of/$(NAME)"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]});
        harness.pod(name, spec).await;
        let done = |pod: &Pod| phase(pod) == "Succeeded";
        harness.until(name, "done", done).await;
        harness.delete(name).await;
        harness.wait_deleted(name).await;
    };
    let group = |file: &std::path::Path| std::fs::metadata(file).unwrap().gid();
    let early = create_file("early");
    run("first", Some("OnRootMismatch")).await;
    assert_eq!(group(&path), 3000);
    assert_eq!(group(&early), 3000);
    // Files that the pod creates get the group through the setgid bit of the directory.
    assert_eq!(group(&path.join("first")), 3000);
    assert_eq!(group(&path.join("of/first/file")), 3000);
    let later = create_file("later");
    run("second", Some("OnRootMismatch")).await;
    assert_eq!(group(&later), 0);
    run("third", Some("Always")).await;
    assert_eq!(group(&later), 3000);
    let last = create_file("last");
    run("fourth", None).await;
    assert_eq!(group(&last), 3000);
    harness.end().await;
}
