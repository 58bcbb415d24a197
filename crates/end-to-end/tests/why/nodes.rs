//! Nodes without heartbeats, and the pods on them. The nodes are objects without a machine, so their leases are not
//! renewed.

use super::situation::{Outcome, Remedy, Situation, USUAL};
use super::web::{DEPLOYMENT, POD, Web};

pub const LOST: &[Situation] = &[
    Situation {
        name: "node-lost",
        manifest: "
apiVersion: v1
kind: Node
metadata: {name: why-lost}
",
        object: "node/why-lost",
        cause: &["nothing is heard of it", "kubectl delete node why-lost"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "pod-on-lost-node",
        manifest: "
apiVersion: v1
kind: Node
metadata: {name: why-silent}
",
        web: Some(Web {
            pod: "nodeName: why-silent",
            ..POD
        }),
        cause: &[
            "node why-silent does not respond",
            "node/why-silent: is not Ready: Kubelet never posted node status.",
        ],
        remedy: Remedy::Described(&["kubectl delete node why-silent"]),
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "pod-ending-on-lost-node",
        manifest: "
apiVersion: v1
kind: Node
metadata: {name: why-dead}
",
        web: Some(Web {
            pod: "nodeName: why-dead",
            ..POD
        }),
        before: &["kubectl -n NAMESPACE delete pod web --wait=false --grace-period=5"],
        cause: &[
            "being deleted, but node why-dead does not answer",
            "kubectl taint node why-dead node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
        ],
        remedy: Remedy::Described(&[
            "kubectl taint node why-dead node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
        ]),
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "deployment-on-lost-node",
        manifest: "
apiVersion: v1
kind: Node
metadata: {name: why-gone, labels: {why: gone}}
",
        web: Some(Web {
            replicas: 0,
            pod: "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: why, operator: Exists}]}}]}}",
            ..DEPLOYMENT
        }),
        before: &[
            "now=$(date -u +%Y-%m-%dT%H:%M:%SZ); kubectl patch node why-gone --subresource=status --type merge -p '{\"status\":{\"capacity\":{\"cpu\":\"64\",\"memory\":\"256Gi\",\"pods\":\"110\"},\"allocatable\":{\"cpu\":\"64\",\"memory\":\"256Gi\",\"pods\":\"110\"},\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Ready\",\"message\":\"ready\",\"lastHeartbeatTime\":\"'$now'\",\"lastTransitionTime\":\"'$now'\"}]}}'",
            "for i in $(seq 30); do kubectl get node why-gone -o jsonpath={.spec.taints} | grep -q not-ready || break; sleep 1; done",
            "kubectl -n NAMESPACE scale deploy web --replicas=1",
            "for i in $(seq 30); do kubectl -n NAMESPACE get pods -o jsonpath={.items[0].spec.nodeName} | grep -q why-gone && exit 0; sleep 1; done; exit 1",
        ],
        object: "deploy/web",
        cause: &[
            "node why-gone does not respond",
            "node/why-gone: is not Ready",
        ],
        remedy: Remedy::Described(&["kubectl delete node why-gone"]),
        ..USUAL
    },
];
