//! Pods that the API server does not let be made.

use super::situation::{Situation, USUAL};

pub const REFUSALS: &[Situation] = &[
    Situation {
        name: "quota-exceeded",
        manifest: r#"
apiVersion: v1
kind: ResourceQuota
metadata: {name: few}
spec: {hard: {pods: 1}}
---
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
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        asked: "sts/web",
        cause: &[r#"exceeded quota: few"#],
        ..USUAL
    },
    Situation {
        name: "limit-range-violated",
        manifest: r#"
apiVersion: v1
kind: LimitRange
metadata: {name: small}
spec: {limits: [{type: Container, max: {memory: 32Mi}}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000'], resources: {limits: {memory: 64Mi}}}]
"#,
        asked: "sts/web",
        cause: &[r#"maximum memory usage per Container is 32Mi"#],
        ..USUAL
    },
    Situation {
        name: "account-missing",
        manifest: r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      serviceAccountName: shop
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        asked: "sts/web",
        cause: &[r#"serviceaccount "shop" not found"#],
        ..USUAL
    },
    Situation {
        name: "priority-class-missing",
        manifest: r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      priorityClassName: gold
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        asked: "sts/web",
        cause: &[r#"no PriorityClass with name gold was found"#],
        ..USUAL
    },
    Situation {
        name: "pod-security-refuses",
        manifest: r#"
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      hostNetwork: true
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        asked: "sts/web",
        cause: &[r#"violates PodSecurity "baseline:latest""#],
        ..USUAL
    },
    Situation {
        name: "webhook-unreachable",
        manifest: r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NAMESPACE}
webhooks:
- name: pods.example.com
  clientConfig: {url: 'https://127.0.0.1:9/'}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  sideEffects: None
  admissionReviewVersions: [v1]
  timeoutSeconds: 1
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
"#,
        before: &[r#"sleep 1"#],
        asked: "sts/web",
        cause: &[r#"failed calling webhook "pods.example.com""#],
        ..USUAL
    },
];
