//! Containers that exit, are killed, or are not ready.

use super::situation::{Remedy, Situation, USUAL};
use super::web::{POD, SET, Web};

pub const CONTAINERS: &[Situation] = &[
    Situation {
        name: "program-fails",
        manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
",
        web: Some(Web {
            pod: "volumes: [{name: conf, configMap: {name: settings}}]",
            command: "[sh, -c, cat /conf/level || exit 3; sleep 1000]",
            container: "volumeMounts: [{name: conf, mountPath: /conf}]",
            ..POD
        }),
        cause: &[
            r#"container main does not keep running: exit code 3 (Error)"#,
            r#"| cat: can't open '/conf/level'"#,
        ],
        remedy: Remedy::Described(&[
            r#"kubectl -n NAMESPACE create configmap settings --from-literal=level=1 --dry-run=client -o yaml | kubectl apply -f -"#,
        ]),
        ..USUAL
    },
    Situation {
        name: "program-ends-well",
        web: Some(Web {
            command: "[sh, -c, echo all done]",
            ..POD
        }),
        cause: &[
            r#"container main does not keep running: exit code 0 (Completed)"#,
            r#"| all done"#,
        ],
        remedy: Remedy::Described(&[
            r#"kubectl -n NAMESPACE patch pod web --dry-run=client -o yaml -p '{"spec":{"containers":[{"name":"main","command":["sleep","1000"]}]}}' | kubectl replace --force -f -"#,
        ]),
        ..USUAL
    },
    Situation {
        name: "out-of-memory",
        web: Some(Web {
            command: "[sh, -c, head -c 40000000 /dev/zero | tail -c 40000000 > /dev/null && sleep 1000]",
            container: "resources: {limits: {memory: 32Mi}}",
            ..SET
        }),
        object: "sts/web",
        cause: &[r#"it used memory beyond its limit of 32Mi"#],
        ..USUAL
    },
    Situation {
        name: "init-container-fails",
        manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
",
        web: Some(Web {
            pod: "initContainers: [{name: setup, image: 'busybox:1', command: [sh, -c, cat /conf/level], volumeMounts: [{name: conf, mountPath: /conf}]}], volumes: [{name: conf, configMap: {name: settings}}]",
            ..POD
        }),
        cause: &[
            r#"init container setup does not succeed: exit code 1 (Error)"#,
            r#"| cat: can't open '/conf/level'"#,
        ],
        remedy: Remedy::Described(&[
            r#"kubectl -n NAMESPACE create configmap settings --from-literal=level=1 --dry-run=client -o yaml | kubectl apply -f -"#,
        ]),
        ..USUAL
    },
    Situation {
        name: "liveness-probe-kills",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'nginx:1'
    livenessProbe: {httpGet: {path: /missing, port: 80}, periodSeconds: 1, failureThreshold: 2}
"#,
        cause: &[
            r#"container main is killed again and again: its liveness probe fails (GET /missing on port 80)"#,
            r#"Liveness probe failed: HTTP probe failed with statuscode: 404"#,
        ],
        remedy: Remedy::Filled(&[("/PATH", r#"/"#), ("PORT", r#"80"#)]),
        ..USUAL
    },
    Situation {
        name: "startup-probe-kills",
        web: Some(Web {
            command: "[sh, -c, sleep 12; touch /tmp/up; sleep 1000]",
            container: "startupProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 3}",
            ..POD
        }),
        cause: &[
            r#"container main is killed again and again: its startup probe does not pass (command cat /tmp/up)"#,
            r#"Startup probe failed: "#,
        ],
        ..USUAL
    },
    Situation {
        name: "post-start-hook-fails",
        web: Some(Web {
            container: "lifecycle: {postStart: {exec: {command: [sh, -c, exit 5]}}}",
            ..POD
        }),
        cause: &[r#"postStart hook"#],
        remedy: Remedy::Filled(&[("COMMAND", r#"true"#)]),
        ..USUAL
    },
    Situation {
        name: "readiness-http-fails",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'nginx:1'
    readinessProbe: {httpGet: {path: /missing, port: 80}, periodSeconds: 1}
"#,
        cause: &[
            r#"readiness probe of container main does not pass (GET /missing on port 80)"#,
            r#"Readiness probe failed: HTTP probe failed with statuscode: 404"#,
        ],
        remedy: Remedy::Filled(&[("/PATH", r#"/"#), ("PORT", r#"80"#)]),
        ..USUAL
    },
    Situation {
        name: "readiness-tcp-fails",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'nginx:1'
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"#,
        cause: &[
            r#"readiness probe of container main does not pass (TCP port 8080)"#,
            r#"connection refused"#,
        ],
        remedy: Remedy::Filled(&[("PORT", r#"80"#)]),
        ..USUAL
    },
    Situation {
        name: "readiness-command-fails",
        web: Some(Web {
            container: "readinessProbe: {exec: {command: [cat, /tmp/missing]}, periodSeconds: 1}",
            ..POD
        }),
        cause: &[
            r#"readiness probe of container main does not pass (command cat /tmp/missing)"#,
            r#"Readiness probe failed: cat: can't open '/tmp/missing'"#,
        ],
        remedy: Remedy::Filled(&[("COMMAND", r#"true"#)]),
        ..USUAL
    },
    Situation {
        name: "readiness-too-slow",
        web: Some(Web {
            container: "readinessProbe: {exec: {command: [sleep, '3']}, periodSeconds: 1, timeoutSeconds: 1}",
            ..POD
        }),
        cause: &[
            r#"readiness probe of container main does not pass"#,
            r#"timed out after 1s"#,
        ],
        ..USUAL
    },
    Situation {
        name: "readiness-flaps",
        web: Some(Web {
            container: "readinessProbe: {exec: {command: [sh, -c, test $(($(date +%s) / 3 % 2)) = 0]}, periodSeconds: 1, failureThreshold: 1}",
            ..POD
        }),
        cause: &[
            r#"readiness probe of container main does not pass"#,
            r#"Readiness probe failed"#,
        ],
        remedy: Remedy::Filled(&[("COMMAND", r#"true"#)]),
        ..USUAL
    },
];
