//! The requests of the sidecars of CSI drivers (external-provisioner, external-attacher,
//! external-resizer, external-snapshotter), as they make them and with the rights of their manifests
//! only, against the server and its controllers.

use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass};
use resource_kinds::snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};

use super::drivers::DRIVER;
use super::*;

const NAMESPACE: &str = "kube-system";
const OF_PROVISIONER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const OF_ATTACHER: &str = "external-attacher/disks-example-com";

/// The rights of a sidecar: verbs, API group, resource.
type Rights = &'static [(&'static str, &'static str, &'static str)];

const READ: &str = "get list watch";
const LEASES: (&str, &str, &str) = (
    "get watch list delete update create",
    "coordination.k8s.io",
    "leases",
);
const EVENTS: (&str, &str, &str) = ("list watch create update patch", "", "events");

const PROVISIONER: Rights = &[
    (
        "get list watch create patch delete",
        "",
        "persistentvolumes",
    ),
    ("get list watch update", "", "persistentvolumeclaims"),
    (READ, "storage.k8s.io", "storageclasses"),
    (READ, "storage.k8s.io", "csinodes"),
    (READ, "storage.k8s.io", "volumeattachments"),
    (READ, "", "nodes"),
    (
        "get list watch create update patch delete",
        "storage.k8s.io",
        "csistoragecapacities",
    ),
    ("get", "", "pods"),
    EVENTS,
    LEASES,
];
const ATTACHER: Rights = &[
    ("get list watch patch", "", "persistentvolumes"),
    (READ, "storage.k8s.io", "csinodes"),
    (
        "get list watch patch",
        "storage.k8s.io",
        "volumeattachments",
    ),
    ("patch", "storage.k8s.io", "volumeattachments/status"),
    LEASES,
];
const RESIZER: Rights = &[
    ("get list watch patch", "", "persistentvolumes"),
    (READ, "", "persistentvolumeclaims"),
    (READ, "", "pods"),
    (READ, "storage.k8s.io", "volumeattributesclasses"),
    ("patch", "", "persistentvolumeclaims/status"),
    EVENTS,
    LEASES,
];
const SNAPSHOTTER: Rights = &[
    (READ, "snapshot.storage.k8s.io", "volumesnapshotclasses"),
    (
        "get list watch update patch",
        "snapshot.storage.k8s.io",
        "volumesnapshotcontents",
    ),
    (
        "update patch",
        "snapshot.storage.k8s.io",
        "volumesnapshotcontents/status",
    ),
    EVENTS,
    LEASES,
];

fn patched() -> PatchParams {
    PatchParams::default()
}

/// A node with the driver, and a class of it.
async fn with_driver() -> Cluster {
    let cluster = Cluster::with_driver(&["n1"], json!({})).await;
    cluster.limit("n1", 8).await;
    cluster
}

impl Cluster {
    /// A client with the rights of a sidecar.
    async fn sidecar(&self, name: &str, rights: Rights) -> Client {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let rules: Vec<Value> = rights
            .iter()
            .map(|(verbs, group, resource)| {
                json!({"verbs": words(verbs), "apiGroups": [group], "resources": [resource]})
            })
            .collect();
        let params = PostParams::default();
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        let role = json!({"metadata": {"name": name}, "rules": rules});
        roles.create(&params, &typed(role)).await.unwrap();
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": name}]});
        bindings.create(&params, &typed(binding)).await.unwrap();
        let user = UserInfo::new(
            format!("system:serviceaccount:{NAMESPACE}:{name}"),
            [
                "system:serviceaccounts",
                "system:serviceaccounts:kube-system",
                "system:authenticated",
            ],
        );
        let client = Client::new(self.server.local(user), NAMESPACE);
        // The server follows roles and bindings by a watch.
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        let may = || async { leases.list(&Default::default()).await.is_ok() };
        eventually(true, may).await;
        client
    }

