//! Containers that cannot be created or started.

use super::situation::{Remedy, Situation, USUAL};
use super::web::{POD, Web};

pub const CONFIGURATION: &[Situation] = &[
    Situation {
        name: "configmap-missing",
        web: Some(Web {
            container: "env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}]",
            ..POD
        }),
        cause: &[r#"container main cannot be configured: configmap "settings" not found"#],
        ..USUAL
    },
    Situation {
        name: "configmap-key-missing",
        manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
",
        web: Some(Web {
            container: "env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}]",
            ..POD
        }),
        cause: &[r#"couldn't find key level in ConfigMap NAMESPACE/settings"#],
        ..USUAL
    },
    Situation {
        name: "secret-missing",
        web: Some(Web {
            container: "envFrom: [{secretRef: {name: login}}]",
            ..POD
        }),
        cause: &[r#"container main cannot be configured: secret "login" not found"#],
        ..USUAL
    },
    Situation {
        name: "secret-key-missing",
        manifest: "
apiVersion: v1
kind: Secret
metadata: {name: login}
",
        web: Some(Web {
            container: "env: [{name: LEVEL, valueFrom: {secretKeyRef: {name: login, key: password}}}]",
            ..POD
        }),
        cause: &[r#"couldn't find key password in Secret NAMESPACE/login"#],
        ..USUAL
    },
    Situation {
        name: "configmap-of-volume-missing",
        web: Some(Web {
            pod: "volumes: [{name: conf, configMap: {name: settings, items: [{key: level, path: level}]}}]",
            container: "volumeMounts: [{name: conf, mountPath: /conf}]",
            ..POD
        }),
        cause: &[r#"MountVolume.SetUp failed for volume "conf" : configmap "settings" not found"#],
        ..USUAL
    },
    Situation {
        name: "configmap-key-of-volume-missing",
        manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
",
        web: Some(Web {
            pod: "volumes: [{name: conf, configMap: {name: settings, items: [{key: level, path: level}]}}]",
            container: "volumeMounts: [{name: conf, mountPath: /conf}]",
            ..POD
        }),
        cause: &[r#"configmap references non-existent config key: level"#],
        ..USUAL
    },
    Situation {
        name: "secret-of-volume-missing",
        web: Some(Web {
            pod: "volumes: [{name: login, secret: {secretName: login}}]",
            container: "volumeMounts: [{name: login, mountPath: /login}]",
            ..POD
        }),
        cause: &[r#"MountVolume.SetUp failed for volume "login" : secret "login" not found"#],
        ..USUAL
    },
    Situation {
        name: "root-refused",
        web: Some(Web {
            pod: "securityContext: {runAsNonRoot: true}",
            ..POD
        }),
        cause: &[r#"container has runAsNonRoot and image will run as root"#],
        ..USUAL
    },
    Situation {
        name: "sub-path-through-a-file",
        web: Some(Web {
            pod: "initContainers: [{name: setup, image: 'busybox:1', command: [sh, -c, echo x > /data/file], volumeMounts: [{name: data, mountPath: /data}]}], volumes: [{name: data, emptyDir: {}}]",
            container: "volumeMounts: [{name: data, mountPath: /data, subPath: file/below}]",
            ..POD
        }),
        cause: &[
            r#"container main cannot be configured: failed to prepare subPath for volumeMount "data" of container "main""#,
        ],
        remedy: Remedy::Filled(&[("PATH", r#"below"#)]),
        ..USUAL
    },
    Situation {
        name: "host-path-not-a-directory",
        web: Some(Web {
            pod: "volumes: [{name: host, hostPath: {path: DATA/host-path, type: Directory}}]",
            container: "volumeMounts: [{name: host, mountPath: /host}]",
            ..POD
        }),
        cause: &[r#"hostPath type check failed: DATA/host-path is not a directory"#],
        ..USUAL
    },
    Situation {
        name: "command-not-found",
        web: Some(Web {
            image: "nginx:1",
            command: "[no-such-program]",
            ..POD
        }),
        cause: &[r#"container main"#, r#"no-such-program"#],
        remedy: Remedy::Filled(&[("COMMAND", r#"/usr/sbin/nginx"#)]),
        ..USUAL
    },
];
