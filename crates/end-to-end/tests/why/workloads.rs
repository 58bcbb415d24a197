//! Workloads whose pods are not created or do not run.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{DEPLOYMENT, Web};

pub const WORKLOADS: &[Situation] = &[
    // This situation is first, because it takes two minutes.
    Situation {
        name: "cron-job-forbid",
        manifest: "
apiVersion: batch/v1
kind: CronJob
metadata: {name: load}
spec:
  schedule: '* * * * *'
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 0
          containers: [{name: main, image: 'busybox:1', command: [sleep, '1000']}]
",
        before: &["sleep 30"],
        object: "cronjob/load",
        cause: &[
            "its next job waits for the end of job load-",
            "(concurrencyPolicy: Forbid)",
        ],
        ..USUAL
    },
    Situation {
        name: "deployment-image",
        web: Some(Web {
            replicas: 2,
            image: "nowhere:1",
            ..DEPLOYMENT
        }),
        object: "deploy/web",
        cause: &["image \"nowhere:1\"", "the same: web-"],
        remedy: Remedy::Filled(&[("IMAGE", "busybox:1")]),
        ..USUAL
    },
    Situation {
        name: "deployment-quota",
        manifest: "
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: '1'}}
",
        web: Some(Web {
            replicas: 3,
            ..DEPLOYMENT
        }),
        object: "deploy/web",
        cause: &["2 pods are to be made", "exceeded quota: small"],
        ..USUAL
    },
    Situation {
        name: "deployment-missing-account",
        web: Some(Web {
            pod: "serviceAccountName: robot",
            ..DEPLOYMENT
        }),
        object: "deploy/web",
        cause: &["serviceaccount \"robot\" not found"],
        ..USUAL
    },
    Situation {
        name: "deployment-pod-security",
        web: Some(Web {
            replicas: 0,
            ..DEPLOYMENT
        }),
        before: &[
            "kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=restricted",
            "kubectl -n NAMESPACE scale deploy web --replicas=1",
        ],
        object: "deploy/web",
        cause: &["violates PodSecurity \"restricted:latest\""],
        ..USUAL
    },
    Situation {
        name: "deployment-limit-range",
        manifest: "
apiVersion: v1
kind: LimitRange
metadata: {name: small}
spec: {limits: [{type: Container, max: {memory: 32Mi}}]}
",
        web: Some(Web {
            container: "resources: {limits: {memory: 64Mi}}",
            ..DEPLOYMENT
        }),
        object: "deploy/web",
        cause: &["maximum memory usage per Container is 32Mi, but limit is 64Mi"],
        ..USUAL
    },
    Situation {
        name: "deployment-missing-priority",
        web: Some(Web {
            pod: "priorityClassName: why-missing-priority",
            ..DEPLOYMENT
        }),
        object: "deploy/web",
        cause: &["no PriorityClass with name why-missing-priority was found"],
        ..USUAL
    },
    Situation {
        name: "deployment-webhook-silent",
        manifest: "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: why-webhook-silent}
webhooks:
- name: pods.silent.example.com
  clientConfig: {service: {namespace: NAMESPACE, name: nobody, path: /}}
  rules: [{apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
  sideEffects: None
  admissionReviewVersions: [v1]
  timeoutSeconds: 2
",
        web: Some(DEPLOYMENT),
        object: "deploy/web",
        cause: &["failed calling webhook \"pods.silent.example.com\""],
        ..USUAL
    },
    Situation {
        name: "deployment-policy-refuses",
        manifest: "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: why-policy-refuses}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}]
  validations: [{expression: 'has(object.metadata.labels.team)', message: no team}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: why-policy-refuses}
spec:
  policyName: why-policy-refuses
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}}
",
        web: Some(Web {
            replicas: 0,
            ..DEPLOYMENT
        }),
        before: &[
            "sleep 3",
            "kubectl -n NAMESPACE scale deploy web --replicas=1",
        ],
        object: "deploy/web",
        cause: &["denied request: no team"],
        ..USUAL
    },
    Situation {
        name: "deployment-paused",
        web: Some(DEPLOYMENT),
        before: &[
            "kubectl -n NAMESPACE rollout status deploy/web --timeout=300s",
            "kubectl -n NAMESPACE rollout pause deploy/web",
            "kubectl -n NAMESPACE set env deploy/web A=b",
        ],
        object: "deploy/web",
        cause: &["its rollout is paused"],
        ..USUAL
    },
    Situation {
        name: "deployment-held-by-finalizer",
        web: Some(Web {
            replicas: 0,
            ..DEPLOYMENT
        }),
        before: &[
            "kubectl -n NAMESPACE patch deploy web --type merge -p '{\"metadata\":{\"finalizers\":[\"example.com/keep\"]}}'",
            "kubectl -n NAMESPACE delete deploy web --wait=false",
        ],
        object: "deploy/web",
        cause: &["finalizers hold it: example.com/keep"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "replica-set-quota",
        manifest: "
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: '0'}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: 'busybox:1'
        command: [sleep, '1000']
",
        object: "rs/web",
        cause: &["2 pods are to be made", "exceeded quota: small"],
        ..USUAL
    },
    Situation {
        name: "replication-controller-quota",
        manifest: "
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: '0'}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: 2
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: 'busybox:1'
        command: [sleep, '1000']
