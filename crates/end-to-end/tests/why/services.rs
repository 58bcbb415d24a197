//! Services without endpoints or addresses, and what watches over numbers of pods.

use super::situation::{Remedy, Situation, USUAL};

pub const SERVICES: &[Situation] = &[
    Situation {
        name: "service-selects-nothing",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: wev}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        asked: "svc/web",
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
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        asked: "svc/web",
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
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        asked: "svc/web",
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
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: 'busybox:1'
        command: [sleep, '1000']
        ports: [{name: www, containerPort: 80}]
",
        asked: "svc/web",
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
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        asked: "svc/web",
        cause: &["its pods are not there: deploy/web", "exceeded quota"],
        ..USUAL
    },
    Situation {
        name: "service-no-such-address",
        manifest: "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, loadBalancerIP: 192.0.2.77, selector: {app: web}, ports: [{port: 28431}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        asked: "svc/web",
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
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        before: &["sleep 2", "kubectl -n NAMESPACE create service loadbalancer second --tcp=28432", "kubectl -n NAMESPACE set selector service second app=web"],
        asked: "svc/second",
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
---
apiVersion: apps/v1
kind: Deployment
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
        image: 'nowhere:1'
        command: [sleep, '1000']
",
        asked: "pdb/web",
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
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
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
        asked: "hpa/web",
        cause: &["missing request for cpu"],
        ..USUAL
    },
];
