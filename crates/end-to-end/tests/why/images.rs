//! Pods whose image cannot be had.

use super::situation::{Remedy, Situation, USUAL};

pub const IMAGES: &[Situation] = &[
    Situation {
        name: "image-not-found",
        manifest: "
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
      containers: [{name: main, image: 'nowhere:1', command: [sleep, '1000']}]
",
        asked: "sts/web",
        cause: &[
            "web-1 waits for web-0 to be Ready",
            "image \"nowhere:1\" of container main cannot be pulled: ",
        ],
        remedy: Remedy::Filled(&[("IMAGE", "busybox:1")]),
        ..USUAL
    },
    Situation {
        name: "image-name-invalid",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: 'Busy Box', command: [sleep, '1000']}]
",
        cause: &["\"Busy Box\" of container main is no image name"],
        remedy: Remedy::Filled(&[("IMAGE", "busybox:1")]),
        ..USUAL
    },
    Situation {
        name: "image-never-pulled",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: 'nginx:2', imagePullPolicy: Never}]
",
        cause: &[
            "image \"nginx:2\" of container main is not on the node, and imagePullPolicy is Never",
        ],
        ..USUAL
    },
];
