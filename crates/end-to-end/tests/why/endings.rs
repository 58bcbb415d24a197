//! Pods that are being deleted, and pods that have ended.

use super::situation::{End, Remedy, Situation, USUAL};

pub const ENDINGS: &[Situation] = &[
    Situation {
        name: "pod-stops-slowly",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 20
  containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'trap true TERM; while true; do sleep 1; done']}]
",
        before: &[
            "kubectl -n NAMESPACE wait --for=condition=Ready pod/web --timeout=60s",
            "kubectl -n NAMESPACE delete pod web --wait=false",
        ],
        cause: &["being deleted: its containers have 20s to stop"],
        remedy: Remedy::Patience,
        end: End::Gone,
        ..USUAL
    },
    Situation {
        name: "pod-held-by-finalizer",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: web, finalizers: [example.com/backup]}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
",
        before: &["kubectl -n NAMESPACE delete pod web --wait=false"],
        cause: &["being deleted: finalizers hold it: example.com/backup"],
        end: End::Gone,
        ..USUAL
    },
    Situation {
        name: "pod-waits-for-scheduling-gate",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  schedulingGates: [{name: example.com/quota}]
  containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
",
        cause: &["scheduling gates hold it back: example.com/quota"],
        remedy: Remedy::Described(&[
            "kubectl -n NAMESPACE patch pod web --type json -p '[{\"op\":\"remove\",\"path\":\"/spec/schedulingGates\"}]'",
        ]),
        ..USUAL
    },
];
