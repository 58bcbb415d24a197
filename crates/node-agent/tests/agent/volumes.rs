//! Volumes and environment.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::pods::SLEEP;
use crate::world::World;

pub async fn files_environment_and_tokens_are_there_and_follow_their_objects() {
    // statefulset.md 12.11–12.15
    let world = World::started("volumes").await;
    world
        .create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}}))
        .await;
    world
        .create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"p": "pw"}}))
        .await;
    let host = world.dir.join("host");
    let script = format!(
        "cat /m/a /s/p /d/labels /sub/one; echo; head -c 3 /t/token; echo; \
         echo $A $P $N $K; touch /mem/x; echo kept > /host/file; ls -lL /s/p; \
         while [ $(cat /m/a) = 1 ]; do sleep 0.1; done; echo now $(cat /m/a); {SLEEP}"
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
    world.pod("v", spec).await;
    let pod = world.ready("v").await;
    let ip = pod.status.unwrap().pod_ip.unwrap();
    let log = world.logged("v", "c", "/s/p").await;
    assert!(log.starts_with("1pwapp=\"x\"2\neyJ\n"), "{log}");
    assert!(log.contains(&format!("{ip} 2$(P)")), "{log}");
    assert!(log.contains("-r--r-----"), "{log}");
    let file = host.join("file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept\n");

    let patch = json!({"data": {"a": "7"}});
    world
        .api::<ConfigMap>()
        .patch("m", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    world.logged("v", "c", "now 7").await;
    world.delete("v").await;
    world.gone("v").await;
    assert!(file.exists(), "hostPath data is nobody's to delete");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.dir.to_str().unwrap()), "{mounts}");
    world.end().await;
}
