//! `mainstay volume`: its output about the volumes of a server (docs/storage.md).

use end_to_end::program::{mainstay, ok};
use end_to_end::{Instance, wait_for};
use serde_json::Value;

const OBJECTS: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: plain}
spec:
  storageClassName: local
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: pooled}
spec:
  storageClassName: local-cow
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: unused}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  containers:
  - name: shell
    image: mainstay/debug
    command: [sh, -c, 'head -c 8388608 /dev/urandom >/plain/file; cp /plain/file /pooled/file; sync; sleep infinity']
    volumeMounts:
    - {name: plain, mountPath: /plain}
    - {name: pooled, mountPath: /pooled}
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: plain, persistentVolumeClaim: {claimName: plain}}
  - {name: pooled, persistentVolumeClaim: {claimName: pooled}}
";

const SNAPSHOT: &str = "
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: kept}
spec:
  source: {persistentVolumeClaimName: pooled}
";

#[test]
fn claims_are_listed_with_their_volumes() {
    let instance = Instance::start(&["--default-class", "local-cow"]);
    let kubectl = instance.kubectl();
    let applied = kubectl.run_with_input(&["apply", "-f", "-"], OBJECTS);
    assert_eq!(applied.code, 0, "{applied:#?}");
    kubectl.wait_pods_ready(&["pod/writer"]);
    kubectl.apply(SNAPSHOT);
    let data = instance.data().display().to_string();
    let list = |more: &[&str]| ok(&[&["volume", "ls", "--data-dir", &data], more].concat());
    let claims = wait_for("the usage of the volumes", 120, || {
        let all: Value = serde_json::from_str(&list(&["-o", "json"])).expect("JSON");
        let claims = all["claims"].as_array().expect("claims").clone();
        let used = |at: usize| claims[at]["usedBytes"].as_i64().unwrap_or(0);
        match claims.len() == 3 && used(0) >= 8 << 20 && used(1) >= 8 << 20 {
            true => Ok(claims),
            false => Err(all),
        }
    });
    let [plain, pooled, unused] = [&claims[0], &claims[1], &claims[2]];
    let node = &kubectl.pod("writer")["spec"]["nodeName"];
    for (claim, class) in [(plain, "local"), (pooled, "local-cow")] {
        assert_eq!(claim["status"], "Bound");
        assert_eq!(claim["class"], *class);
        assert_eq!(claim["nodes"][0], *node);
        assert_eq!(claim["requestedBytes"], 64 << 20);
        assert!(claim["usedBytes"].as_i64() < Some(32 << 20), "{claim}");
        assert_eq!(claim["pods"][0], "writer");
    }
    // Whether the class local enforces sizes depends on the file system of the data directory.
    assert!(plain["sizeEnforced"].is_boolean(), "{plain}");
    assert_eq!(pooled["sizeEnforced"], true);
    let is_warned = applied
        .stderr
        .contains("does not enforce the size of volumes on");
    assert_eq!(is_warned, plain["sizeEnforced"] == false, "{applied:#?}");
    for (name, expected) in [("plain", !is_warned), ("pooled", true)] {
        let condition =
            "jsonpath={.status.conditions[?(@.type==\"mainstay.dev/SizeEnforced\")].status}";
        wait_for("the condition of the claim", 60, || {
            let printed = kubectl.ok(&["get", "pvc", name, "-o", condition]);
            match printed == if expected { "True" } else { "False" } {
                true => Ok(()),
                false => Err(printed),
            }
        });
    }
    assert_eq!(unused["class"], "local-cow", "the default class");
    assert_eq!(
        (&plain["snapshots"], &pooled["snapshots"]),
        (&0.into(), &1.into())
    );
    assert!(pooled["newestSnapshot"].is_string(), "{pooled}");
    assert_eq!(unused["status"], "Pending");
    assert!(
        unused["volume"].is_null() && unused["nodes"].is_null(),
        "{unused}"
    );
    let table = list(&[]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let head = [
        "NAME",
        "STATUS",
        "CLASS",
        "VOLUME",
        "NODE",
        "REQUEST",
        "USED",
        "ENFORCED",
        "SNAPSHOTS",
        "NEWEST",
        "PODS",
    ];
    assert_eq!(rows[0], head);
    assert_eq!(rows[2][..3], ["pooled", "Bound", "local-cow"]);
    assert_eq!(rows[2][7..9], ["yes", "1"]);
    assert!(list(&["-A", "-o", "wide"]).starts_with("NAMESPACE"));
    assert!(list(&["-o", "yaml"]).contains("\n  name: pooled\n"));
    let none = mainstay(&["volume", "ls", "-n", "empty", "--data-dir", &data]);
    assert!(none.status.success() && none.stdout.is_empty(), "{none:?}");
    kubectl.ok(&["delete", "pod", "writer"]);
}
