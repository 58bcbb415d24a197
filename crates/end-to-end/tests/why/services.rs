//! Services without endpoints or addresses, and the objects that control numbers of pods.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{DEPLOYMENT, Web};

pub const SERVICES: &[Situation] = &[
    Situation {
        name: "service-selects-nothing",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: wev}, ports: [{port: 80}]}
",
        web: Some(DEPLOYMENT),
        object: "svc/web",
        cause: &["no pod has the labels of its selector (app=wev)"],
        ..USUAL
    },
    Situation {
        name: "service-without-selector",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
",
        web: Some(DEPLOYMENT),
        object: "svc/web",
        cause: &["it has no selector"],
        ..USUAL
    },
    Situation {
        name: "service-pods-not-ready",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
",
        web: Some(Web { image: "nowhere:1", ..DEPLOYMENT }),
        object: "svc/web",
        cause: &["its pod is not Ready", "cannot be pulled"],
        remedy: Remedy::Filled(&[("IMAGE", "busybox:1")]),
        ..USUAL
    },
    Situation {
        name: "service-no-such-port",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
",
        web: Some(Web {
            container: "ports: [{name: www, containerPort: 80}]",
            ..DEPLOYMENT
        }),
        object: "svc/web",
        cause: &["has a port of the name \"http\""],
        ..USUAL
    },
    Situation {
        name: "service-pods-not-made",
        manifest: "
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: '0'}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
",
        web: Some(DEPLOYMENT),
        object: "svc/web",
        cause: &["its pods do not exist: deploy/web", "exceeded quota"],
        ..USUAL
    },
    Situation {
        name: "service-no-such-address",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, loadBalancerIP: 192.0.2.77, selector: {app: web}, ports: [{port: 28431}]}
",
        web: Some(DEPLOYMENT),
        object: "svc/web",
        cause: &["192.0.2.77 is no address of a node"],
        ..USUAL
    },
    Situation {
        name: "service-port-taken",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: first}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 28432}]}
",
        web: Some(DEPLOYMENT),
        before: &["sleep 2", "kubectl -n NAMESPACE create service loadbalancer second --tcp=28432", "kubectl -n NAMESPACE set selector service second app=web"],
        object: "svc/second",
        cause: &["port 28432/TCP of", "is taken by Service"],
        remedy: Remedy::Filled(&[("PORT", "28433")]),
        ..USUAL
    },
    Situation {
        name: "budget-pods-unhealthy",
        manifest: "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
",
        web: Some(Web { replicas: 2, image: "nowhere:1", ..DEPLOYMENT }),
        object: "pdb/web",
        cause: &["no pod may be evicted: 0 are healthy", "cannot be pulled"],
        remedy: Remedy::Filled(&[("IMAGE", "busybox:1")]),
        ..USUAL
    },
    Situation {
        name: "autoscaler-without-requests",
        manifest: "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  minReplicas: 1
  maxReplicas: 2
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
",
        web: Some(DEPLOYMENT),
        object: "hpa/web",
        cause: &["missing request for cpu"],
        ..USUAL
    },
    Situation {
        name: "autoscaler-without-target",
        manifest: "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  minReplicas: 1
  maxReplicas: 2
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: wev}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 50m}}}]
",
        web: Some(DEPLOYMENT),
        object: "hpa/web",
        cause: &["deployment/wev must exist"],
        remedy: Remedy::Described(&[
            "kubectl -n NAMESPACE patch hpa web --type merge -p '{\"spec\":{\"scaleTargetRef\":{\"name\":\"web\"}}}'",
        ]),
        ..USUAL
    },
    Situation {
        name: "ingress-without-controller",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
",
        web: Some(DEPLOYMENT),
        object: "ing/web",
        cause: &["no ingress controller has taken it"],
        remedy: Remedy::Described(&["kubectl -n NAMESPACE delete ingress web"]),
        outcome: Outcome::Deleted,
        ..USUAL
    },
];
