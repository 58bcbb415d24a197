//! Volumes and environment.

use json_tree::json;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, Secret};
use kube_api_client::{Api, Patch, PatchParams};

use crate::block;
use crate::harness::Harness;
use crate::pods::SLEEP;

pub async fn files_environment_and_tokens_are_there_and_follow_their_objects() {
    // statefulset.md 12.11–12.15
    let harness = Harness::started("volumes").await;
    harness
        .create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}}))
        .await;
    harness
        .create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"p": "pw"}}))
        .await;
    let host = harness.dir.join("host");
    let script = format!(
        "cat /m/a /s/p /d/labels /sub/one; echo; head -c 3 /t/token; echo; \
         echo $A $P $N $K; touch /mem/x; echo kept > /host/file; ls -lL /s/p; \
         while [ $(cat /m/a) = 1 ]; do sleep 0.1; done; echo now $(cat /m/a); \
         while [ $(cat /m/a) != 40 ]; do sleep 0.1; done; echo last; {SLEEP}"
    );
    let spec = json!({
        "securityContext": {"fsGroup": 2000},
        "containers": [{
            "name": "c", "command": ["sh", "-c", script],
            "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "b"}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "K", "value": "$(A)$(P)"}],
            "envFrom": [{"prefix": "", "secretRef": {"name": "s"}},
                {"prefix": "P", "configMapRef": {"name": "none", "optional": true}}],
            "volumeMounts": [
                {"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s"},
                {"name": "d", "mountPath": "/d"}, {"name": "t", "mountPath": "/t"},
                {"name": "m", "mountPath": "/sub/one", "subPath": "b"},
                {"name": "mem", "mountPath": "/mem"}, {"name": "host", "mountPath": "/host"}]}],
        "volumes": [
            {"name": "m", "configMap": {"name": "m"}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
            {"name": "d", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "m"}}]}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}]});
    harness.pod("v", spec).await;
    let pod = harness.ready("v").await;
    let ip = pod.status.unwrap().pod_ip.unwrap();
    let log = harness.logged("v", "c", "/s/p").await;
    assert!(log.starts_with("1pwapp=\"x\"2\neyJ\n"), "{log}");
    assert!(log.contains(&format!("{ip} 2$(P)")), "{log}");
    assert!(log.contains("-r--r-----"), "{log}");
    let file = host.join("file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept\n");

    let patch = json!({"data": {"a": "7"}});
    harness
        .api::<ConfigMap>()
        .patch("m", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    harness.logged("v", "c", "now 7").await;
    // One change after another, some of them while the files are being built.
    for value in 8..=40 {
        let patch = Patch::Merge(json!({"data": {"a": value.to_string()}}));
        let maps = harness.api::<ConfigMap>();
        let patched = maps.patch("m", &PatchParams::default(), &patch).await;
        patched.unwrap();
    }
    harness.logged("v", "c", "last").await;
    harness.delete("v").await;
    harness.wait_deleted("v").await;
    assert!(file.exists(), "hostPath data is nobody's to delete");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(harness.dir.to_str().unwrap()), "{mounts}");
    harness.end().await;
}

pub async fn a_token_is_for_the_user_that_the_pod_has() {
    // statefulset.md 12.13
    let harness = Harness::started("tokens").await;
    harness
        .create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "1"}}))
        .await;
    let ids = "busybox stat -L -c '%u:%g %a' /t/token /t/a";
    let script = format!(
        "{ids}; test -r /t/token && echo read; while [ $(cat /t/a) = 1 ]; do sleep 0.1; done; \
         {ids}; echo end; {SLEEP}"
    );
    let spec = |context: json_tree::Value, host_users: bool| {
        json!({
            "securityContext": context, "hostUsers": host_users,
            "initContainers": [{"name": "i", "command": ["test", "-r", "/t/token"],
                "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
            "containers": [{"name": "c", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
            "volumes": [{"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "m"}}]}}]})
    };
    let user = json!({"runAsUser": 1000, "runAsGroup": 3000});
    let group = json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000});
    harness.pod("user", spec(user.clone(), true)).await;
    harness.pod("group", spec(group, true)).await;
    harness.pod("own", spec(user, false)).await;
    harness.pod("any", spec(json!({}), true)).await;
    for name in ["user", "group", "own", "any"] {
        harness.ready(name).await;
        harness.logged(name, "c", "read").await;
    }
    // All files of a volume are rebuilt together, with a new token.
    let patch = Patch::Merge(json!({"data": {"a": "2"}}));
    let maps = harness.api::<ConfigMap>();
    maps.patch("m", &PatchParams::default(), &patch)
        .await
        .unwrap();
    for (name, token, file) in [
        ("user", "1000:0 600", "0:0 644"),
        ("group", "1000:2000 640", "0:2000 644"),
        ("own", "1000:0 600", "0:0 644"),
        ("any", "0:0 644", "0:0 644"),
    ] {
        let log = harness.logged(name, "c", "end").await;
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines, [token, file, "read", token, file, "end"], "{name}");
    }
    for name in ["user", "group", "own", "any"] {
        harness.delete(name).await;
        harness.wait_deleted(name).await;
    }
    harness.end().await;
}

pub async fn a_claim_keeps_what_a_pod_wrote() {
    // statefulset.md 12.7, 12.13
    let harness = Harness::started("claim").await;
    let path = harness.dir.join("volumes-of-node");
    let sleep = |script: &str| json!(["sh", "-c", format!("{script}; {SLEEP}")]);
    let spec = |script: &str| {
        json!({"securityContext": {"fsGroup": 3000}, "containers": [
            {"name": "c", "command": sleep(script),
                "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "a/b"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]})
    };
    harness.pod("first", spec("echo kept > /data/file")).await;
    harness
        .event("first", "persistentvolumeclaim \"data\" not found")
        .await;
    let claim = block::ask(&harness, "data", "Filesystem").await;
    harness
        .event("first", "PVC default/data is not bound")
        .await;
    block::bind(&harness, &claim, &path, "Filesystem", None).await;
    harness.event("first", "does not exist").await;
    // A directory is not mounted, so mount options have no effect.
    let options = json!({"spec": {"mountOptions": ["bind", "noexec", "a\0b"]}});
    let volumes: Api<PersistentVolume> = Api::all(harness.client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Merge(options));
    volumes.patch("pv-data", &params, &patch).await.unwrap();
    std::fs::create_dir_all(&path).unwrap();
    harness.ready("first").await;
    let ignored = "Warning UnsupportedMountOption The mount options of volume \"pv-data\" have no effect: it is a \
        directory of the node (bind,noexec,a\\0b)";
    harness.event("first", ignored).await;
    let file = path.join("a/b/file");
    harness.delete("first").await;
    harness.wait_deleted("first").await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept\n");
    harness.pod("second", spec("cat /data/file")).await;
    harness.ready("second").await;
    harness.logged("second", "c", "kept").await;
    harness.delete("second").await;
    harness.wait_deleted("second").await;
    assert!(file.exists(), "a claim's data is nobody's to delete");
    harness.end().await;
}
