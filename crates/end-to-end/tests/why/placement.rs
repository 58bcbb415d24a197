//! Pods without a feasible node, and pods with a scheduling gate.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{POD, Web};

pub const PLACEMENT: &[Situation] = &[
    Situation {
        name: "scheduling-gate",
        web: Some(Web {
            pod: "schedulingGates: [{name: example.com/quota}]",
            ..POD
        }),
        cause: &[r#"scheduling gates hold it back: example.com/quota"#],
        ..USUAL
    },
    Situation {
        name: "node-selector",
        web: Some(Web {
            pod: "nodeSelector: {example.com/NAMESPACE: fast}",
            ..POD
        }),
        cause: &[
            r#"node(s) didn't match Pod's node affinity/selector"#,
            r#"a node with the labels of its nodeSelector"#,
        ],
        ..USUAL
    },
    Situation {
        name: "node-affinity",
        web: Some(Web {
            pod: "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: example.com/disk, operator: In, values: [fast]}]}]}}}",
            ..POD
        }),
        cause: &[r#"node(s) didn't match Pod's node affinity/selector"#],
        ..USUAL
    },
    Situation {
        name: "pod-affinity",
        web: Some(Web {
            pod: "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: other}}, topologyKey: kubernetes.io/hostname}]}}",
            ..POD
        }),
        cause: &[r#"node(s) didn't match pod affinity rules"#],
        ..USUAL
    },
    Situation {
        name: "pod-anti-affinity",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: first, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
",
        web: Some(Web {
            pod: "schedulingGates: [{name: example.com/later}], affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: web}}, topologyKey: kubernetes.io/hostname}]}}",
            ..POD
        }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/first --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch pod web --type json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'"#,
        ],
        cause: &[r#"node(s) didn't match pod anti-affinity rules"#],
        ..USUAL
    },
    Situation {
        name: "kept-away-by-another-pod",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: first, labels: {app: first}}
spec:
  terminationGracePeriodSeconds: 0
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: web}}, topologyKey: kubernetes.io/hostname}]}}
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  schedulingGates: [{name: example.com/later}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
"#,
        before: &[
            r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/first --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch pod web --type json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'"#,
        ],
        cause: &[
            r#"node(s) didn't satisfy existing pods anti-affinity rules"#,
            r#"pod first keeps it away"#,
        ],
        ..USUAL
    },
    Situation {
        name: "topology-spread",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: first, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  schedulingGates: [{name: example.com/later}]
  topologySpreadConstraints: [{maxSkew: 1, minDomains: 2, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
"#,
        before: &[
            r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/first --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch pod web --type json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'"#,
        ],
        cause: &[r#"node(s) didn't match pod topology spread constraints"#],
        ..USUAL
    },
    Situation {
        name: "topology-label-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: example.com/NAMESPACE, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
"#,
        cause: &[
            r#"node(s) didn't match pod topology spread constraints (missing required label)"#,
        ],
        remedy: Remedy::Filled(&[("VALUE", r#"a"#)]),
        ..USUAL
    },
    Situation {
        name: "cpu-too-large",
        web: Some(Web {
            container: "resources: {requests: {cpu: '1000'}}",
            ..POD
        }),
        cause: &[
            r#"no node fits: 0/1 nodes are available: 1 Insufficient cpu"#,
            r#"request less cpu"#,
        ],
        remedy: Remedy::Filled(&[("AMOUNT", r#"1m"#)]),
        ..USUAL
    },
    Situation {
        name: "memory-too-large",
        web: Some(Web {
            container: "resources: {requests: {memory: 90Ti}, limits: {memory: 90Ti}}",
            ..POD
        }),
        cause: &[r#"Insufficient memory"#],
        remedy: Remedy::Filled(&[("AMOUNT", r#"16Mi"#)]),
        ..USUAL
    },
    Situation {
        name: "host-port-taken",
        manifest: "
apiVersion: v1
kind: Pod
metadata: {name: first, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    ports: [{containerPort: 80, hostPort: 42811}]
",
        web: Some(Web {
            pod: "schedulingGates: [{name: example.com/later}]",
            container: "ports: [{containerPort: 80, hostPort: 42811}]",
            ..POD
        }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/first --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch pod web --type json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'"#,
        ],
        cause: &[
            r#"node(s) didn't have free ports"#,
            r#"port 42811 of the node is in use by pod first"#,
        ],
        remedy: Remedy::Filled(&[("PORT", r#"42812"#)]),
        ..USUAL
    },
    Situation {
        name: "scheduler-unknown",
        web: Some(Web {
            pod: "schedulerName: own",
            ..POD
        }),
        cause: &[r#"scheduler own has not tried to schedule it yet"#],
        ..USUAL
    },
    Situation {
        name: "readiness-gate",
        web: Some(Web {
            pod: "readinessGates: [{conditionType: example.com/lb}]",
            ..POD
        }),
        cause: &[
            r#"corresponding condition of pod readiness gate "example.com/lb" does not exist"#,
        ],
        ..USUAL
    },
    Situation {
        name: "claim-of-one-pod-held",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: first}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  containers:
  - name: main
    image: 'busybox:1'
    command: [sleep, '1000']
    volumeMounts: [{name: data, mountPath: /data}]
",
        web: Some(Web {
            pod: "schedulingGates: [{name: example.com/later}], volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]",
            container: "volumeMounts: [{name: data, mountPath: /data}]",
            ..POD
        }),
        before: &[
            r#"kubectl -n NAMESPACE wait --for=condition=Ready pod/first --timeout=300s"#,
            r#"kubectl -n NAMESPACE patch pod web --type json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'"#,
        ],
        cause: &[
            r#"ReadWriteOncePod access mode"#,
            r#"pod first uses the claim"#,
        ],
        ..USUAL
    },
    Situation {
        name: "node-missing",
        manifest: r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: gone
  containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        cause: &[r#"node/gone: does not exist"#],
        remedy: Remedy::Patience,
        outcome: Outcome::Deleted,
        ..USUAL
    },
];
