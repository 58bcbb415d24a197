//! Pods that are being deleted, and pods that have ended.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{POD, Web};

pub const ENDINGS: &[Situation] = &[
    Situation {
        name: "pod-stops-slowly",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 40
  containers:
  - name: main
    image: 'busybox:1'
    command: [sh, -c, 'trap true TERM; while true; do sleep 1; done']
"#,
        before: &[r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/web --timeout=300s"#],
        just_before: Some(r#"kubectl -n NAMESPACE delete pod web --wait=false"#),
        cause: &[r#"being deleted: its containers have 40s to stop"#],
        remedy: Remedy::Patience,
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "pre-stop-hook-fails",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 40
  containers:
  - name: main
    image: 'busybox:1'
    command: [sh, -c, 'trap true TERM; while true; do sleep 1; done']
    lifecycle: {preStop: {exec: {command: [sh, -c, 'exit 4']}}}
"#,
        before: &[r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/web --timeout=300s"#],
        just_before: Some(r#"kubectl -n NAMESPACE delete pod web --wait=false"#),
        cause: &[
            r#"being deleted: its containers have 40s to stop"#,
            r#"PreStopHook failed"#,
        ],
        remedy: Remedy::Patience,
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "pod-held-by-finalizer",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web, finalizers: [example.com/backup]}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
"#,
        before: &[r#"kubectl -n NAMESPACE delete pod web --wait=false"#],
        cause: &[r#"being deleted: finalizers hold it: example.com/backup"#],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "shim-stopped",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 40
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
"#,
        before: &[
            r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/web --timeout=300s"#,
            r#"uid=$(kubectl -n NAMESPACE get pod web -o jsonpath={.metadata.uid}); for process in /proc/[0-9]*; do if tr "\0" " " < $process/cmdline 2>/dev/null | grep -q " shim DATA/.*$uid"; then kill -STOP ${process#/proc/}; fi; done"#,
            r#"kubectl -n NAMESPACE delete pod web --wait=false"#,
        ],
        cause: &[r#"their shim) does not answer"#],
        remedy: Remedy::Patience,
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "deadline-exceeded",
        web: Some(Web {
            pod: "activeDeadlineSeconds: 1",
            ..POD
        }),
        cause: &[r#"failed (DeadlineExceeded)"#],
        ..USUAL
    },
    Situation {
        name: "pod-failed",
        web: Some(Web {
            pod: "restartPolicy: Never",
            command: "[sh, -c, echo no database; exit 7]",
            ..POD
        }),
        cause: &[
            r#"failed: container main: exit code 7 (Error)"#,
            r#"| no database"#,
        ],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "empty-dir-over-its-limit",
        web: Some(Web {
            pod: "volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]",
            command: "[sh, -c, head -c 3000000 /dev/zero > /data/file; sleep 1000]",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..POD
        }),
        cause: &[
            r#"was evicted from its node: Usage of EmptyDir volume "data" exceeds the limit "1Mi""#,
        ],
        remedy: Remedy::Filled(&[("SIZE", r#"64Mi"#)]),
        ..USUAL
    },
    Situation {
        name: "ephemeral-storage-over-its-limit",
        web: Some(Web {
            command: "[sh, -c, head -c 3000000 /dev/zero > /file; sleep 1000]",
            container: "resources: {limits: {ephemeral-storage: 1Mi}}",
            ..POD
        }),
        cause: &[r#"was evicted from its node"#, r#"ephemeral"#],
        remedy: Remedy::Filled(&[("SIZE", r#"64Mi"#)]),
        ..USUAL
    },
];
