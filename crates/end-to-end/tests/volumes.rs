//! Disks: the limit of a volume of each class, its growth, and its copies (statefulset.md §11; kubectl.md 1.8).

use end_to_end::{Kubectl, Output, text, wait_for, wait_for_text, with_images, words};
use serde_json::{Value, json};

#[test]
fn volumes_are_limited_grow_and_are_copied() {
    let (_registry, mut instance) = with_images();
    let kubectl = instance.kubectl();
    let pool = instance.data().join("pool");
    kubectl.apply(&set());
    kubectl.wait_ready("db", 2);
    stopped_at_the_limit(&kubectl);
    grows_in_use(&kubectl);
    restored_from_snapshots(&kubectl);
    cloned(&kubectl);
    with_other_classes_and_long_names(&kubectl);
    goes_with_its_pod(&kubectl);
    // After a kill the volume is adopted unchanged; after an orderly stop no mount remains.
    instance.kill();
    instance.start_again();
    let kubectl = instance.kubectl();
    assert_eq!(read(&kubectl, "db-0", "/data/word"), "after");
    instance.interrupt();
    assert!(!pool.join("mount/volumes").exists(), "still mounted");
    instance.start_again();
    let kubectl = instance.kubectl();
    kubectl.wait_ready("db", 2);
    assert_eq!(read(&kubectl, "db-0", "/data/word"), "after");
    removed(&kubectl, &pool);
}

#[test]
fn what_a_plain_directory_cannot_be_is_said() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(&claim("data", "local", &Value::Null).to_string());
    kubectl.apply(&pod("holder", "data").to_string());
    kubectl.wait_pods_ready(&["pod/holder"]);
    kubectl.apply(&snapshot("s", "data").to_string());
    let expect_message = |object: &str, pointer: &str, part: &str| {
        wait_for_text(part, 60, || {
            let object_json = kubectl
                .get_for_wait(&[object])
                .unwrap_or_else(|error| error);
            let expect_message = object_json.pointer(pointer).and_then(Value::as_str);
            expect_message.map_or_else(|| object_json.to_string(), str::to_owned)
        });
    };
    let cannot = "cannot make snapshots and clones; volumes of the class local-cow can";
    expect_message("volumesnapshot/s", "/status/error/message", cannot);
    let of_claim = json!({"kind": "PersistentVolumeClaim", "name": "data"});
    kubectl.apply(&claim("copy", "local", &of_claim).to_string());
    kubectl.apply(&pod("copier", "copy").to_string());
    event(&kubectl, "copy", "ProvisioningFailed", cannot);
    attributes_are_refused(&kubectl);
    used_by_one_pod_at_a_time(&kubectl);
    // The volume still grows, because no work is needed for that.
    kubectl.ok(&["patch", "pvc", "data", "-p", &request("96Mi")]);
    expect_message("pvc/data", "/status/capacity/storage", "96Mi");
    let less = kubectl.fails(&["patch", "pvc", "data", "-p", &request("64Mi")]);
    assert!(
        less.contains("field can not be less than status.capacity"),
        "{less}"
    );
    kubectl.ok(&["delete", "pod", "holder", "copier", "--now"]);
}

/// A volume without a CSI driver has no attributes (KEP-3751); a class that a claim names is protected.
fn attributes_are_refused(kubectl: &Kubectl) {
    let gold = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
        "metadata": {"name": "gold"}, "driverName": "mainstay.dev/local",
        "parameters": {"iops": "1"}});
    kubectl.apply(&gold.to_string());
    wait_for_text("kubernetes.io/vac-protection", 60, || {
        kubectl.ok(&[
            "get",
            "vac",
            "gold",
            "-o",
            "jsonpath={.metadata.finalizers}",
        ])
    });
    let name = |value: &str| format!("{{\"spec\": {{\"volumeAttributesClassName\": {value}}}}}");
    kubectl.ok(&["patch", "pvc", "data", "-p", &name("\"gold\"")]);
    event(kubectl, "data", "VolumeModifyFailed", "no CSI driver");
    let status = "jsonpath={.status.modifyVolumeStatus.status}";
    wait_for_text("Infeasible", 60, || {
        kubectl.ok(&["get", "pvc", "data", "-o", status])
    });
    kubectl.ok(&["delete", "vac", "gold", "--wait=false"]);
    kubectl.ok(&["get", "vac", "gold"]);
    kubectl.ok(&["patch", "pvc", "data", "-p", &name("null")]);
    kubectl.ok(&["wait", "--for=delete", "vac/gold", "--timeout=60s"]);
    wait_for("the refusal to end", 60, || {
        let condition = kubectl.ok(&["get", "pvc", "data", "-o", status]);
        match condition.is_empty() {
            true => Ok(()),
            false => Err(condition),
        }
    });
}

