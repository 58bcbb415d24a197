//! Containers that cannot be made or started.

use super::situation::{Remedy, Situation, USUAL};

pub const CONFIGURATION: &[Situation] = &[
    Situation {
        name: "configmap-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}]
"#,
        cause: &[r#"container main cannot be configured: configmap "settings" not found"#],
        ..USUAL
    },
    Situation {
        name: "configmap-key-missing",
        manifest: r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}]
"#,
        cause: &[r#"couldn't find key level in ConfigMap NAMESPACE/settings"#],
        ..USUAL
    },
    Situation {
        name: "secret-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    envFrom: [{secretRef: {name: login}}]
"#,
        cause: &[r#"container main cannot be configured: secret "login" not found"#],
        ..USUAL
    },
    Situation {
        name: "secret-key-missing",
        manifest: r#"
apiVersion: v1
kind: Secret
metadata: {name: login}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    env: [{name: LEVEL, valueFrom: {secretKeyRef: {name: login, key: password}}}]
"#,
        cause: &[r#"couldn't find key password in Secret NAMESPACE/login"#],
        ..USUAL
    },
    Situation {
        name: "configmap-of-volume-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: conf, configMap: {name: settings, items: [{key: level, path: level}]}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    volumeMounts: [{name: conf, mountPath: /conf}]
"#,
        cause: &[r#"MountVolume.SetUp failed for volume "conf" : configmap "settings" not found"#],
        ..USUAL
    },
    Situation {
        name: "configmap-key-of-volume-missing",
        manifest: r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: conf, configMap: {name: settings, items: [{key: level, path: level}]}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    volumeMounts: [{name: conf, mountPath: /conf}]
"#,
        cause: &[r#"configmap references non-existent config key: level"#],
        ..USUAL
    },
    Situation {
        name: "secret-of-volume-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: login, secret: {secretName: login}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    volumeMounts: [{name: login, mountPath: /login}]
"#,
        cause: &[r#"MountVolume.SetUp failed for volume "login" : secret "login" not found"#],
        ..USUAL
    },
    Situation {
        name: "root-refused",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true}
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
"#,
        cause: &[r#"container has runAsNonRoot and image will run as root"#],
        ..USUAL
    },
    Situation {
        name: "sub-path-through-a-file",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  initContainers: [{name: setup, image: 'busybox:1', command: [sh, -c, 'echo x > /data/file'], volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    volumeMounts: [{name: data, mountPath: /data, subPath: file/below}]
"#,
        cause: &[
            r#"container main cannot be configured: failed to prepare subPath for volumeMount "data" of container "main""#,
        ],
        remedy: Remedy::Filled(&[("PATH", r#"below"#)]),
        ..USUAL
    },
    Situation {
        name: "host-path-not-a-directory",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: host, hostPath: {path: DATA/host-path, type: Directory}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    volumeMounts: [{name: host, mountPath: /host}]
"#,
        cause: &[r#"hostPath type check failed: DATA/host-path is not a directory"#],
        ..USUAL
    },
    Situation {
        name: "command-not-found",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'nginx:1'
    command: [no-such-program]
"#,
        cause: &[r#"container main"#, r#"no-such-program"#],
        remedy: Remedy::Filled(&[("COMMAND", r#"/usr/sbin/nginx"#)]),
        ..USUAL
    },
];
