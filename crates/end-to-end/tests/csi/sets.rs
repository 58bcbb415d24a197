//! Everything that a set can do with a driver's volumes.

use end_to_end::csi::{DRIVER, claim, merge, pod, pod_spec, set};
use end_to_end::program::ok;
use end_to_end::{text, wait_for, wait_for_text};
use serde_json::{Value, json};

use super::{Harness, full};

impl Harness {
    fn apply(&self, object: &Value) {
        self.kubectl.apply(&object.to_string());
    }

    #[track_caller]
    pub(super) fn write(&self, pod: &str, content: &str) {
        let script = format!("echo {content} >/data/file && sync");
        self.kubectl.ok(&["exec", pod, "--", "sh", "-c", &script]);
    }

    #[track_caller]
    fn read(&self, pod: &str) -> String {
        let file = ["exec", pod, "--", "cat", "/data/file"];
        self.kubectl.ok(&file).trim().to_owned()
    }

    fn node_of(&self, pod: &str) -> String {
        text(&self.kubectl.pod(pod), "/spec/nodeName").to_owned()
    }

    /// The volume of a claim, in the API and in the driver.
    #[track_caller]
    fn volume_of(&self, claim: &str) -> (Value, Value) {
        let claim = self.kubectl.json(&["get", "pvc", claim]);
        let name = text(&claim, "/spec/volumeName");
        let volume = self.kubectl.json(&["get", "pv", name]);
        let handle = text(&volume, "/spec/csi/volumeHandle");
        let record = self.state.join(format!("volumes/{handle}.json"));
        let record = std::fs::read_to_string(record).expect("the driver's record");
        (volume, serde_json::from_str(&record).expect("JSON"))
    }

    /// Requests a larger size.
    pub(super) fn grow(&self, claim: &str, size: &str) {
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}}).to_string();
        self.kubectl.ok(&["patch", "pvc", claim, "-p", &patch]);
    }

    #[track_caller]
    pub(super) fn wait_size(&self, claim: &str, bytes: &[&str]) {
        wait_for(&format!("{claim} of {bytes:?}"), 60, || {
            let claim = self.kubectl.get(&["pvc", claim])?;
            let size = claim["status"]["capacity"]["storage"]
                .as_str()
                .unwrap_or_default();
            let pending = claim["status"]["allocatedResourceStatuses"].is_object();
            match bytes.contains(&size) && !pending {
                true => Ok(()),
                false => Err(claim["status"].to_string()),
            }
        });
    }

    #[track_caller]
    fn scale(&self, set: &str, replicas: u64) {
        let replicas_flag = format!("--replicas={replicas}");
        self.kubectl
            .ok(&["scale", "statefulset", set, &replicas_flag]);
        self.kubectl.wait_ready(set, replicas);
    }

    /// Deletes a set with its claims.
    pub(super) fn remove_set(&self, name: &str) {
        self.kubectl
            .ok(&["delete", "statefulset", name, "--timeout=240s"]);
        let claims = self.kubectl.ok(&["get", "pvc", "-o", "name"]);
        let prefix = format!("persistentvolumeclaim/data-{name}-");
        let claims_of_set: Vec<&str> = claims
            .lines()
            .filter(|line| line.starts_with(&prefix))
            .collect();
        self.kubectl
            .ok(&[&["delete", "--timeout=240s"][..], &claims_of_set].concat());
    }

    /// Waits for an event of an object.
    #[track_caller]
    fn wait_event(&self, object: &str, part: &str) {
        let of = format!("involvedObject.name={object}");
        let events = ["get", "events", "--field-selector", &of];
        wait_for_text(part, 120, || self.kubectl.ok(&events));
    }

    #[track_caller]
    fn wait_unschedulable(&self, pod: &str, part: &str) {
        wait_for(part, 60, || {
            let pod = self.kubectl.get(&["pod", pod])?;
            let conditions = pod["status"]["conditions"].to_string();
            if conditions.contains(part) {
                Ok(())
            } else {
                Err(conditions)
            }
        });
    }
}

const TWO_MIB: &[&str] = &["2Mi", "2097152"];