/// ReadWriteOncePod: the node stops a pod that was not scheduled.
fn used_by_one_pod_at_a_time(kubectl: &Kubectl) {
    let mut single = claim("single", "local", &Value::Null);
    single["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    kubectl.apply(&single.to_string());
    kubectl.apply(&pod("first", "single").to_string());
    kubectl.wait_pods_ready(&["pod/first"]);
    let mut second = pod("second", "single");
    second["spec"]["nodeName"] = kubectl.pod("first")["spec"]["nodeName"].clone();
    kubectl.apply(&second.to_string());
    event(
        kubectl,
        "second",
        "FailedMount",
        "already in use by another pod",
    );
    kubectl.ok(&["delete", "pod", "first", "--now"]);
    kubectl.wait_pods_ready(&["pod/second"]);
    kubectl.ok(&["delete", "pod", "second", "--now"]);
    kubectl.ok(&["delete", "pvc", "single"]);
}

fn claim(name: &str, class: &str, source: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "dataSource": source, "resources": {"requests": {"storage": "64Mi"}}}})
}

fn request(size: &str) -> String {
    json!({"spec": {"resources": {"requests": {"storage": size}}}}).to_string()
}

fn snapshot(name: &str, claim: &str) -> Value {
    json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": name}, "spec": {"source": {"persistentVolumeClaimName": claim}}})
}

