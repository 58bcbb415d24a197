//! Every field that a node may write about itself, compared with the table in `docs/security.md` ("Fields that a node
//! writes"), which contains the effect of each field and the reason why it is harmless.
//!
//! Writes are dry runs. The list of fields comes from the published schema, so a new field fails the test.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::{Value, json};

use crate::harness::Api;

const PAGE: &str = include_str!("../../../../docs/security.md");
const HEADING: &str = "### Fields that a node writes";

const NODE: &str = "/api/v1/nodes/n1";
const STATUS: &str = "/api/v1/nodes/n1/status";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
const CSI_NODE: &str = "/apis/storage.k8s.io/v1/csinodes/n1";
const POD: &str = "/api/v1/namespaces/default/pods/own/status";
const CLAIM: &str = "/api/v1/namespaces/default/persistentvolumeclaims/own/status";
const SLICE: &str = "/apis/resource.k8s.io/v1/resourceslices/own";

/// Kind, field, whether a node may write it, path, and a merge patch that changes the field.
type Row = (&'static str, &'static str, bool, &'static str, &'static str);

/// The metadata fields that clients can change.
const METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

#[rustfmt::skip]
const FIELDS: &[Row] = &[
    ("Node", "metadata.labels", true, NODE, r#"{"metadata":{"labels":{"example.com/a":"b"}}}"#),
    ("Node", "metadata.labels", true, NODE, r#"{"metadata":{"labels":{"topology.kubernetes.io/zone":"b"}}}"#),
    ("Node", "metadata.labels[kubernetes.io/hostname]", false, NODE, r#"{"metadata":{"labels":{"kubernetes.io/hostname":"n2"}}}"#),
    ("Node", "metadata.labels[node-restriction.kubernetes.io/*]", false, NODE, r#"{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}"#),
    ("Node", "metadata.annotations", true, NODE, r#"{"metadata":{"annotations":{"a":"b"}}}"#),
    ("Node", "metadata.finalizers", false, NODE, r#"{"metadata":{"finalizers":["example.com/a"]}}"#),
    ("Node", "metadata.ownerReferences", false, NODE, r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Namespace","name":"default","uid":"u"}]}}"#),
    ("Node", "spec.configSource", true, NODE, r#"{"spec":{"configSource":{}}}"#),
    ("Node", "spec.externalID", true, NODE, r#"{"spec":{"externalID":"x"}}"#),
    ("Node", "spec.podCIDR", false, NODE, r#"{"spec":{"podCIDR":"10.99.0.0/24"}}"#),
    ("Node", "spec.podCIDRs", false, NODE, r#"{"spec":{"podCIDR":"10.99.0.0/24","podCIDRs":["10.99.0.0/24"]}}"#),
    ("Node", "spec.providerID", true, NODE, r#"{"spec":{"providerID":"x"}}"#),
    ("Node", "spec.taints", false, NODE, r#"{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}"#),
    ("Node", "spec.unschedulable", true, NODE, r#"{"spec":{"unschedulable":true}}"#),
    ("Node", "status.addresses", true, STATUS, r#"{"status":{"addresses":[{"type":"Hostname","address":"n1"}]}}"#),
    ("Node", "status.allocatable", true, STATUS, r#"{"status":{"allocatable":{"cpu":"99"}}}"#),
    ("Node", "status.capacity", true, STATUS, r#"{"status":{"capacity":{"cpu":"99"}}}"#),
    ("Node", "status.conditions", true, STATUS, r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#),
    ("Node", "status.config", true, STATUS, r#"{"status":{"config":{"error":"x"}}}"#),
    ("Node", "status.daemonEndpoints", true, STATUS, r#"{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":10251}}}}"#),
    ("Node", "status.declaredFeatures", true, STATUS, r#"{"status":{"declaredFeatures":["A"]}}"#),
    ("Node", "status.features", true, STATUS, r#"{"status":{"features":{"supplementalGroupsPolicy":true}}}"#),
    ("Node", "status.images", true, STATUS, r#"{"status":{"images":[{"names":["i"],"sizeBytes":1}]}}"#),
    ("Node", "status.nodeInfo", true, STATUS, r#"{"status":{"nodeInfo":{"machineID":"m"}}}"#),
    ("Node", "status.phase", true, STATUS, r#"{"status":{"phase":"Running"}}"#),
    ("Node", "status.runtimeHandlers", true, STATUS, r#"{"status":{"runtimeHandlers":[{"name":"r"}]}}"#),
    ("Node", "status.volumesAttached", true, STATUS, r#"{"status":{"volumesAttached":[{"name":"v","devicePath":"d"}]}}"#),
    ("Node", "status.volumesInUse", true, STATUS, r#"{"status":{"volumesInUse":["v"]}}"#),

    ("Lease", "metadata.labels", true, LEASE, r#"{"metadata":{"labels":{"a":"b"}}}"#),
    ("Lease", "metadata.annotations", true, LEASE, r#"{"metadata":{"annotations":{"a":"b"}}}"#),
    ("Lease", "metadata.finalizers", true, LEASE, r#"{"metadata":{"finalizers":["example.com/a"]}}"#),
    ("Lease", "metadata.ownerReferences", true, LEASE, r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u"}]}}"#),
    ("Lease", "spec.acquireTime", true, LEASE, r#"{"spec":{"acquireTime":"2026-01-01T00:00:00.000000Z"}}"#),
    ("Lease", "spec.holderIdentity", true, LEASE, r#"{"spec":{"holderIdentity":"x"}}"#),
    ("Lease", "spec.leaseDurationSeconds", true, LEASE, r#"{"spec":{"leaseDurationSeconds":99}}"#),
    ("Lease", "spec.leaseTransitions", true, LEASE, r#"{"spec":{"leaseTransitions":99}}"#),
    ("Lease", "spec.preferredHolder", true, LEASE, r#"{"spec":{"preferredHolder":"x","strategy":"OldestEmulationVersion"}}"#),
    ("Lease", "spec.renewTime", true, LEASE, r#"{"spec":{"renewTime":"2026-01-01T00:00:00.000000Z"}}"#),
    ("Lease", "spec.strategy", true, LEASE, r#"{"spec":{"strategy":"OldestEmulationVersion"}}"#),

    ("CSINode", "metadata.labels", true, CSI_NODE, r#"{"metadata":{"labels":{"a":"b"}}}"#),
    ("CSINode", "metadata.annotations", true, CSI_NODE, r#"{"metadata":{"annotations":{"a":"b"}}}"#),
    ("CSINode", "metadata.finalizers", true, CSI_NODE, r#"{"metadata":{"finalizers":["example.com/a"]}}"#),
    ("CSINode", "metadata.ownerReferences", true, CSI_NODE, r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u"}]}}"#),
    ("CSINode", "spec.drivers", true, CSI_NODE, r#"{"spec":{"drivers":[{"name":"a.example.com","nodeID":"n2","topologyKeys":[]}]}}"#),

    ("Pod", "metadata.labels", false, POD, r#"{"metadata":{"labels":{"a":"b"}}}"#),
    ("Pod", "status.allocatedResources", true, POD, r#"{"status":{"allocatedResources":{"cpu":"1"}}}"#),
    ("Pod", "status.conditions", true, POD, r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#),
    ("Pod", "status.containerStatuses", true, POD, r#"{"status":{"containerStatuses":[{"name":"c","image":"i","imageID":"","ready":true,"restartCount":0}]}}"#),
    ("Pod", "status.ephemeralContainerStatuses", true, POD, r#"{"status":{"ephemeralContainerStatuses":[]}}"#),
    ("Pod", "status.extendedResourceClaimStatus", false, POD, r#"{"status":{"extendedResourceClaimStatus":{"resourceClaimName":"x","requestMappings":[]}}}"#),
    ("Pod", "status.hostIP", true, POD, r#"{"status":{"hostIP":"192.0.2.1","hostIPs":[{"ip":"192.0.2.1"}]}}"#),
    ("Pod", "status.hostIPs", true, POD, r#"{"status":{"hostIP":"192.0.2.1","hostIPs":[{"ip":"192.0.2.1"}]}}"#),
    ("Pod", "status.initContainerStatuses", true, POD, r#"{"status":{"initContainerStatuses":[]}}"#),
    ("Pod", "status.message", true, POD, r#"{"status":{"message":"x"}}"#),
    ("Pod", "status.nodeAllocatableResourceClaimStatuses", true, POD, r#"{"status":{"nodeAllocatableResourceClaimStatuses":[]}}"#),
    ("Pod", "status.nominatedNodeName", false, POD, r#"{"status":{"nominatedNodeName":"n2"}}"#),
    ("Pod", "status.observedGeneration", true, POD, r#"{"status":{"observedGeneration":1}}"#),
    ("Pod", "status.phase", true, POD, r#"{"status":{"phase":"Running"}}"#),
    ("Pod", "status.podIP", true, POD, r#"{"status":{"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}]}}"#),
    ("Pod", "status.podIPs", true, POD, r#"{"status":{"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}]}}"#),
    ("Pod", "status.qosClass", true, POD, r#"{"status":{"phase":"Running"}}"#),
    ("Pod", "status.reason", true, POD, r#"{"status":{"reason":"x"}}"#),
    ("Pod", "status.resize", true, POD, r#"{"status":{"resize":""}}"#),
    ("Pod", "status.resourceClaimStatuses", false, POD, r#"{"status":{"resourceClaimStatuses":[{"name":"r","resourceClaimName":"theirs"}]}}"#),
    ("Pod", "status.resources", true, POD, r#"{"status":{"resources":{"requests":{"cpu":"1"}}}}"#),
    ("Pod", "status.startTime", true, POD, r#"{"status":{"startTime":"2026-01-01T00:00:00Z"}}"#),

    ("PersistentVolumeClaim", "metadata.labels", false, CLAIM, r#"{"metadata":{"annotations":{"a":"b"}}}"#),
    ("PersistentVolumeClaim", "status.accessModes", false, CLAIM, r#"{"status":{"accessModes":["ReadWriteMany"]}}"#),
    ("PersistentVolumeClaim", "status.allocatedResources", true, CLAIM, r#"{"status":{"allocatedResources":{"storage":"1Gi"}}}"#),
    ("PersistentVolumeClaim", "status.allocatedResourceStatuses", true, CLAIM, r#"{"status":{"allocatedResourceStatuses":{"storage":"NodeResizePending"}}}"#),
    ("PersistentVolumeClaim", "status.capacity", true, CLAIM, r#"{"status":{"capacity":{"storage":"1Gi"}}}"#),
    ("PersistentVolumeClaim", "status.conditions", true, CLAIM, r#"{"status":{"conditions":[{"type":"Resizing","status":"True"}]}}"#),
    ("PersistentVolumeClaim", "status.currentVolumeAttributesClassName", false, CLAIM, r#"{"status":{"currentVolumeAttributesClassName":"x"}}"#),
    ("PersistentVolumeClaim", "status.modifyVolumeStatus", false, CLAIM, r#"{"status":{"modifyVolumeStatus":{"status":"Pending"}}}"#),
    ("PersistentVolumeClaim", "status.phase", false, CLAIM, r#"{"status":{"phase":"Lost"}}"#),

    ("ResourceSlice", "metadata.labels", true, SLICE, r#"{"metadata":{"labels":{"a":"b"}}}"#),
    ("ResourceSlice", "metadata.annotations", true, SLICE, r#"{"metadata":{"annotations":{"a":"b"}}}"#),
    ("ResourceSlice", "metadata.finalizers", true, SLICE, r#"{"metadata":{"finalizers":["example.com/a"]}}"#),
    ("ResourceSlice", "metadata.ownerReferences", true, SLICE, r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u"}]}}"#),
    ("ResourceSlice", "spec.allNodes", false, SLICE, r#"{"spec":{"nodeName":null,"allNodes":true}}"#),
    ("ResourceSlice", "spec.devices", true, SLICE, r#"{"spec":{"devices":[{"name":"d"}]}}"#),
    ("ResourceSlice", "spec.driver", false, SLICE, r#"{"spec":{"driver":"other.example.com"}}"#),
    ("ResourceSlice", "spec.nodeName", false, SLICE, r#"{"spec":{"nodeName":"n2"}}"#),
    ("ResourceSlice", "spec.nodeSelector", false, SLICE, r#"{"spec":{"nodeName":null,"nodeSelector":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}"#),
    ("ResourceSlice", "spec.perDeviceNodeSelection", false, SLICE, r#"{"spec":{"nodeName":null,"perDeviceNodeSelection":true}}"#),
    ("ResourceSlice", "spec.pool", true, SLICE, r#"{"spec":{"pool":{"generation":2}}}"#),
    ("ResourceSlice", "spec.sharedCounters", true, SLICE, r#"{"spec":{"sharedCounters":[],"pool":{"generation":2}}}"#),
];

/// The objects of the node `n1`, as the administrator created them.
async fn create_objects(api: &Api) {
    let named = json!({"metadata": {"name": "n1"}});
    api.create(
        "/api/v1/nodes",
        json!({"metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}),
    )
    .await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    api.create(leases, named.clone()).await;
    let csi = json!({"metadata": {"name": "n1"}, "spec": {"drivers": []}});
    api.create("/apis/storage.k8s.io/v1/csinodes", csi).await;
    let slice = json!({"metadata": {"name": "own"}, "spec": {"nodeName": "n1", "driver": "a.example.com",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1}}});
    api.create("/apis/resource.k8s.io/v1/resourceslices", slice)
        .await;
    let claim = json!({"metadata": {"name": "own"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}});
    let home = "/api/v1/namespaces/default";
    api.create(&format!("{home}/persistentvolumeclaims"), claim)
        .await;
    api.with_account().await;
    let pod = json!({"metadata": {"name": "own"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "own"}}]}});
    api.create(&format!("{home}/pods"), pod).await;
}

/// The rows of the page: kind and field, and whether the node may write it.
fn of_page() -> BTreeMap<(String, String), bool> {
    let (_, section) = PAGE.split_once(HEADING).unwrap();
    let section = section.split("\n#").next().unwrap();
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let kind = cells[1].trim_matches('`');
        // Every second part of the text is in backticks.
        for field in cells[2].split('`').skip(1).step_by(2) {
            let may = !cells[3].starts_with("refused");
            let before = rows.insert((kind.to_owned(), field.to_owned()), may);
            assert_eq!(before, None, "{kind} {field} is there twice");
            assert!(!cells[4].is_empty() || !may, "{kind} {field} has no reason");
        }
    }
    rows
}

// findings-2 S37, S47
#[tokio::test]
async fn a_node_writes_the_fields_that_the_page_says() {
    let api = Api::new().await;
    create_objects(&api).await;
    let node = api.as_user("system:node:n1", &["system:nodes", "system:authenticated"]);
    let mut wrong = Vec::new();
    for (kind, field, may, path, patch) in FIELDS {
        let patch: Value = serde_json::from_str(patch).unwrap();
        let url = format!("{path}?dryRun=All");
        let (code, response) = node.patch(&url, "merge", patch).await;
        let allowed = match code {
            200 => true,
            403 | 422 => false,
            _ => panic!("{kind} {field}: {code} {response}"),
        };
        if allowed != *may {
            wrong.push(format!("{kind} {field}: {code} {}", response["message"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let rows: BTreeMap<(String, String), bool> = FIELDS
        .iter()
        .map(|(kind, field, may, ..)| (((*kind).to_owned(), (*field).to_owned()), *may))
        .collect();
    assert_eq!(of_page(), rows);
}

// findings-2 S37
#[tokio::test]
async fn every_field_of_a_nodes_objects_is_on_the_page() {
    let api = Api::new().await;
    let (_, core) = api.get("/openapi/v3/api/v1").await;
    let (_, leases) = api.get("/openapi/v3/apis/coordination.k8s.io/v1").await;
    let (_, storage) = api.get("/openapi/v3/apis/storage.k8s.io/v1").await;
    let (_, devices) = api.get("/openapi/v3/apis/resource.k8s.io/v1").await;
    let page = of_page();
    let mut missing = Vec::new();
    for (kind, part, document, schema) in [
        ("Node", "spec", &core, "api.core.v1.NodeSpec"),
        ("Node", "status", &core, "api.core.v1.NodeStatus"),
        ("Lease", "spec", &leases, "api.coordination.v1.LeaseSpec"),
        ("CSINode", "spec", &storage, "api.storage.v1.CSINodeSpec"),
        ("Pod", "status", &core, "api.core.v1.PodStatus"),
        (
            "PersistentVolumeClaim",
            "status",
            &core,
            "api.core.v1.PersistentVolumeClaimStatus",
        ),
        (
            "ResourceSlice",
            "spec",
            &devices,
            "api.resource.v1.ResourceSliceSpec",
        ),
    ] {
        let schema = &document["components"]["schemas"][format!("io.k8s.{schema}")];
        let fields = schema["properties"].as_object();
        let fields: BTreeSet<&String> = fields
            .unwrap_or_else(|| panic!("{kind} {part}"))
            .keys()
            .collect();
        let all = fields.into_iter().map(|field| format!("{part}.{field}"));
        let metadata = METADATA.map(|field| format!("metadata.{field}"));
        let metadata = metadata.into_iter().filter(|_| part == "spec");
        for field in all.chain(metadata) {
            if !page.contains_key(&(kind.to_owned(), field.clone())) {
                missing.push(format!("{kind} {field}"));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}