    /// A pod `user` with the claim `data`, up to the provisioner's answer: the volume's name.
    async fn provisioned(&self, provisioner: &Client) -> String {
        self.create_claim("data", "disks").await;
        self.create_pod("user", claiming("data")).await;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(provisioner.clone(), "default");
        let requested_provisioner = || async {
            let claim = claims.get("data").await.unwrap();
            let annotations = claim.metadata.annotations.unwrap_or_default();
            let of = |key: &str| annotations.get(key).cloned();
            (
                of("volume.kubernetes.io/storage-provisioner"),
                of("volume.kubernetes.io/selected-node"),
            )
        };
        let expected = (Some(DRIVER.to_owned()), Some("n1".to_owned()));
        eventually(expected, requested_provisioner).await;
        let claim = claims.get("data").await.unwrap().metadata;
        let name = format!("pvc-{}", claim.uid.clone().unwrap());
        let volume = json!({
            "metadata": {"name": name, "finalizers": [OF_PROVISIONER], "annotations": {
                "pv.kubernetes.io/provisioned-by": DRIVER,
                "volume.kubernetes.io/provisioner-deletion-secret-name": "",
                "volume.kubernetes.io/provisioner-deletion-secret-namespace": ""}},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": "default", "name": "data", "uid": claim.uid,
                    "resourceVersion": claim.resource_version},
                "csi": {"driver": DRIVER, "volumeHandle": "disk-1", "volumeAttributes":
                    {"storage.kubernetes.io/csiProvisionerIdentity": "1-disks.example.com"}},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}},
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "disks",
                "volumeMode": "Filesystem"},
            "status": {}});
        let volumes: Api<PersistentVolume> = Api::all(provisioner.clone());
        let params = PostParams::default();
        volumes.create(&params, &typed(volume)).await.unwrap();
        let bound = || async { phase_of(&claims.get("data").await.unwrap()) };
        eventually("Bound".to_owned(), bound).await;
        eventually("n1".to_owned(), || self.node_or_reason("user")).await;
        name
    }

    async fn volume_phase(&self, name: &str) -> String {
        let volume = self.volumes().get(name).await.unwrap();
        let phase = volume.status.and_then(|status| status.phase);
        phase.unwrap_or_default()
    }
}

/// The provisioner deletes the volume of a deleted claim.
async fn deletes(provisioner: &Client, name: &str) {
    let volumes: Api<PersistentVolume> = Api::all(provisioner.clone());
    volumes
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    let volume = volumes.get(name).await.unwrap();
    assert!(volume.metadata.deletion_timestamp.is_some());
    // Its own finalizer, as the difference of two objects removes it.
    let finalizers = volume.metadata.finalizers.unwrap();
    let rest: Vec<_> = finalizers
        .iter()
        .filter(|name| *name != OF_PROVISIONER)
        .collect();
    let patch = match rest.is_empty() {
        true => json!({"metadata": {"finalizers": null}}),
        false => json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": [OF_PROVISIONER],
            "$setElementOrder/finalizers": rest}}),
    };
    let patch = Patch::Strategic(patch);
    volumes.patch(name, &patched(), &patch).await.unwrap();
    let is_deleted = || async { volumes.get_opt(name).await.unwrap().is_none() };
    eventually(true, is_deleted).await;
}

