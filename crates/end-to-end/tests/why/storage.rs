//! Volumes, claims and snapshots.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{POD, SET, Web};

pub const STORAGE: &[Situation] = &[
    Situation {
        name: "volume-released",
        manifest: "
apiVersion: v1
kind: PersistentVolume
metadata: {name: why-released}
spec:
  capacity: {storage: 16Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: why-released
  hostPath: {path: /tmp/why-released, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
  storageClassName: why-released
",
        before: &[
            "kubectl -n NAMESPACE wait --for=jsonpath={.status.phase}=Bound pvc/data --timeout=300s",
            "kubectl -n NAMESPACE delete pvc data",
        ],
        object: "pv/why-released",
        cause: &["its claim volume-released/data is gone"],
        ..USUAL
    },
    Situation {
        name: "volume-deleted-in-use",
        manifest: "
apiVersion: v1
kind: PersistentVolume
metadata: {name: why-in-use}
spec:
  capacity: {storage: 16Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: why-in-use
  hostPath: {path: /tmp/why-in-use, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
  storageClassName: why-in-use
",
        before: &[
            "kubectl -n NAMESPACE wait --for=jsonpath={.status.phase}=Bound pvc/data --timeout=300s",
            "kubectl delete pv why-in-use --wait=false",
        ],
        object: "pv/why-in-use",
        cause: &["kept while claim volume-deleted-in-use/data is bound to it"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "volume-held-by-finalizer",
        manifest: "
apiVersion: v1
kind: PersistentVolume
metadata: {name: why-kept, finalizers: [example.com/keep]}
spec:
  capacity: {storage: 16Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: why-kept
  hostPath: {path: /tmp/why-kept, type: DirectoryOrCreate}
",
        before: &["kubectl delete pv why-kept --wait=false"],
        object: "pv/why-kept",
        cause: &["example.com/keep"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "snapshot-held-by-finalizer",
        manifest: "
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: before, finalizers: [example.com/keep]}
spec: {source: {persistentVolumeClaimName: data}}
",
        before: &["kubectl -n NAMESPACE delete volumesnapshot before --wait=false"],
        object: "volumesnapshot/before",
        cause: &["finalizers hold it: example.com/keep"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "claim-lost",
        manifest: "
apiVersion: v1
kind: PersistentVolume
metadata: {name: why-lost}
spec:
  capacity: {storage: 16Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: why-lost
  hostPath: {path: /tmp/why-lost, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
  storageClassName: why-lost
",
        before: &[
            "kubectl -n NAMESPACE wait --for=jsonpath={.status.phase}=Bound pvc/data --timeout=300s",
            "kubectl delete pv why-lost --wait=false",
            "kubectl patch pv why-lost --type merge -p '{\"metadata\":{\"finalizers\":null}}'",
        ],
        object: "pvc/data",
        cause: &["Bound claim has lost its PersistentVolume"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "claim-class-missing",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
  storageClassName: why-none
",
        web: Some(Web {
            pod: "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..POD
        }),
        object: "pvc/data",
        cause: &[
            "\"why-none\" not found",
            "storageclass/why-none: does not exist",
        ],
        ..USUAL
    },
    Situation {
        name: "claim-held-by-finalizer",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, finalizers: [example.com/keep]}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
",
        before: &["kubectl -n NAMESPACE delete pvc data --wait=false"],
        object: "pvc/data",
        cause: &["finalizers hold it: example.com/keep"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "snapshot-claim-missing",
        manifest: "
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: before}
spec: {source: {persistentVolumeClaimName: data}}
",
        object: "volumesnapshot/before",
        cause: &["persistentvolumeclaim \"data\" not found"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "snapshot-claim-not-bound",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
  storageClassName: why-late
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: before}
spec: {source: {persistentVolumeClaimName: data}}
",
        object: "volumesnapshot/before",
        cause: &[
            "the PVC data is not yet bound",
            "storageclass/why-late: does not exist",
        ],
        remedy: Remedy::Described(&["kubectl -n NAMESPACE delete volumesnapshot before"]),
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "volume-directory-missing",
        web: Some(Web {
            spec: "volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}}]",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..SET
        }),
        before: &[
            "kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=1 sts/web --timeout=300s",
            "rm -r DATA/volumes/$(kubectl -n NAMESPACE get pvc data-web-0 -o jsonpath={.spec.volumeName})",
            "kubectl -n NAMESPACE delete pod web-0",
        ],
        object: "sts/web",
        cause: &["does not exist", "restore the volume"],
        ..USUAL
    },
];
