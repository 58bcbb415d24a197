//! Fields of a pod apart from commands, volumes of claims and probes.

use json_tree::json;
use k8s_openapi::api::core::v1::ConfigMap;
use kube_api_client::{Patch, PatchParams};

use crate::harness::{Harness, phase};
use crate::pods::SLEEP;

/// A command that runs a script.
pub fn shell(script: &str) -> json_tree::Value {
    json!(["sh", "-c", script])
}

pub async fn kernel_parameters_are_the_pods_own_or_refused() {
    // statefulset.md 12.16
    let harness = Harness::started("sysctls").await;
    let serves = "nc -l -p 80 & sleep 0.3; kill -0 $! && echo serving as $(busybox id -u)";
    let script = format!("cat /proc/sys/net/ipv4/tcp_keepalive_time; {serves}; {SLEEP}");
    let spec = json!({
        "securityContext": {"runAsUser": 1000, "sysctls": [
            {"name": "net.ipv4.tcp_keepalive_time", "value": "77"}]},
        "containers": [{"name": "c", "command": shell(&script)}]});
    harness.pod("safe", spec).await;
    let status = harness.ready("safe").await.status.unwrap();
    let log = harness.logged("safe", "c", "serving").await;
    assert_eq!(log, "77\nserving as 1000\n");
    let user = status.container_statuses.unwrap()[0].user.clone().unwrap();
    assert_eq!(user.linux.unwrap().uid, 1000);
    let spec = json!({
        "securityContext": {"sysctls": [{"name": "kernel.shmmax", "value": "1"}]},
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("unsafe", spec).await;
    let refused = |pod: &_| phase(pod) == "Failed";
    let status = harness
        .until("unsafe", "refused", refused)
        .await
        .status
        .unwrap();
    assert_eq!(status.reason.as_deref(), Some("SysctlForbidden"));
    let message = "Pod was rejected: forbidden sysctl: \"kernel.shmmax\" not allowlisted";
    assert_eq!(status.message.as_deref(), Some(message));
    harness
        .event("unsafe", "Warning SysctlForbidden forbidden sysctl")
        .await;
    harness.delete("unsafe").await;
    harness.wait_deleted("unsafe").await;
    harness.end().await;
}

pub async fn images_are_volumes_and_files_of_the_node_are_profiles() {
    // statefulset.md 12.14, 12.16
    let harness = Harness::started("imagevolume").await;
    let profiles = harness.dir.join("seccomp/db");
    std::fs::create_dir_all(&profiles).unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(profiles.join("strict.json"), profile).unwrap();
    let script = "ls /whole /part | busybox grep -c busybox; touch /whole/x || echo read-only; \
        /whole/bin/busybox true || echo not executed; busybox mkdir /x || echo no directory; done";
    let script = script.replace("done", SLEEP);
    let spec = json!({
        "containers": [{"name": "c", "command": shell(&script),
            "securityContext": {"seccompProfile":
                {"type": "Localhost", "localhostProfile": "db/strict.json"}},
            "volumeMounts": [{"name": "i", "mountPath": "/whole"},
                {"name": "i", "mountPath": "/part", "subPath": "bin"}]}],
        "volumes": [{"name": "i", "image": {"reference": crate::harness::IMAGE,
            "pullPolicy": "IfNotPresent"}}]});
    harness.pod("i", spec).await;
    harness.ready("i").await;
    let log = harness.logged("i", "c", "no directory").await;
    for line in ["1\n", "read-only\n", "not executed\n"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    let missing = json!({
        "containers": [{"name": "c", "command": shell(SLEEP),
            "volumeMounts": [{"name": "i", "mountPath": "/whole"}]}],
        "volumes": [{"name": "i", "image": {"reference": "test/none:1", "pullPolicy": "Never"}}]});
    harness.pod("missing", missing).await;
    harness
        .event("missing", "MountVolume.SetUp failed for volume \"i\"")
        .await;
    harness.end().await;
}

pub async fn files_of_objects_change_at_once_but_not_those_mounted_alone() {
    // statefulset.md 12.13
    let harness = Harness::started("swap").await;
    let config = json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "1"}});
    harness.create::<ConfigMap>(config).await;
    // The script reads both files through one open directory, so the files have one state, or are deleted.
    let script = format!(
        "while true; do cd /m/..data && s=$(cat a b 2>/dev/null); cd /; \
         case $s in 22) break;; 12|21) echo torn;; esac; done; \
         echo now $(cat /m/a) alone $(cat /one); {SLEEP}"
    );
    let spec = json!({
        "containers": [{"name": "c", "command": shell(&script), "volumeMounts": [
            {"name": "m", "mountPath": "/m"},
            {"name": "m", "mountPath": "/one", "subPath": "a"}]}],
        "volumes": [{"name": "m", "configMap": {"name": "m"}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let patch = Patch::Merge(json!({"data": {"a": "2", "b": "2"}}));
    let maps = harness.api::<ConfigMap>();
    maps.patch("m", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let log = harness.logged("p", "c", "now").await;
    assert_eq!(log, "now 2 alone 1\n");
    harness.end().await;
}

pub async fn an_init_container_may_write_the_environment() {
    // statefulset.md 12.12
    let harness = Harness::started("envfile").await;
    let write = "printf \"# made here\\nHOST='db-0'\\n\" > /conf/made.env";
    let reference = |key: &str, optional: bool| {
        json!({"fileKeyRef": {"volumeName": "conf", "path": "made.env", "key": key,
            "optional": optional}})
    };
    let script = format!("echo host $HOST port ${{PORT-unset}}; {SLEEP}");
    let spec = json!({
        "initContainers": [{"name": "i", "command": ["busybox", "sh", "-c", write],
            "volumeMounts": [{"name": "conf", "mountPath": "/conf"}]}],
        "containers": [{"name": "c", "command": shell(&script), "env": [
            {"name": "HOST", "valueFrom": reference("HOST", false)},
            {"name": "PORT", "valueFrom": reference("PORT", true)}]}],
        "volumes": [{"name": "conf", "emptyDir": {}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let log = harness.logged("p", "c", "host").await;
    assert_eq!(log, "host db-0 port unset\n");
    harness.end().await;
}