/// client-go's leader election: get, create, update.
async fn leads(sidecar: &Client, name: &str) {
    let leases: Api<Lease> = Api::namespaced(sidecar.clone(), NAMESPACE);
    assert!(leases.get_opt(name).await.unwrap().is_none());
    let spec = |holder: &str| {
        json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 0,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:00.000000Z"})
    };
    let lease = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec("a")});
    let params = PostParams::default();
    let created = leases.create(&params, &typed(lease)).await.unwrap();
    let mut lease = json!(created);
    lease["spec"] = spec("b");
    let old = lease.clone();
    leases.replace(name, &params, &typed(lease)).await.unwrap();
    // One that has not seen it does not lead.
    let error = leases.replace(name, &params, &typed(old)).await;
    assert!(matches!(error, Err(kube_api_client::Error::Api(status)) if status.code == 409));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_made_attached_grown_and_deleted_by_sidecars() {
    let cluster = with_driver().await;
    let provisioner = cluster.sidecar("csi-provisioner", PROVISIONER).await;
    leads(&provisioner, "disks-example-com").await;
    let volume = cluster.provisioned(&provisioner).await;
    let events: Api<Event> = Api::namespaced(provisioner.clone(), "default");
    let event = json!({"metadata": {"name": "data.1", "namespace": "default"},
        "involvedObject": {"kind": "PersistentVolumeClaim", "namespace": "default",
            "name": "data", "apiVersion": "v1"},
        "reason": "Provisioning", "message": "m", "type": "Normal", "count": 1,
        "source": {"component": "disks.example.com_csi-provisioner-0"}});
    let params = PostParams::default();
    events.create(&params, &typed(event)).await.unwrap();
    let again = Patch::Strategic(json!({"count": 2, "lastTimestamp": "2026-01-01T00:00:00Z"}));
    events.patch("data.1", &patched(), &again).await.unwrap();

    let attacher = cluster.sidecar("csi-attacher", ATTACHER).await;
    leads(&attacher, "external-attacher-leader-disks-example-com").await;
    let attachments: Api<VolumeAttachment> = Api::all(attacher.clone());
    let all = || async { attachments.list(&Default::default()).await.unwrap().items };
    let count = || async { all().await.len() };
    eventually(1, count).await;
    let attachment = all().await.remove(0).metadata.name.unwrap();
    let of_attacher: Api<PersistentVolume> = Api::all(attacher.clone());
    let add = json!([{"op": "add", "path": "/metadata/finalizers/-", "value": OF_ATTACHER}]);
    let params = patched();
    of_attacher
        .patch(&volume, &params, &Patch::Json(add))
        .await
        .unwrap();
    let finalizer_patch = Patch::Merge(json!({"metadata": {"finalizers": [OF_ATTACHER],
        "annotations": {"csi.alpha.kubernetes.io/node-id": "id-1"}}}));
    attachments
        .patch(&attachment, &params, &finalizer_patch)
        .await
        .unwrap();
    let attached = Patch::Merge(json!({"status": {"attached": true,
        "attachmentMetadata": {"device": "sdb"}}}));
    let done = attachments.patch_status(&attachment, &params, &attached);
    assert!(done.await.unwrap().status.unwrap().attached);
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let attached_volumes = || async {
        let status = nodes.get("n1").await.unwrap().status.unwrap();
        let volumes = status.volumes_attached.unwrap_or_default();
        volumes.iter().any(|one| one.name.ends_with("^disk-1"))
    };
    eventually(true, attached_volumes).await;

    let resizer = cluster.sidecar("csi-resizer", RESIZER).await;
    grows(&cluster, &resizer, &volume).await;
    changes(&cluster, &resizer, &volume).await;

    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("user", &now).await.unwrap();
    let detaching = || async {
        let attachment = attachments.get(&attachment).await.unwrap();
        attachment.metadata.deletion_timestamp.is_some()
    };
    eventually(true, detaching).await;
    let detached = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    attachments
        .patch(&attachment, &params, &detached)
        .await
        .unwrap();
    eventually(0, count).await;
    let finalizers = of_attacher.get(&volume).await.unwrap().metadata.finalizers;
    let index = finalizers
        .unwrap()
        .iter()
        .position(|name| name == OF_ATTACHER);
    let path = format!("/metadata/finalizers/{}", index.unwrap());
    let remove = json!([{"op": "test", "path": path, "value": OF_ATTACHER},
        {"op": "remove", "path": path}]);
    of_attacher
        .patch(&volume, &params, &Patch::Json(remove))
        .await
        .unwrap();

    let params = DeleteParams::default();
    cluster.claims().delete("data", &params).await.unwrap();
    eventually("Released".to_owned(), || cluster.volume_phase(&volume)).await;
    deletes(&provisioner, &volume).await;
}

