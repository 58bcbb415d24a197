//! Pods whose image cannot be had.

use super::situation::{Remedy, Situation, USUAL};

pub const IMAGES: &[Situation] = &[
    Situation {
        name: "image-not-found",
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
      containers: [{name: main, image: 'nowhere:1', command: [sleep, '1000']}]
"#,
        asked: "sts/web",
        cause: &[
            r#"web-1 waits for web-0 to be Ready"#,
            r#"image "nowhere:1" of container main cannot be pulled: "#,
        ],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "image-name-invalid",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'Busy Box'
    command: [sleep, '1000']
"#,
        cause: &[r#""Busy Box" of container main is no image name"#],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "image-never-pulled",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'nginx:2'
    imagePullPolicy: Never
"#,
        cause: &[
            r#"image "nginx:2" of container main is not on the node, and imagePullPolicy is Never"#,
        ],
        ..USUAL
    },
    Situation {
        name: "image-registry-unreachable",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: '127.0.0.1:9/shop:1'
    command: [sleep, '1000']
"#,
        cause: &[
            r#"image "127.0.0.1:9/shop:1" of container main cannot be pulled"#,
            r#"the registry 127.0.0.1:9 has to answer the node"#,
        ],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "image-login-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'REGISTRY/library/busybox:1'
    command: [sleep, '1000']
"#,
        cause: &[
            r#"pull access denied at REGISTRY"#,
            r#"its registry wants a login"#,
        ],
        remedy: Remedy::Filled(&[("USER", r#"somebody"#), ("PASSWORD", r#"secret"#)]),
        ..USUAL
    },
    Situation {
        name: "image-imported-policy-always",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'localhost/shop'
"#,
        before: &[r#"MAINSTAY image import shop.tar --data-dir ."#],
        cause: &[
            r#"image "localhost/shop" of container main cannot be pulled"#,
            r#"the image is on the node, but imagePullPolicy Always asks the registry"#,
        ],
        ..USUAL
    },
];
