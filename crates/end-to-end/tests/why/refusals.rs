//! Pods whose creation the API server refuses.

use super::situation::{Remedy, Situation, USUAL};
use super::web::{SET, Web};

/// Gives a webhook its certificate, registers it for pods without a team, and creates a set of such pods.
const WEBHOOK: &str = r#"
cd "$(mktemp -d)"
openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 2 -subj /CN=hook \
  -addext subjectAltName=DNS:hook.NAMESPACE.svc -addext basicConstraints=critical,CA:FALSE 2>/dev/null
cat >nginx.conf <<'END'
events {}
pid /tmp/nginx.pid;
http {
  client_body_temp_path /tmp/bodies;
  server {
    listen 8443 ssl;
    ssl_certificate /hook/tls.crt;
    ssl_certificate_key /hook/tls.key;
    location / {
      default_type application/json;
      return 200 '{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"allowed": false, "status": {"message": "no team", "code": 403}}}';
    }
  }
}
END
kubectl -n NAMESPACE create secret generic hook --from-file=tls.key --from-file=tls.crt --from-file=nginx.conf
kubectl -n NAMESPACE wait --for=condition=Ready pod/hook --timeout=300s
bundle=$(base64 -w0 tls.crt)
rm -r "$PWD"
kubectl -n NAMESPACE apply -f - <<END
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NAMESPACE}
webhooks:
- name: teams.example.com
  clientConfig: {caBundle: $bundle, service: {namespace: NAMESPACE, name: hook, path: /}}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
  objectSelector: {matchLabels: {app: web}, matchExpressions: [{key: team, operator: DoesNotExist}]}
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  sideEffects: None
  admissionReviewVersions: [v1beta1]
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
END
"#;

pub const REFUSALS: &[Situation] = &[
    Situation {
        name: "quota-exceeded",
        manifest: "
apiVersion: v1
kind: ResourceQuota
metadata: {name: few}
spec: {hard: {pods: 1}}
",
        web: Some(Web { replicas: 2, ..SET }),
        object: "sts/web",
        cause: &[r#"exceeded quota: few"#],
        ..USUAL
    },
    Situation {
        name: "limit-range-violated",
        manifest: "
apiVersion: v1
kind: LimitRange
metadata: {name: small}
spec: {limits: [{type: Container, max: {memory: 32Mi}}]}
",
        web: Some(Web {
            container: "resources: {limits: {memory: 64Mi}}",
            ..SET
        }),
        object: "sts/web",
        cause: &[r#"maximum memory usage per Container is 32Mi"#],
        ..USUAL
    },
    Situation {
        name: "account-missing",
        web: Some(Web {
            pod: "serviceAccountName: shop",
            ..SET
        }),
        object: "sts/web",
        cause: &[r#"serviceaccount "shop" not found"#],
        ..USUAL
    },
    Situation {
        name: "priority-class-missing",
        web: Some(Web {
            pod: "priorityClassName: gold",
            ..SET
        }),
        object: "sts/web",
        cause: &[r#"no PriorityClass with name gold was found"#],
        ..USUAL
    },
    Situation {
        name: "pod-security-refuses",
        manifest: "
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE, labels: {pod-security.kubernetes.io/enforce: baseline}}
",
        web: Some(Web {
            pod: "hostNetwork: true",
            ..SET
        }),
        object: "sts/web",
        cause: &[r#"violates PodSecurity "baseline:latest""#],
        ..USUAL
    },
    Situation {
        name: "webhook-unreachable",
        manifest: "
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
",
        web: Some(SET),
        before: &[r#"sleep 1"#],
        object: "sts/web",
        cause: &[r#"failed calling webhook "pods.example.com""#],
        ..USUAL
    },
    Situation {
        name: "webhook-refuses",
        manifest: r#"
apiVersion: v1
kind: Service
metadata: {name: hook}
spec: {selector: {app: hook}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hook, labels: {app: hook}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: hook, secret: {secretName: hook}}]
  containers:
  - name: main
    image: 'nginx:1'
    command: [nginx, -c, /hook/nginx.conf, -g, daemon off;]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: hook, mountPath: /hook}]
"#,
        before: &[WEBHOOK],
        object: "sts/web",
        cause: &[
            r#"admission webhook "teams.example.com" denied the request: no team"#,
            "correct the template as the webhook teams.example.com says",
        ],
        remedy: Remedy::Described(&[
            r#"kubectl -n NAMESPACE patch sts web -p '{"spec":{"template":{"metadata":{"labels":{"team":"shop"}}}}}'"#,
        ]),
        ..USUAL
    },
];