/// The resizer's part of an expansion (KEP-1790).
async fn grows(cluster: &Cluster, resizer: &Client, volume: &str) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(resizer.clone(), "default");
    let params = patched();
    let growth = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
    cluster
        .claims()
        .patch("data", &params, &growth)
        .await
        .unwrap();
    let state = |version: &str, state: &str, condition: &str, former: Option<&str>| {
        let mut conditions = vec![json!({"type": condition, "status": "True",
            "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"})];
        let removed_condition = former.map(|former| json!({"$patch": "delete", "type": former}));
        conditions.extend(removed_condition);
        Patch::Strategic(json!({"metadata": {"resourceVersion": version}, "status": {
            "$setElementOrder/conditions": [{"type": condition}], "conditions": conditions,
            "allocatedResources": {"storage": "2Gi"},
            "allocatedResourceStatuses": {"storage": state}}}))
    };
    let version = claims
        .get("data")
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let begun = state(&version, "ControllerResizeInProgress", "Resizing", None);
    let begun = claims.patch_status("data", &params, &begun).await.unwrap();
    // An old state of the claim is not written over a new one.
    let stale = state(&version, "ControllerResizeInfeasible", "Resizing", None);
    let error = claims.patch_status("data", &params, &stale).await;
    assert!(matches!(error, Err(kube_api_client::Error::Api(status)) if status.code == 409));
    let volumes: Api<PersistentVolume> = Api::all(resizer.clone());
    let grown = Patch::Strategic(json!({"spec": {"capacity": {"storage": "2Gi"}}, "metadata":
        {"annotations": {"volume.alpha.kubernetes.io/pre-resize-capacity": "1Gi"}}}));
    volumes.patch(volume, &params, &grown).await.unwrap();
    let version = begun.metadata.resource_version.unwrap();
    let former = Some("Resizing");
    let patch = state(
        &version,
        "NodeResizePending",
        "FileSystemResizePending",
        former,
    );
    let claim = claims.patch_status("data", &params, &patch).await.unwrap();
    let status = claim.status.unwrap();
    let conditions = status.conditions.unwrap();
    assert_eq!(conditions.len(), 1, "{conditions:?}");
    assert_eq!(conditions[0].type_, "FileSystemResizePending");
    let states = status.allocated_resource_statuses.unwrap();
    assert_eq!(states["storage"], "NodeResizePending");
}