fn container() -> Value {
    json!({"name": "c", "image": "busybox:1",
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
}

fn pod(name: &str, claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "containers": [container()],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn set() -> String {
    let template = json!({"metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [container()]}});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "replicas": 2,
            "selector": {"matchLabels": {"app": "db"}}, "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "storageClassName": "local-cow", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "64Mi"}}}}]}})
    .to_string()
}

fn write(kubectl: &Kubectl, pod: &str, file: &str, mib: u64) -> Output {
    let command = format!("dd if=/dev/zero of={file} bs=1M count={mib} && sync");
    kubectl.run(&["exec", pod, "--", "sh", "-c", &command])
}

fn read(kubectl: &Kubectl, pod: &str, file: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "cat", file])
}

fn say(kubectl: &Kubectl, pod: &str, word: &str) {
    let command = format!("printf {word} > /data/word; sync");
    kubectl.ok(&["exec", pod, "--", "sh", "-c", &command]);
}

fn event(kubectl: &Kubectl, about: &str, reason: &str, part: &str) {
    let selector = format!("involvedObject.name={about},reason={reason}");
    wait_for(&format!("{reason} of {about}"), 60, || {
        let events = kubectl.get(&["events", "--field-selector", &selector])?;
        let messages: Vec<&str> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| text(event, "/message"))
            .collect();
        if messages.iter().any(|message| message.contains(part)) {
            Ok(())
        } else {
            Err(messages.join("; "))
        }
    });
}

/// statefulset.md 11.3: a volume accepts as many bytes as its claim requests; other volumes are not affected.
fn stopped_at_the_limit(kubectl: &Kubectl) {
    let full = write(kubectl, "db-0", "/data/large", 80);
    assert_ne!(full.code, 0, "{full:#?}");
    assert!(full.stderr.contains("quota exceeded"), "{full:#?}");
    write(kubectl, "db-1", "/data/large", 32).expect_success("write to the neighbour");
    kubectl.ok(&["exec", "db-0", "--", "rm", "/data/large"]);
    write(kubectl, "db-0", "/data/small", 16).expect_success("write what fits");
}

/// statefulset.md 11.12, 11.13.
fn grows_in_use(kubectl: &Kubectl) {
    kubectl.ok(&["patch", "pvc", "data-db-0", "-p", &request("160Mi")]);
    wait_for("the claim to have grown", 60, || {
        let claim = kubectl.get_for_wait(&["pvc", "data-db-0"])?;
        let conditions = claim["status"]["conditions"].to_string();
        match claim["status"]["capacity"]["storage"].as_str() {
            Some("160Mi") if !conditions.contains("Resiz") => Ok(()),
            _ => Err(claim),
        }
    });
    event(kubectl, "data-db-0", "VolumeResizeSuccessful", "succeeded");
    write(kubectl, "db-0", "/data/large", 80).expect_success("write what fits now");
    // A size beyond the disk is refused, and the volume does not change.
    kubectl.ok(&["patch", "pvc", "data-db-0", "-p", &request("900Ti")]);
    event(
        kubectl,
        "data-db-0",
        "VolumeResizeFailed",
        "the disk is too full",
    );
    kubectl.ok(&["patch", "pvc", "data-db-0", "-p", &request("192Mi")]);
    wait_for("the claim to have grown again", 120, || {
        let claim = kubectl.get_for_wait(&["pvc", "data-db-0"])?;
        match claim["status"]["capacity"]["storage"].as_str() {
            Some("192Mi") => Ok(()),
            _ => Err(claim),
        }
    });
}

/// statefulset.md 11.15.
fn restored_from_snapshots(kubectl: &Kubectl) {
    say(kubectl, "db-0", "before");
    kubectl.apply(&snapshot("s", "data-db-0").to_string());
    kubectl.ok(&[
        "wait",
        "--for=jsonpath={.status.readyToUse}=true",
        "volumesnapshot/s",
        "--timeout=300s",
    ]);
    say(kubectl, "db-0", "after");
    let table = kubectl.ok(&["get", "volumesnapshot", "s"]);
    let rows = words(&table);
    let expected = "NAME READYTOUSE SOURCEPVC SOURCESNAPSHOTCONTENT RESTORESIZE SNAPSHOTCLASS \
        SNAPSHOTCONTENT CREATIONTIME AGE";
    assert_eq!(rows[0].join(" "), expected);
    for cell in ["true", "data-db-0", "192Mi", "local-cow"] {
        assert!(rows[1].contains(&cell), "{table}");
    }
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot",
        "name": "s"});
    // Too small at first: this is reported, and no volume is created.
    kubectl.apply(&claim("restored", "local-cow", &source).to_string());
    kubectl.apply(&pod("reader", "restored").to_string());
    event(
        kubectl,
        "restored",
        "ProvisioningFailed",
        "is less than the size",
    );
    kubectl.ok(&["delete", "pod/reader", "pvc/restored", "--now"]);
    let mut fitting = claim("restored", "local-cow", &source);
    fitting["spec"]["resources"]["requests"]["storage"] = "192Mi".into();
    kubectl.apply(&fitting.to_string());
    kubectl.apply(&pod("reader", "restored").to_string());
    kubectl.wait_pods_ready(&["pod/reader"]);
    assert_eq!(read(kubectl, "reader", "/data/word"), "before");
}

fn cloned(kubectl: &Kubectl) {
    let source = json!({"kind": "PersistentVolumeClaim", "name": "data-db-1"});
    say(kubectl, "db-1", "second");
    kubectl.apply(&claim("cloned", "local-cow", &source).to_string());
    kubectl.apply(&pod("cloner", "cloned").to_string());
    kubectl.wait_pods_ready(&["pod/cloner"]);
    assert_eq!(read(kubectl, "cloner", "/data/word"), "second");
    say(kubectl, "cloner", "own");
    assert_eq!(read(kubectl, "db-1", "/data/word"), "second");
}

