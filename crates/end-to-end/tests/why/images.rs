//! Pods whose image cannot be pulled.

use super::situation::{Remedy, Situation, USUAL};
use super::web::{POD, SET, Web};

pub const IMAGES: &[Situation] = &[
    Situation {
        name: "image-not-found",
        web: Some(Web {
            replicas: 2,
            image: "nowhere:1",
            ..SET
        }),
        object: "sts/web",
        cause: &[
            r#"web-1 waits for web-0 to be Ready"#,
            r#"image "nowhere:1" of container main cannot be pulled: "#,
        ],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "image-name-invalid",
        web: Some(Web {
            image: "Busy Box",
            ..POD
        }),
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
        web: Some(Web {
            image: "127.0.0.1:9/shop:1",
            ..POD
        }),
        cause: &[
            r#"image "127.0.0.1:9/shop:1" of container main cannot be pulled"#,
            r#"the registry 127.0.0.1:9 has to answer the node"#,
        ],
        remedy: Remedy::Filled(&[("IMAGE", r#"busybox:1"#)]),
        ..USUAL
    },
    Situation {
        name: "image-login-missing",
        web: Some(Web {
            image: "REGISTRY/library/busybox:1",
            ..POD
        }),
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
