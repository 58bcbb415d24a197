//! From the objects to the table.

use json_tree::{Value, json};

use super::model::{self, list};
use super::objects::VolumeObjects;
use super::render::{Columns, table};

const NOW: &str = "2026-01-01T01:00:00Z";

fn decoded<T: serde::de::DeserializeOwned>(object: Value) -> T {
    json_tree::from_value(object).unwrap()
}

fn claim(name: &str, class: &str, volume: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"storageClassName": class, "volumeName": volume, "volumeMode": "Filesystem",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
        "status": {"phase": if volume.is_null() { "Pending" } else { "Bound" },
            "capacity": {"storage": "67108864"}}})
}

fn volume(name: &str, provisioner: &str, node: &str) -> Value {
    json!({"metadata": {"name": name,
            "annotations": {"pv.kubernetes.io/provisioned-by": provisioner}},
        "spec": {"local": {"path": format!("/v/{name}")}, "persistentVolumeReclaimPolicy": "Delete",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
}

fn snapshot(name: &str, claim: &str, time: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"source": {"persistentVolumeClaimName": claim}},
        "status": {"creationTime": time, "readyToUse": true}})
}

fn pod(name: &str, claim: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "b", "containers": [],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": claim}}]},
        "status": {"phase": phase}})
}

fn observed() -> VolumeObjects {
    let mut nfs = volume("pvc-4", "mainstay.dev/nfs", "");
    nfs["spec"] = json!({"nfs": {"server": "s", "path": "/srv/4"}});
    let mut replicated = volume("pvc-1", "mainstay.dev/local-cow", "a");
    let record = json!({"epoch": 2, "primary": "a", "replica": "b", "intervalSeconds": 10,
        "stage": "Replicating", "last": 1_767_229_196_000_i64,
        "diverged": [{"node": "a", "snapshot": "diverged-1-pvc-1"}]});
    replicated["metadata"]["annotations"]["node.mainstay.dev/volume-replication"] =
        record.to_string().into();
    let mut image = volume("pvc-5", "mainstay.dev/local", "a");
    image["spec"]["volumeMode"] = "Block".into();
    let mut of_pod = pod("tmp", "", "Running");
    of_pod["spec"]["volumes"] = json!([{"name": "scratch", "ephemeral": {}}]);
    VolumeObjects {
        claims: vec![
            decoded(claim("tmp-scratch", "local", Value::Null)),
            decoded(claim("data-db-0", "local-cow", "pvc-1".into())),
            decoded(claim("data-db-1", "local", "pvc-2".into())),
            decoded(claim("data-db-2", "local", "pvc-3".into())),
            decoded(claim("shared", "nfs", "pvc-4".into())),
            decoded(claim("device", "local", "pvc-5".into())),
        ],
        volumes: vec![
            decoded(replicated),
            decoded(volume("pvc-2", "mainstay.dev/local", "b")),
            decoded(volume("pvc-3", "k8s.io/minikube-hostpath", "a")),
            decoded(nfs),
            decoded(image),
        ],
        pods: Some(vec![
            decoded(pod("db-0", "data-db-0", "Running")),
            decoded(pod("old", "data-db-0", "Succeeded")),
            decoded(pod("web-1", "shared", "Running")),
            decoded(pod("web-0", "shared", "Pending")),
            decoded(of_pod),
        ]),
        snapshots: Some(vec![
            decoded(snapshot("s1", "data-db-0", "2026-01-01T00:10:00Z")),
            decoded(snapshot("s2", "data-db-0", "2026-01-01T00:55:00Z")),
            decoded(snapshot("s3", "other", "2026-01-01T00:56:00Z")),
        ]),
        figures: vec![
            json!({"node": {"nodeName": "a", "fs": {"capacityBytes": 40_i64 << 30}},
                "localVolumes": [{"path": "/v/pvc-1", "usedBytes": 3 << 20, "limitBytes": 64 << 20},
                    {"path": "/v/pvc-3", "usedBytes": 5 << 20, "limitBytes": 64 << 20}]}),
            json!({"node": {"nodeName": "b", "fs": {"capacityBytes": 40_i64 << 30}},
                "localVolumes": [{"path": "/v/pvc-2", "usedBytes": 80 << 20}],
                "pods": [{"volume": [{"pvcRef": {"name": "shared", "namespace": "shop"},
                    "capacityBytes": 1_i64 << 40, "usedBytes": 7_i64 << 30}]}]}),
        ],
        notes: Vec::new(),
    }
}