#[test]
fn sets_use_a_driver_s_volumes() {
    let harness = Harness::start(2, 6);
    claims_of_a_set(&harness);
    figures(&harness);
    full::a_volume_fills_and_grows(&harness);
    growth_in_use_and_at_rest(&harness);
    snapshots_and_clones(&harness);
    other_attributes(&harness);
    harness.remove_set("db");
    blocks(&harness);
    inline_volumes(&harness);
    another_node_and_another_group(&harness);
    one_pod_only(&harness);
    nodes_with_capacity(&harness);
    harness.wait_deleted();
    the_limit_of_a_node(&harness);
    harness.wait_deleted();
}

fn claims_of_a_set(harness: &Harness) {
    let spread = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    let more = json!({"spec": {"template": {"spec": {"affinity": spread}}}});
    harness.apply(&set("db", 2, "disks", more));
    harness.kubectl.wait_ready("db", 2);
    assert_ne!(harness.node_of("db-0"), harness.node_of("db-1"));
    for pod in ["db-0", "db-1"] {
        harness.write(pod, pod);
        harness.kubectl.ok(&["delete", "pod", pod]);
    }
    harness.kubectl.wait_ready("db", 2);
    for pod in ["db-0", "db-1"] {
        assert_eq!(harness.read(pod), pod);
    }
    let (volume, _) = harness.volume_of("data-db-0");
    let finalizers = volume["metadata"]["finalizers"].to_string();
    assert!(finalizers.contains("external-attacher"), "{finalizers}");
}

/// The volume in the figures of its node, and in the list of volumes.
fn figures(harness: &Harness) {
    let node = harness.node_of("db-0");
    let summary = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    wait_for("the volume's figures", 60, || {
        let text = harness.kubectl.read(&summary)?;
        let summary: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let volumes = pods.iter().filter_map(|pod| pod["volume"].as_array());
        let mut of_claim = volumes
            .flatten()
            .filter(|volume| volume["pvcRef"]["name"] == "data-db-0");
        match of_claim.next() {
            Some(volume) if volume["capacityBytes"] == 1 << 20 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let data = harness.instance.data().display().to_string();
    let listed = ok(&["volume", "ls", "--data-dir", &data]);
    assert!(listed.contains("data-db-0"), "{listed}");
}

/// A pod starts on another node with its volume, whose files belong to the pod's group.
fn another_node_and_another_group(harness: &Harness) {
    let more = json!({"spec": {"template": {"spec": {"securityContext": {"fsGroup": 4321}}}}});
    harness.apply(&set("goes", 1, "disks", more));
    harness.kubectl.wait_ready("goes", 1);
    harness.write("goes-0", "first");
    let listed = harness
        .kubectl
        .ok(&["exec", "goes-0", "--", "ls", "-ln", "/data/file"]);
    assert!(listed.contains(" 4321 "), "{listed}");
    let node = harness.node_of("goes-0");
    harness.kubectl.ok(&["cordon", &node]);
    harness.kubectl.ok(&["delete", "pod", "goes-0"]);
    harness.kubectl.wait_ready("goes", 1);
    harness.kubectl.ok(&["uncordon", &node]);
    assert_ne!(harness.node_of("goes-0"), node);
    assert_eq!(harness.read("goes-0"), "first");
    harness.remove_set("goes");
}

fn growth_in_use_and_at_rest(harness: &Harness) {
    harness.grow("data-db-0", "2Mi");
    harness.wait_size("data-db-0", TWO_MIB);
    assert_eq!(harness.volume_of("data-db-0").1["capacity"], 2 << 20);
    harness.apply(&set("cold", 1, "disks-offline", json!({})));
    harness.kubectl.wait_ready("cold", 1);
    harness.grow("data-cold-0", "2Mi");
    harness.wait_event("data-cold-0", "is attached");
    harness.scale("cold", 0);
    wait_for("the storage to grow", 60, || {
        let (volume, record) = harness.volume_of("data-cold-0");
        match record["capacity"] == 2 << 20 {
            true => Ok(()),
            false => Err(format!("{volume} {record}")),
        }
    });
    harness.scale("cold", 1);
    harness.wait_size("data-cold-0", TWO_MIB);
    harness.remove_set("cold");
}

fn snapshots_and_clones(harness: &Harness) {
    harness.apply(
        &json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": "before"}, "spec": {"volumeSnapshotClassName": "disks",
            "source": {"persistentVolumeClaimName": "data-db-0"}}}),
    );
    wait_for("the snapshot", 60, || {
        let snapshot = harness.kubectl.get(&["volumesnapshot", "before"])?;
        match snapshot["status"]["readyToUse"] == true {
            true => Ok(()),
            false => Err(snapshot.to_string()),
        }
    });
    harness.write("db-0", "later");
    let copy = |name: &str, kind: &str, source: &str, content: &str| {
        let mut of = json!({"kind": kind, "name": source});
        if kind == "VolumeSnapshot" {
            of["apiGroup"] = json!("snapshot.storage.k8s.io");
        }
        let more =
            json!({"spec": {"dataSource": of, "resources": {"requests": {"storage": "2Mi"}}}});
        harness.apply(&claim(name, more));
        harness.apply(&pod(name, name));
        harness.kubectl.wait_pods_ready(&[&format!("pod/{name}")]);
        assert_eq!(harness.read(name), content);
    };
    copy("restored", "VolumeSnapshot", "before", "db-0");
    copy("cloned", "PersistentVolumeClaim", "data-db-0", "later");
    copy("cloned-again", "PersistentVolumeClaim", "cloned", "later");
    harness
        .kubectl
        .ok(&["delete", "volumesnapshot", "before", "--timeout=240s"]);
    harness.kubectl.ok(&[
        "delete",
        "pod",
        "restored",
        "cloned",
        "cloned-again",
        "--timeout=240s",
    ]);
    harness.kubectl.ok(&[
        "delete",
        "pvc",
        "restored",
        "cloned",
        "cloned-again",
        "--timeout=240s",
    ]);
}

