//! A node and a store with few free bytes, and a node that is drained. Each of these affects the whole instance.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{POD, SET, Web};

/// On a disk of 4 GiB with ext4, which supports neither snapshots nor large volumes.
pub const DISK: &[Situation] = &[
    Situation {
        name: "snapshot-of-class-that-cannot",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: before}
spec: {source: {persistentVolumeClaimName: data}}
",
        web: Some(Web {
            pod: "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]",
            image: "mainstay/debug",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..POD
        }),
        object: "volumesnapshot/before",
        cause: &["this snapshot can never be ready"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "claim-cannot-grow",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: local-cow, accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
",
        web: Some(Web {
            pod: "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]",
            image: "mainstay/debug",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..POD
        }),
        before: &[
            "kubectl -n NAMESPACE wait --for=condition=Ready pod/web --timeout=300s",
            "kubectl -n NAMESPACE patch pvc data -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"20Gi\"}}}}'",
        ],
        object: "pvc/data",
        cause: &["could not grow from 16Mi to 20Gi"],
        remedy: Remedy::Filled(&[("SIZE", "32Mi")]),
        ..USUAL
    },
];

/// A node that is drained.
pub const DRAIN: &[Situation] = &[Situation {
    name: "drain-held-by-budget",
    manifest: "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
",
    web: Some(Web {
        image: "mainstay/debug",
        ..SET
    }),
    before: &[
        "kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=1 sts/web --timeout=300s",
        "! kubectl drain NODE --pod-selector=app=web --timeout=5s",
    ],
    object: "pdb/web",
    cause: &["node NODE is cordoned, and web-0 may not be evicted from it"],
    ..USUAL
}];

/// A disk that is nearly full.
pub const PRESSURE: &[Situation] = &[Situation {
    name: "node-short-of-disk",
    manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: nothing}
",
    before: &[
        "fallocate -l $(($(df --output=avail -B1 DATA | tail -1) - 200 * 1024 * 1024)) DATA/filler",
    ],
    object: "node/NODE",
    cause: &[
        "is short of disk space",
        "free space on the file system of the data directory",
    ],
    remedy: Remedy::Described(&["rm DATA/filler"]),
    ..USUAL
}];

/// A store of 24 MiB.
pub const STORE: &[Situation] = &[Situation {
    name: "store-full",
    manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: nothing}
",
    before: &[
        // Only the system's namespaces may fill the store. Existing objects can be changed, so changes use the last
        // bytes.
        "head -c 900000 /dev/zero | tr '\\0' x > DATA/text; for i in $(seq 40); do \
         kubectl -n kube-system create configmap text-$i --from-file=DATA/text || break; done; \
         for i in $(seq 9); do \
         kubectl -n kube-system annotate configmap text-$i fill=$(head -c 120000 DATA/text); done",
    ],
    object: "cs/etcd-0",
    cause: &["the store cannot be written", "deleting works all the time"],
    remedy: Remedy::Described(&[
        "kubectl -n kube-system get configmap -o name | grep /text- | xargs kubectl -n kube-system delete",
    ]),
    ..USUAL
}];