/// docs/storage.md: a volume of `local-cow` gets a replica as a copy of the class `local-replicated`, from a snapshot
/// or from the claim. Copies of copies behave like other volumes, and names may have their full length.
fn with_other_classes_and_long_names(kubectl: &Kubectl) {
    let long = |start: &str| format!("{start}-{}", "x".repeat(252 - start.len()));
    let (replicated, retained, again) = (long("replicated"), long("kept"), long("again"));
    let of_snapshot = |name: &str| json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name});
    let of_claim = |name: &str| json!({"kind": "PersistentVolumeClaim", "name": name});
    let mut claims = [
        claim(&replicated, "local-replicated", &of_claim("cloned")),
        claim("from-snapshot", "local-replicated", &of_snapshot("s")),
    ];
    claims[1]["spec"]["resources"]["requests"]["storage"] = "192Mi".into();
    for (claim, word) in claims.iter().zip(["own", "before"]) {
        let name = text(claim, "/metadata/name");
        kubectl.apply(&claim.to_string());
        kubectl.apply(&pod("copier", name).to_string());
        kubectl.wait_pods_ready(&["pod/copier"]);
        assert_eq!(read(kubectl, "copier", "/data/word"), word);
        wait_for("the claim to say that it has no replica yet", 120, || {
            let existing = kubectl.get_for_wait(&["pvc", name])?;
            let conditions = existing["status"]["conditions"].to_string();
            match conditions.contains("mainstay.dev/Replicated") {
                true => Ok(()),
                false => Err(existing),
            }
        });
        kubectl.ok(&["delete", "pod", "copier", "--now"]);
    }
    // Back, from a snapshot of the copy of a copy.
    kubectl.apply(&snapshot(&retained, &replicated).to_string());
    kubectl.apply(&claim(&again, "local-cow", &of_snapshot(&retained)).to_string());
    kubectl.apply(&pod("copier", &again).to_string());
    kubectl.wait_pods_ready(&["pod/copier"]);
    assert_eq!(read(kubectl, "copier", "/data/word"), "own");
    kubectl.ok(&["delete", "pod/copier", "--now"]);
    kubectl.ok(&["delete", "volumesnapshot", &retained, "--timeout=300s"]);
    kubectl.ok(&[
        "delete",
        "pvc",
        &replicated,
        "from-snapshot",
        &again,
        "--timeout=300s",
    ]);
    wait_for("the copies' volumes to go", 300, || {
        let left = kubectl.ok(&["get", "pv", "-o", "jsonpath={.items[*].spec.claimRef.name}"]);
        match [&*replicated, "from-snapshot", &again]
            .iter()
            .any(|name| left.contains(name))
        {
            true => Err(left),
            false => Ok(()),
        }
    });
}

/// The claim of an `ephemeral` volume must be the pod's claim, and not a foreign claim of its name.
fn goes_with_its_pod(kubectl: &Kubectl) {
    let mut scratch = pod("scratch", "");
    scratch["spec"]["volumes"] = json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {
        "spec": {"storageClassName": "local-cow", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "64Mi"}}}}}}]);
    kubectl.apply(&scratch.to_string());
    kubectl.wait_pods_ready(&["pod/scratch"]);
    let owner = "jsonpath={.metadata.ownerReferences[0].name}";
    assert_eq!(
        kubectl.ok(&["get", "pvc", "scratch-data", "-o", owner]),
        "scratch"
    );
    kubectl.ok(&["delete", "pod", "scratch", "--now"]);
    kubectl.ok(&["wait", "--for=delete", "pvc/scratch-data", "--timeout=300s"]);
    kubectl.apply(&claim("scratch-data", "local-cow", &Value::Null).to_string());
    kubectl.apply(&scratch.to_string());
    event(
        kubectl,
        "scratch",
        "FailedBinding",
        "was not created for pod",
    );
    kubectl.ok(&["delete", "pod/scratch", "pvc/scratch-data", "--now"]);
}

/// statefulset.md 11.8: all data is removed with its objects, and retained data with its snapshot.
fn removed(kubectl: &Kubectl, pool: &std::path::Path) {
    let count = |kind: &str| {
        std::fs::read_dir(pool.join("mount").join(kind))
            .map(Iterator::count)
            .unwrap_or_default()
    };
    assert_eq!((count("volumes"), count("snapshots")), (4, 1));
    kubectl.ok(&["delete", "volumesnapshot", "s", "--timeout=300s"]);
    assert_eq!(
        kubectl.ok(&["get", "volumesnapshotcontent", "-o", "name"]),
        ""
    );
    assert_eq!(count("snapshots"), 0);
    kubectl.ok(&[
        "delete",
        "statefulset/db",
        "pod/reader",
        "pod/cloner",
        "--now",
    ]);
    kubectl.ok(&["delete", "pvc", "--all", "--timeout=300s"]);
    wait_for("all volumes to be deleted", 60, || match count("volumes") {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    });
}