fn printed(columns: Columns, with_namespaces: bool) -> Vec<String> {
    let list = list(&observed());
    let text = table(&list.claims, columns, with_namespaces, NOW.parse().unwrap());
    text.lines().map(str::to_owned).collect()
}

/// docs/storage.md: the columns are stable.
#[test]
fn each_claim_is_a_row() {
    let expected = [
        "NAME          STATUS    CLASS       VOLUME   NODE    REQUEST   USED    ENFORCED   SNAPSHOTS   NEWEST   PODS",
        "data-db-0     Bound     local-cow   pvc-1    a       64Mi      3.0Mi   yes        2           5m       db-0",
        "data-db-1     Bound     local       pvc-2    b       64Mi      80Mi    no         0           -        <none>",
        "data-db-2     Bound     local       pvc-3    a       64Mi      5.0Mi   yes        0           -        <none>",
        "device        Bound     local       pvc-5    a       64Mi      -       yes        0           -        <none>",
        "shared        Bound     nfs         pvc-4    <any>   64Mi      7.0Gi   no         0           -        web-0,web-1",
        "tmp-scratch   Pending   local       -        -       64Mi      -       -          0           -        tmp",
    ];
    assert_eq!(printed(Columns::Usual, false), expected);
}

/// Before its first measurement, a volume of the pool would show the usage of the pool.
#[test]
fn the_usage_of_the_pool_is_not_that_of_a_volume() {
    let mut observed = observed();
    observed.figures = vec![
        json!({"node": {"nodeName": "a", "fs": {"capacityBytes": 40_i64 << 30}},
        "pods": [{"volume": [{"pvcRef": {"name": "data-db-0", "namespace": "shop"},
            "capacityBytes": 1_i64 << 40, "usedBytes": 7_i64 << 30}]}]}),
    ];
    let claims = list(&observed).claims;
    let text = table(&claims, Columns::Usual, false, NOW.parse().unwrap());
    let row = text.lines().find(|line| line.starts_with("data-db-0"));
    let row = row.unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row[6], "-", "{text}");
}

#[test]
fn the_wide_table_has_more_columns_and_all_namespaces_have_names() {
    let lines = printed(Columns::Wide, true);
    assert!(lines[0].starts_with("NAMESPACE   NAME "), "{lines:#?}");
    assert!(
        lines[0]
            .ends_with("   CAPACITY   MODE         ACCESS   RECLAIM   REPLICA   LAG   DIVERGED"),
        "{lines:#?}"
    );
    assert!(lines[1].starts_with("shop        data-db-0 "), "{lines:#?}");
    assert!(
        lines[1].ends_with(
            "   64Mi       Filesystem   RWO      Delete    b         4s    a/diverged-1-pvc-1"
        ),
        "{lines:#?}"
    );
}

#[test]
fn facts_that_are_not_known_are_left_out() {
    let mut observed = observed();
    observed.pods = None;
    observed.snapshots = None;
    observed.figures = Vec::new();
    observed.volumes = Vec::new();
    let value = json_tree::to_value(list(&observed)).unwrap();
    let expected = json!({"namespace": "shop", "name": "data-db-1", "status": "Bound",
        "class": "local", "volume": "pvc-2", "requested": "64Mi", "requestedBytes": 64 << 20,
        "capacity": "67108864", "volumeMode": "Filesystem", "accessModes": ["ReadWriteOnce"]});
    assert_eq!(value["claims"][1], expected);
}

#[test]
fn the_nodes_with_the_data_and_with_the_pods_are_asked() {
    let nodes = model::nodes(&observed());
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

/// The affinity may name the node with another label than the host name.
#[test]
fn another_affinity_names_no_node() {
    let mut observed = observed();
    let affinity = observed.volumes[0]
        .spec
        .as_mut()
        .unwrap()
        .node_affinity
        .as_mut();
    let terms = &mut affinity
        .unwrap()
        .required
        .as_mut()
        .unwrap()
        .node_selector_terms;
    terms[0].match_expressions.as_mut().unwrap()[0].key = "topology.kubernetes.io/zone".to_owned();
    let list = list(&observed);
    assert_eq!(list.claims[0].nodes, None);
}
