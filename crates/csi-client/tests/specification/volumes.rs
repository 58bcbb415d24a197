//! Rules of volumes, attachments and snapshots (csi.md).

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_new_volumes() {
    let cluster = Cluster::new();
    // csi.md 3.1
    let id = cluster.volume("v", 7).await;
    assert_eq!(cluster.volume("v", 7).await, id);
    // csi.md 3.2
    let conflicting = [
        create("v", 5),
        with(&create("v", 7), "parameters", json!({"zoned": "true"})),
        with(
            &create("v", 7),
            "capacity_range",
            json!({"required_bytes": 9 * MIB}),
        ),
        with(
            &create("v", 7),
            "capacity_range",
            json!({"limit_bytes": 4096}),
        ),
        with(
            &create("v", 7),
            "volume_content_source",
            json!({"volume": {"volume_id": id}}),
        ),
    ];
    for request in conflicting {
        cluster.check("CreateVolume", request, ALREADY_EXISTS).await;
    }
    // csi.md 3.3, 3.4
    let range = |range: Value| with(&create("r", 7), "capacity_range", range);
    for bad in [
        json!({"required_bytes": -1}),
        json!({"required_bytes": 2, "limit_bytes": 1}),
        json!({}),
    ] {
        cluster
            .check("CreateVolume", range(bad), INVALID_ARGUMENT)
            .await;
    }
    let exact = json!({"required_bytes": 3 * MIB, "limit_bytes": 3 * MIB});
    let created = cluster.check("CreateVolume", range(exact), OK).await;
    assert_eq!(created["volume"]["capacity_bytes"], 3 * MIB);
    for impossible in [
        json!({"required_bytes": i64::MAX}),
        json!({"required_bytes": 5, "limit_bytes": 6}),
    ] {
        let request = with(&create("x", 7), "capacity_range", impossible);
        cluster.check("CreateVolume", request, OUT_OF_RANGE).await;
    }
    // csi.md 3.5 to 3.7
    std::fs::write(
        cluster.state().join("data").join(&id).join("file"),
        "content",
    )
    .expect("write");
    let of = |name: &str, id: &str| {
        with(
            &create(name, 7),
            "volume_content_source",
            json!({"volume": {"volume_id": id}}),
        )
    };
    let clone = cluster.check("CreateVolume", of("clone", &id), OK).await;
    assert_eq!(clone["volume"]["content_source"]["volume"]["volume_id"], id);
    let copy = clone["volume"]["volume_id"].as_str().expect("an id");
    let file = cluster.state().join("data").join(copy).join("file");
    assert_eq!(std::fs::read_to_string(file).expect("the copy"), "content");
    cluster
        .check("CreateVolume", of("lost", "vol-none"), NOT_FOUND)
        .await;
    let snapshot = json!({"snapshot": {"snapshot_id": "../../volumes/x"}});
    let request = with(&create("lost", 7), "volume_content_source", snapshot);
    cluster.check("CreateVolume", request, NOT_FOUND).await;
    let small = with(
        &of("small", &id),
        "capacity_range",
        json!({"required_bytes": 4096}),
    );
    cluster.check("CreateVolume", small, OUT_OF_RANGE).await;
    let device = with(&of("device", &id), "volume_capabilities", json!([block()]));
    cluster
        .check("CreateVolume", device, INVALID_ARGUMENT)
        .await;
}