fn other_attributes(harness: &Harness) {
    let patch = json!({"spec": {"volumeAttributesClassName": "gold"}}).to_string();
    harness
        .kubectl
        .ok(&["patch", "pvc", "data-db-0", "-p", &patch]);
    wait_for("the attributes", 60, || {
        let claim = harness.kubectl.get(&["pvc", "data-db-0"])?;
        match claim["status"]["currentVolumeAttributesClassName"] == "gold" {
            true => Ok(()),
            false => Err(claim["status"].to_string()),
        }
    });
    let (volume, record) = harness.volume_of("data-db-0");
    assert_eq!(volume["spec"]["volumeAttributesClassName"], "gold");
    assert_eq!(record["mutable"]["iops"], "1000");
}

fn blocks(harness: &Harness) {
    let mut raw = set("raw", 1, "disks", json!({}));
    raw["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] = json!("Block");
    let container = &mut raw["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!("csi-test-driver:1");
    container["volumeMounts"] = json!([]);
    container["volumeDevices"] = json!([{"name": "data", "devicePath": "/dev/raw"}]);
    harness.apply(&raw);
    harness.kubectl.wait_ready("raw", 1);
    let write = "echo kept | dd of=/dev/raw bs=512 conv=sync,fsync 2>/dev/null";
    harness
        .kubectl
        .ok(&["exec", "raw-0", "--", "sh", "-c", write]);
    harness.kubectl.ok(&["delete", "pod", "raw-0"]);
    harness.kubectl.wait_ready("raw", 1);
    let read = "dd if=/dev/raw bs=4 count=1 2>/dev/null";
    let content = harness
        .kubectl
        .ok(&["exec", "raw-0", "--", "sh", "-c", read]);
    assert_eq!(content, "kept");
    harness.grow("data-raw-0", "2Mi");
    harness.wait_size("data-raw-0", TWO_MIB);
    harness.remove_set("raw");
}

fn inline_volumes(harness: &Harness) {
    let mut spec = pod_spec();
    spec["volumes"] = json!([{"name": "data", "csi": {"driver": DRIVER}}]);
    harness.apply(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inline"},
        "spec": spec}),
    );
    harness.kubectl.wait_pods_ready(&["pod/inline"]);
    harness.write("inline", "short-lived");
    assert_eq!(harness.read("inline"), "short-lived");
    harness
        .kubectl
        .ok(&["delete", "pod", "inline", "--timeout=240s"]);
}

