//! StatefulSets that the configuration of their pods blocks.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{SET, Web};

pub const SETS: &[Situation] = &[
    Situation {
        name: "update-on-delete",
        web: Some(Web {
            replicas: 2,
            spec: "updateStrategy: {type: OnDelete}",
            ..SET
        }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=2 sts/web --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch sts web -p '{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}' "#,
        ],
        object: "sts/web",
        cause: &[r#"outdated pods are to be deleted by hand"#],
        ..USUAL
    },
    Situation {
        name: "rollout-broken",
        web: Some(Web { replicas: 2, ..SET }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=2 sts/web --timeout=300s"#,
            r#"kubectl -n NAMESPACE set image sts/web main=nowhere:1"#,
        ],
        object: "sts/web",
        cause: &[r#"image "nowhere:1" of container main cannot be pulled"#],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "name-of-pod-taken",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: web-0}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
",
        web: Some(Web { replicas: 2, ..SET }),
        object: "sts/web",
        cause: &[r#"web-0"#],
        ..USUAL
    },
    Situation {
        name: "claim-of-set-being-deleted",
        web: Some(Web {
            spec: "volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}}]",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..SET
        }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=1 sts/web --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch pvc data-web-0 --type merge -p '{"metadata":{"finalizers":["example.com/backup"]}}' "#,
            r#"kubectl -n NAMESPACE delete pvc data-web-0 --wait=false"#,
            r#"kubectl -n NAMESPACE delete pod web-0"#,
        ],
        object: "sts/web",
        cause: &[r#"finalizers hold it: example.com/backup"#],
        ..USUAL
    },
    Situation {
        name: "partition-holds-update",
        web: Some(Web {
            replicas: 2,
            spec: "updateStrategy: {rollingUpdate: {partition: 1}}",
            ..SET
        }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=jsonpath={.status.readyReplicas}=2 sts/web --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch sts web -p '{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}'"#,
        ],
        object: "sts/web",
        cause: &[r#"partition 1 keeps web-0 at the former revision"#],
        remedy: Remedy::Noted,
        outcome: Outcome::Unnoted,
        ..USUAL
    },
];
