//! StatefulSets that are held up by what their pods are made of.

use super::situation::{Remedy, Situation, USUAL};

pub const SETS: &[Situation] = &[
    Situation {
        name: "update-on-delete",
        manifest: r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  updateStrategy: {type: OnDelete}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=2 sts/web --timeout=60s"#,
            r#"kubectl -n NAMESPACE patch sts web -p '{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}' "#,
        ],
        asked: "sts/web",
        cause: &[r#"outdated pods are to be deleted by hand"#],
        ..USUAL
    },
    Situation {
        name: "rollout-broken",
        manifest: r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=2 sts/web --timeout=60s"#,
            r#"kubectl -n NAMESPACE set image sts/web main=nowhere:1"#,
        ],
        asked: "sts/web",
        cause: &[r#"image "nowhere:1" of container main cannot be pulled"#],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "name-of-pod-taken",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web-0}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        asked: "sts/web",
        cause: &[r#"web-0"#],
        ..USUAL
    },
    Situation {
        name: "claim-of-set-being-deleted",
        manifest: r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 1
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}}]
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000'], volumeMounts: [{name: data, mountPath: /data}]}]
"#,
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=1 sts/web --timeout=60s"#,
            r#"kubectl -n NAMESPACE patch pvc data-web-0 --type merge -p '{"metadata":{"finalizers":["example.com/backup"]}}' "#,
            r#"kubectl -n NAMESPACE delete pvc data-web-0 --wait=false"#,
            r#"kubectl -n NAMESPACE delete pod web-0"#,
        ],
        asked: "sts/web",
        cause: &[r#"finalizers hold it: example.com/backup"#],
        ..USUAL
    },
];