fn one_pod_only(harness: &Harness) {
    harness.apply(&claim(
        "single",
        json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}),
    ));
    harness.apply(&pod("first", "single"));
    harness.kubectl.wait_pods_ready(&["pod/first"]);
    harness.apply(&pod("second", "single"));
    harness.wait_unschedulable("second", "ReadWriteOncePod");
    harness
        .kubectl
        .ok(&["delete", "pod", "first", "--timeout=240s"]);
    harness.kubectl.wait_pods_ready(&["pod/second"]);
    harness
        .kubectl
        .ok(&["delete", "pod", "second", "--timeout=240s"]);
    harness
        .kubectl
        .ok(&["delete", "pvc", "single", "--timeout=240s"]);
}

/// Volumes that belong to a node, and a node without free storage for them.
fn nodes_with_capacity(harness: &Harness) {
    let list = harness.kubectl.json(&["get", "nodes"]);
    let nodes = list["items"].as_array().expect("nodes").iter();
    let nodes: Vec<&str> = nodes.map(|node| text(node, "/metadata/name")).collect();
    let limits = json!({nodes[0]: 0, nodes[1]: 10 << 20});
    let file = harness.state.join("capacity.json");
    std::fs::write(&file, limits.to_string()).expect("write the limits");
    wait_for("the free storage", 60, || {
        let list = harness
            .kubectl
            .get(&["csistoragecapacities", "-n", "csi"])?;
        let items = list["items"].as_array().into_iter().flatten();
        let mut of_class = items.filter(|capacity| capacity["storageClassName"] == "disks-zoned");
        match of_class.any(|capacity| capacity["capacity"] == "0") {
            true => Ok(()),
            false => Err(list.to_string()),
        }
    });
    harness.apply(&set("zoned", 2, "disks-zoned", json!({})));
    harness.kubectl.wait_ready("zoned", 2);
    for pod in ["zoned-0", "zoned-1"] {
        assert_eq!(harness.node_of(pod), nodes[1]);
    }
    let (volume, _) = harness.volume_of("data-zoned-0");
    let affinity = volume["spec"]["nodeAffinity"].to_string();
    assert!(
        affinity.contains(&format!("topology.{DRIVER}/zone")),
        "{affinity}"
    );
    std::fs::remove_file(&file).expect("remove the limits");
    harness.kubectl.ok(&["delete", "pod", "zoned-0"]);
    harness.kubectl.wait_ready("zoned", 2);
    assert_eq!(harness.node_of("zoned-0"), nodes[1], "its volume is there");
    harness.remove_set("zoned");
}

/// A pod beyond the limit waits until a volume is detached.
fn the_limit_of_a_node(harness: &Harness) {
    let list = harness.kubectl.json(&["get", "nodes"]);
    let node = text(&list["items"][0], "/metadata/name").to_owned();
    let mut more = json!({"spec": {"template": {"spec": {}}}});
    let here = json!({"nodeSelector": {"kubernetes.io/hostname": node}});
    merge(&mut more["spec"]["template"]["spec"], &here);
    harness.apply(&set("many", 7, "disks", more));
    wait_for("six pods of seven", 180, || {
        let pods = harness.kubectl.get(&["pods", "-l", "app=many"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let ready = pods
            .iter()
            .filter(|pod| end_to_end::cluster::is_ready(pod))
            .count();
        let full = pods
            .iter()
            .filter(|pod| {
                pod["status"]
                    .to_string()
                    .contains("exceed max volume count")
            })
            .count();
        if (ready, full) == (6, 1) {
            Ok(())
        } else {
            Err(format!("{ready} ready, {full} wait"))
        }
    });
    harness.scale("many", 6);
    harness.remove_set("many");
}
