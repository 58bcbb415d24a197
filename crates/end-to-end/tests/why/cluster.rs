//! Namespaces and parts of the API.

use super::situation::{Outcome, Situation, USUAL};

pub const CLUSTER: &[Situation] = &[
    Situation {
        name: "namespace-held-by-finalizer",
        manifest: "
apiVersion: v1
kind: ConfigMap
metadata: {name: kept, finalizers: [example.com/keep]}
",
        before: &["kubectl delete namespace NAMESPACE --wait=false"],
        object: "ns/NAMESPACE",
        cause: &["Some resources are remaining: configmaps.", "example.com/keep in 1 resource instances"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "request-pending",
        manifest: "
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: why-pending}
spec:
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHZU1GSUNBUUF3SHpFTU1Bb0dBMVVFQXd3RFlXNXVNUTh3RFFZRFZRUUtEQVp3Wlc5d2JHVXdLakFGQmdNcgpaWEFESVFCTDVIdmtDRyt3M0huV1RCWURTNTBGNGNZS2hIL00zRnByNzd0QjlnV2srNkFBTUFVR0F5dGxjQU5CCkFLd2NLRWpxZkNudC9CT3JQbGwwTHQ3ZXdIeHRYbEFRS2sxc1pjcVAzRGtySE1wRW12QzdCOWNmb1h0K1pBUlEKQ2wxVW9ISllBZXI2aDVVRTgwcGhmZ1U9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=
",
        object: "csr/why-pending",
        cause: &["it is neither approved nor denied"],
        ..USUAL
    },
    Situation {
        name: "request-denied",
        manifest: "
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: why-denied}
spec:
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHZU1GSUNBUUF3SHpFTU1Bb0dBMVVFQXd3RFlXNXVNUTh3RFFZRFZRUUtEQVp3Wlc5d2JHVXdLakFGQmdNcgpaWEFESVFCTDVIdmtDRyt3M0huV1RCWURTNTBGNGNZS2hIL00zRnByNzd0QjlnV2srNkFBTUFVR0F5dGxjQU5CCkFLd2NLRWpxZkNudC9CT3JQbGwwTHQ3ZXdIeHRYbEFRS2sxc1pjcVAzRGtySE1wRW12QzdCOWNmb1h0K1pBUlEKQ2wxVW9ISllBZXI2aDVVRTgwcGhmZ1U9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=
",
        before: &["kubectl certificate deny why-denied"],
        object: "csr/why-denied",
        cause: &["was denied"],
        outcome: Outcome::Deleted,
        ..USUAL
    },
    Situation {
        name: "definition-name-taken",
        manifest: "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: flowers.why.example.com}
spec:
  group: why.example.com
  scope: Namespaced
  names: {plural: flowers, kind: Flower}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
",
        before: &["kubectl wait --for=condition=Established crd/flowers.why.example.com --timeout=300s", "kubectl get crd flowers.why.example.com -o yaml | sed 's/flowers/blooms/g; /uid:/d; /resourceVersion:/d; /singular:/d; /listKind:/d' | kubectl create -f -"],
        object: "crd/blooms.why.example.com",
        cause: &["its names are not free: "],
        outcome: Outcome::Deleted,
        ..USUAL
    },
];