",
        object: "rc/web",
        cause: &["2 pods are to be made", "exceeded quota: small"],
        ..USUAL
    },
    Situation {
        name: "daemon-set-image",
        manifest: "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: 'nowhere:1'
        command: [sleep, '1000']
",
        object: "ds/web",
        cause: &["image \"nowhere:1\""],
        remedy: Remedy::Filled(&[("IMAGE", "busybox:1")]),
        ..USUAL
    },
    Situation {
        name: "cron-job-suspended",
        manifest: "
apiVersion: batch/v1
kind: CronJob
metadata: {name: load}
spec:
  schedule: '0 0 1 1 *'
  suspend: true
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: 'busybox:1', command: ['true']}]
",
        object: "cronjob/load",
        cause: &["it is suspended: no jobs are made"],
        remedy: Remedy::Noted,
        outcome: Outcome::Unnoted,
        ..USUAL
    },
    Situation {
        name: "daemon-set-no-node",
        manifest: "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {example.com/why: daemon-set}
      containers:
      - name: main
        image: 'busybox:1'
        command: [sleep, '1000']
",
        object: "ds/web",
        cause: &["no node has the labels example.com/why=daemon-set"],
        ..USUAL
    },
    Situation {
        name: "job-failed",
        manifest: "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: load}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: 'busybox:1'
        command: [sh, -c, 'test -f /data/again || { touch /data/again; exit 3; }']
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
",
        object: "job/load",
        cause: &["failed: Job has reached the specified backoff limit"],
        ..USUAL
    },
    Situation {
        name: "job-deadline",
        manifest: "
apiVersion: batch/v1
kind: Job
metadata: {name: load}
spec:
  activeDeadlineSeconds: 2
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, '6']}]
",
        object: "job/load",
        cause: &["failed: Job was active longer than specified deadline"],
        ..USUAL
    },
    Situation {
        name: "job-suspended",
        manifest: "
apiVersion: batch/v1
kind: Job
metadata: {name: load}
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: ['true']}]
",
        object: "job/load",
        cause: &["it is suspended"],
        ..USUAL
    },
    Situation {
        name: "job-missing-account",
        manifest: "
apiVersion: batch/v1
kind: Job
metadata: {name: load}
spec:
  completions: 1
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      serviceAccountName: robot
      containers: [{name: main, image: 'busybox:1', command: ['true']}]
",
        object: "job/load",
        cause: &["serviceaccount \"robot\" not found"],
        ..USUAL
    },
];