/// The resizer gives a volume the attributes of a class (KEP-3751).
async fn changes(cluster: &Cluster, resizer: &Client, volume: &str) {
    let params = PostParams::default();
    let classes: Api<VolumeAttributesClass> = Api::all(cluster.client.clone());
    let class = json!({"metadata": {"name": "gold"}, "driverName": DRIVER,
        "parameters": {"iops": "100"}});
    classes.create(&params, &typed(class)).await.unwrap();
    let params = patched();
    let change = Patch::Merge(json!({"spec": {"volumeAttributesClassName": "gold"}}));
    cluster
        .claims()
        .patch("data", &params, &change)
        .await
        .unwrap();
    let of_resizer: Api<VolumeAttributesClass> = Api::all(resizer.clone());
    assert_eq!(of_resizer.get("gold").await.unwrap().driver_name, DRIVER);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(resizer.clone(), "default");
    let begun = Patch::Strategic(json!({"status": {
        "conditions": [{"type": "ModifyingVolume", "status": "True", "message": "m"}],
        "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "gold"}}}));
    let claim = claims.patch_status("data", &params, &begun).await.unwrap();
    let status = claim.status.unwrap();
    assert_eq!(status.modify_volume_status.unwrap().status, "InProgress");
    let volumes: Api<PersistentVolume> = Api::all(resizer.clone());
    let changed = Patch::Strategic(json!({"spec": {"volumeAttributesClassName": "gold"}}));
    volumes.patch(volume, &params, &changed).await.unwrap();
    let done = Patch::Strategic(json!({"status": {
        "conditions": [{"$patch": "delete", "type": "ModifyingVolume"}],
        "currentVolumeAttributesClassName": "gold", "modifyVolumeStatus": null}}));
    let claim = claims.patch_status("data", &params, &done).await.unwrap();
    assert_eq!(phase_of(&claim), "Bound");
    let status = claim.status.unwrap();
    let current = status.current_volume_attributes_class_name;
    assert_eq!(current.as_deref(), Some("gold"));
    assert!(status.modify_volume_status.is_none());
}

/// KEP-2644: a volume that is deleted before its claim keeps its storage until the claim is gone, and
/// its provisioner deletes it then.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_deleted_first_is_released_after_its_claim() {
    let cluster = with_driver().await;
    let provisioner = cluster.sidecar("csi-provisioner", PROVISIONER).await;
    let volume = cluster.provisioned(&provisioner).await;
    let params = DeleteParams::default();
    cluster.volumes().delete(&volume, &params).await.unwrap();
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("user", &now).await.unwrap();
    assert_eq!(cluster.volume_phase(&volume).await, "Bound");
    cluster.claims().delete("data", &params).await.unwrap();
    eventually("Released".to_owned(), || cluster.volume_phase(&volume)).await;
    deletes(&provisioner, &volume).await;
}

/// The provisioner takes back the choice of a node without room, which is the preferred one. It is not chosen again while
/// another node can take the pod.
// findings-2 R30
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_placed_anew_if_its_volume_cannot_be_made() {
    let cluster = with_driver().await;
    let provisioner = cluster.sidecar("csi-provisioner", PROVISIONER).await;
    cluster.add_node("n2").await;
    cluster.create_claim("data", "disks").await;
    let mut spec = claiming("data");
    spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 100, "preference": {"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}}]}});
    cluster.create_pod("user", spec).await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(provisioner, "default");
    let chosen = || async {
        let claim = claims.get("data").await.unwrap();
        let annotations = claim.metadata.annotations.unwrap_or_default();
        annotations
            .get("volume.kubernetes.io/selected-node")
            .cloned()
    };
    eventually(Some("n1".to_owned()), chosen).await;
    let refusals = AtomicUsize::new(0);
    let refused = || async {
        let mut claim = claims.get("data").await.unwrap();
        let key = "volume.kubernetes.io/selected-node";
        let annotations = claim.metadata.annotations.get_or_insert_default();
        let chosen = annotations.get(key).cloned();
        if chosen.as_deref() == Some("n1") {
            annotations.remove(key);
            let params = PostParams::default();
            let replaced = claims.replace("data", &params, &claim).await;
            refusals.fetch_add(usize::from(replaced.is_ok()), Ordering::Relaxed);
        }
        chosen
    };
    eventually(Some("n2".to_owned()), refused).await;
    assert_eq!(refusals.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn free_storage_is_reported_by_the_provisioner() {
    let cluster = with_driver().await;
    let provisioner = cluster.sidecar("csi-provisioner", PROVISIONER).await;
    cluster.create_pod("driver-0", json!({})).await;
    // Its owner is the pod's controller, or the pod.
    let pods: Api<Pod> = Api::namespaced(provisioner.clone(), "default");
    let owner = pods.get("driver-0").await.unwrap().metadata;
    let capacities: Api<CSIStorageCapacity> = Api::namespaced(provisioner.clone(), "default");
    let params = PostParams::default();
    // The provisioner asks so for the version of the kind, and ends on any other answer.
    let invalid = json!({"metadata": {"name": "#%123-invalid-name"}, "storageClassName": ""});
    let error = capacities.create(&params, &typed(invalid)).await;
    assert!(
        matches!(error, Err(kube_api_client::Error::Api(status)) if status.reason == "Invalid")
    );
    let capacity = json!({"metadata": {"generateName": "csisc-", "namespace": "default",
            "labels": {"csi.storage.k8s.io/drivername": DRIVER,
                "csi.storage.k8s.io/managed-by": "external-provisioner"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "driver-0",
                "uid": owner.uid, "controller": true}]},
        "storageClassName": "disks", "capacity": "1Gi",
        "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": "n1"}}});
    let mut created = capacities.create(&params, &typed(capacity)).await.unwrap();
    let name = created.metadata.name.clone().unwrap();
    assert!(name.starts_with("csisc-"));
    created.capacity = Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(
        "5Gi".to_owned(),
    ));
    let written = capacities.replace(&name, &params, &created).await.unwrap();
    assert_eq!(written.capacity.unwrap().0, "5Gi");
    let selector = kube_api_client::ListParams::default()
        .labels("csi.storage.k8s.io/drivername=disks.example.com");
    assert_eq!(capacities.list(&selector).await.unwrap().items.len(), 1);
    // It goes with its owner.
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("driver-0", &now).await.unwrap();
    let left = || async { capacities.list(&selector).await.unwrap().items.len() };
    eventually(0, left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_made_and_deleted_by_the_snapshotter() {
    let cluster = with_driver().await;
    let provisioner = cluster.sidecar("csi-provisioner", PROVISIONER).await;
    cluster.provisioned(&provisioner).await;
    let params = PostParams::default();
    let classes: Api<VolumeSnapshotClass> = Api::all(cluster.client.clone());
    let class = json!({"metadata": {"name": "disks"}, "driver": DRIVER,
        "deletionPolicy": "Delete"});
    classes.create(&params, &typed(class)).await.unwrap();
    let snapshots: Api<VolumeSnapshot> = Api::namespaced(cluster.client.clone(), "default");
    let snapshot = json!({"metadata": {"name": "s"}, "spec": {
        "source": {"persistentVolumeClaimName": "data"}, "volumeSnapshotClassName": "disks"}});
    snapshots.create(&params, &typed(snapshot)).await.unwrap();

    let snapshotter = cluster.sidecar("csi-snapshotter", SNAPSHOTTER).await;
    let contents: Api<VolumeSnapshotContent> = Api::all(snapshotter.clone());
    let all = || async { contents.list(&Default::default()).await.unwrap().items };
    let count = || async { all().await.len() };
    eventually(1, count).await;
    let content = all().await.remove(0);
    assert_eq!(content.spec.source.volume_handle.as_deref(), Some("disk-1"));
    assert!(content.status.is_none());
    let name = content.metadata.name.unwrap();
    let params = patched();
    let key = "snapshot.storage.kubernetes.io/volumesnapshot-being-created";
    let begun = json!([{"op": "replace", "path": "/metadata/annotations", "value": {key: "yes"}}]);
    contents
        .patch(&name, &params, &Patch::Json(begun))
        .await
        .unwrap();
    let ready = json!([{"op": "replace", "path": "/status", "value": {"snapshotHandle": "s-1",
        "readyToUse": true, "creationTime": 1_767_225_600_000_000_000_i64,
        "restoreSize": 1 << 30}}]);
    contents
        .patch_status(&name, &params, &Patch::Json(ready))
        .await
        .unwrap();
    let path = format!("/metadata/annotations/{}", key.replace('/', "~1"));
    let ended = json!([{"op": "remove", "path": path}]);
    contents
        .patch(&name, &params, &Patch::Json(ended))
        .await
        .unwrap();
    let is_ready = || async {
        let status = snapshots.get("s").await.unwrap().status.unwrap_or_default();
        status.ready_to_use == Some(true)
    };
    eventually(true, is_ready).await;

    snapshots
        .delete("s", &DeleteParams::default())
        .await
        .unwrap();
    let being_deleted = || async {
        let metadata = contents.get(&name).await.unwrap().metadata;
        let annotations = metadata.annotations.unwrap_or_default();
        metadata.deletion_timestamp.is_some()
            && annotations.contains_key(resource_kinds::snapshot::BEING_DELETED)
    };
    eventually(true, being_deleted).await;
    // The controller may write once more: then the snapshotter does it again.
    let cleared = || async {
        let mut content = contents.get(&name).await.unwrap();
        content.status = Some(Default::default());
        let written = PostParams::default();
        let done = contents.replace_status(&name, &written, &content).await;
        done.is_ok()
    };
    eventually(true, cleared).await;
    let free = json!([{"op": "replace", "path": "/metadata/finalizers", "value": null}]);
    contents
        .patch(&name, &params, &Patch::Json(free))
        .await
        .unwrap();
    eventually(0, count).await;
    let is_deleted = || async { snapshots.get_opt("s").await.unwrap().is_none() };
    eventually(true, is_deleted).await;
}