// csi.md 3.8, 3.13
#[tokio::test(flavor = "multi_thread")]
async fn rules_of_places() {
    let cluster = Cluster::new();
    let limits = json!({"a": 2 * MIB, "b": 4 * MIB}).to_string();
    std::fs::write(cluster.state().join("capacity.json"), limits).expect("write");
    let topology = |zone: &str| json!({"segments": {ZONE: zone}});
    let zoned = |name: &str, requirement: Value| {
        let request = with(&create(name, 7), "parameters", json!({"zoned": "true"}));
        let request = with(
            &request,
            "capacity_range",
            json!({"required_bytes": 2 * MIB}),
        );
        with(&request, "accessibility_requirements", requirement)
    };
    let free = async |zone: &str| {
        let of = json!({"accessible_topology": topology(zone), "parameters": {"zoned": "true"}});
        let response = cluster.check("GetCapacity", of, OK).await;
        response["available_capacity"].as_i64().unwrap_or(0)
    };
    assert_eq!((free("a").await, free("b").await), (2 * MIB, 4 * MIB));
    let both = json!({"requisite": [topology("a"), topology("b")], "preferred": [topology("a"), topology("b")]});
    let of = async |name: &str| {
        let created = cluster
            .check("CreateVolume", zoned(name, both.clone()), OK)
            .await;
        created["volume"]["accessible_topology"].clone()
    };
    assert_eq!(of("one").await, json!([topology("a")]));
    assert_eq!(of("two").await, json!([topology("b")]));
    let only = json!({"requisite": [topology("a")]});
    cluster
        .check("CreateVolume", zoned("full", only), RESOURCE_EXHAUSTED)
        .await;
    assert_eq!((free("a").await, free("b").await), (0, 2 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_known_volumes() {
    let cluster = Cluster::new();
    let id = cluster.volume("v", 7).await;
    check_deletion(&cluster, &id).await;
    check_validation(&cluster, &id).await;
    check_list_and_get(&cluster, &id).await;
    check_expansion(&cluster, &id).await;
    check_modification(&cluster, &id).await;
}

/// csi.md 3.9, 3.10
async fn check_deletion(cluster: &Cluster, id: &str) {
    cluster
        .check("DeleteVolume", json!({"volume_id": "vol-none"}), OK)
        .await;
    cluster
        .check("ControllerPublishVolume", attach(id, "n1", 7), OK)
        .await;
    cluster
        .check(
            "DeleteVolume",
            json!({"volume_id": id}),
            FAILED_PRECONDITION,
        )
        .await;
}

/// csi.md 3.11
async fn check_validation(cluster: &Cluster, id: &str) {
    let validate =
        |id: &str, capability: Value| json!({"volume_id": id, "volume_capabilities": [capability]});
    let method = "ValidateVolumeCapabilities";
    let response = cluster.check(method, validate(id, capability(7)), OK).await;
    assert!(response["confirmed"].is_object());
    let response = cluster.check(method, validate(id, block()), OK).await;
    assert!(response["confirmed"].is_null(), "{response}");
    cluster
        .check(method, validate("vol-none", capability(7)), NOT_FOUND)
        .await;
}

/// csi.md 3.12, 3.14
async fn check_list_and_get(cluster: &Cluster, id: &str) {
    cluster.volume("w", 7).await;
    let first = cluster
        .check("ListVolumes", json!({"max_entries": 1}), OK)
        .await;
    let token = &first["next_token"];
    let next = json!({"max_entries": 1, "starting_token": token});
    let second = cluster.check("ListVolumes", next, OK).await;
    assert_ne!(first["entries"], second["entries"]);
    assert!(second["next_token"].is_null());
    cluster
        .check("ListVolumes", json!({"starting_token": "x"}), ABORTED)
        .await;
    cluster
        .check("ListVolumes", json!({"max_entries": -1}), INVALID_ARGUMENT)
        .await;
    let volume = cluster
        .check("ControllerGetVolume", json!({"volume_id": id}), OK)
        .await;
    assert_eq!(volume["status"]["published_node_ids"], json!(["n1"]));
    cluster
        .check(
            "ControllerGetVolume",
            json!({"volume_id": "vol-none"}),
            NOT_FOUND,
        )
        .await;
}

/// csi.md 3.15, 3.16
async fn check_expansion(cluster: &Cluster, id: &str) {
    let expand = |id: &str, bytes: i64| json!({"volume_id": id, "capacity_range": {"required_bytes": bytes}});
    let method = "ControllerExpandVolume";
    for bytes in [3 * MIB, 3 * MIB, MIB] {
        let response = cluster.check(method, expand(id, bytes), OK).await;
        assert_eq!(response["capacity_bytes"], 3 * MIB);
    }
    cluster
        .check(method, expand("vol-none", MIB), NOT_FOUND)
        .await;
    cluster
        .check(method, expand(id, i64::MAX), OUT_OF_RANGE)
        .await;
    let offline = with(
        &create("offline", 7),
        "parameters",
        json!({"expansion": "offline"}),
    );
    let offline = cluster.check("CreateVolume", offline, OK).await;
    let offline = offline["volume"]["volume_id"].as_str().expect("an id");
    cluster
        .check("ControllerPublishVolume", attach(offline, "n1", 7), OK)
        .await;
    cluster
        .check(method, expand(offline, 3 * MIB), FAILED_PRECONDITION)
        .await;
    cluster
        .check(
            "ControllerUnpublishVolume",
            json!({"volume_id": offline}),
            OK,
        )
        .await;
    cluster.check(method, expand(offline, 3 * MIB), OK).await;
}

/// csi.md 3.17
async fn check_modification(cluster: &Cluster, id: &str) {
    let modify =
        |id: &str, parameters: Value| json!({"volume_id": id, "mutable_parameters": parameters});
    let method = "ControllerModifyVolume";
    for _ in 0..2 {
        cluster
            .check(method, modify(id, json!({"iops": "7"})), OK)
            .await;
    }
    let bad = json!({"iops": "8", "colour": "blue"});
    cluster
        .check(method, modify(id, bad), INVALID_ARGUMENT)
        .await;
    cluster
        .check(method, modify("vol-none", json!({})), NOT_FOUND)
        .await;
    let record = std::fs::read_to_string(cluster.state().join(format!("volumes/{id}.json")));
    let record: Value = serde_json::from_str(&record.expect("the record")).expect("JSON");
    assert_eq!(record["mutable"], json!({"iops": "7"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_attachments() {
    let cluster = Cluster::new();
    let method = "ControllerPublishVolume";
    let id = cluster.volume("v", 7).await;
    // csi.md 4.1
    let first = cluster.check(method, attach(&id, "n1", 7), OK).await;
    assert_eq!(cluster.check(method, attach(&id, "n1", 7), OK).await, first);
    // csi.md 4.2
    cluster
        .check(method, attach(&id, "n1", 5), ALREADY_EXISTS)
        .await;
    let read_only = with(&attach(&id, "n1", 7), "readonly", json!(true));
    cluster.check(method, read_only, ALREADY_EXISTS).await;
    // csi.md 4.3
    for mode in [1, 5, 6, 7] {
        cluster
            .check(method, attach(&id, "n2", mode), FAILED_PRECONDITION)
            .await;
    }
    // csi.md 4.4
    let shared = cluster.volume("shared", 5).await;
    for node in ["n1", "n2"] {
        cluster.check(method, attach(&shared, node, 5), OK).await;
    }
    // csi.md 4.5
    cluster
        .check(method, attach("vol-none", "n1", 7), NOT_FOUND)
        .await;
    cluster.check(method, attach(&id, "n3", 7), NOT_FOUND).await;
    // csi.md 4.6
    let third = cluster.volume("third", 7).await;
    cluster
        .check(method, attach(&third, "n1", 7), RESOURCE_EXHAUSTED)
        .await;
    // csi.md 4.7
    let detach = |id: &str, node: &str| json!({"volume_id": id, "node_id": node});
    let method = "ControllerUnpublishVolume";
    for _ in 0..2 {
        cluster.check(method, detach(&id, "n1"), OK).await;
    }
    cluster.check(method, detach("vol-none", "n1"), OK).await;
    cluster
        .check("ControllerPublishVolume", attach(&id, "n2", 7), OK)
        .await;
    // csi.md 4.8
    cluster
        .check(method, json!({"volume_id": shared}), OK)
        .await;
    let volume = cluster
        .check("ControllerGetVolume", json!({"volume_id": shared}), OK)
        .await;
    assert!(volume["status"]["published_node_ids"].is_null(), "{volume}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_snapshots() {
    let cluster = Cluster::new();
    let slow = with(&create("v", 7), "parameters", json!({"ready-after": "2"}));
    let created = cluster.check("CreateVolume", slow, OK).await;
    let id = created["volume"]["volume_id"].as_str().expect("an id");
    let second = cluster.volume("w", 7).await;
    let snapshot = |name: &str, of: &str| json!({"name": name, "source_volume_id": of});
    // csi.md 5.1
    let mut ready = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let response = cluster.check("CreateSnapshot", snapshot("s", id), OK).await;
        ready.push(response["snapshot"]["ready_to_use"] == true);
        ids.push(response["snapshot"]["snapshot_id"].clone());
    }
    assert_eq!(ready, [false, false, true]);
    ids.dedup();
    assert_eq!(ids.len(), 1);
    // csi.md 5.2, 5.3
    cluster
        .check("CreateSnapshot", snapshot("s", &second), ALREADY_EXISTS)
        .await;
    cluster
        .check("CreateSnapshot", snapshot("t", "vol-none"), NOT_FOUND)
        .await;
    // csi.md 5.5
    cluster
        .check("CreateSnapshot", snapshot("t", &second), OK)
        .await;
    let count = async |request: Value| {
        let response = cluster.check("ListSnapshots", request, OK).await;
        response["entries"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count(json!({})).await, 2);
    assert_eq!(count(json!({"source_volume_id": id})).await, 1);
    assert_eq!(count(json!({"snapshot_id": ids[0]})).await, 1);
    assert_eq!(count(json!({"snapshot_id": "snap-none"})).await, 0);
    assert_eq!(count(json!({"max_entries": 1})).await, 1);
    cluster
        .check("ListSnapshots", json!({"starting_token": "9"}), ABORTED)
        .await;
    // csi.md 5.6
    cluster
        .check("DeleteVolume", json!({"volume_id": id}), OK)
        .await;
    let source = json!({"snapshot": {"snapshot_id": ids[0]}});
    let restored = with(&create("restored", 7), "volume_content_source", source);
    cluster.check("CreateVolume", restored, OK).await;
    // csi.md 5.4
    for _ in 0..2 {
        cluster
            .check("DeleteSnapshot", json!({"snapshot_id": ids[0]}), OK)
            .await;
    }
    assert_eq!(count(json!({})).await, 1);
}
