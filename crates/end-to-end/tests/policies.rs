//! CEL policies that change objects and that are evaluated for connections, by the standard client.

use end_to_end::{Instance, text, wait_for};

const POLICIES: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: beside}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  matchConditions:
  - name: not-yet
    expression: '!object.spec.?initContainers.orValue([]).exists(c, c.name == "beside")'
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >
        Object{spec: Object.spec{initContainers: [Object.spec.initContainers{
          name: "beside", image: "mainstay/hello", restartPolicy: "Always",
          env: [Object.spec.initContainers.env{name: "HELLO_LISTEN", value: "0.0.0.0:8081"}]}]}}
  - patchType: JSONPatch
    jsonPatch:
      expression: >
        [JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/by"),
          value: "policy"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: beside}
spec: {policyName: beside}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-shell}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CONNECT], resources: [pods/exec]}
  validations:
  - expression: 'object.container != "main"'
    message: nobody enters main
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-shell}
spec: {policyName: no-shell, validationActions: [Deny]}
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: plain}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: mainstay/hello}]
"#;

#[test]
fn pods_get_a_companion_and_nobody_enters() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(POLICIES);
    wait_for("the policies", 60, || {
        let dry = ["create", "--dry-run=server", "-f", "-", "-o", "yaml"];
        let pod = kubectl.run_with_input(&dry, POD);
        if pod.stdout.contains("beside") {
            Ok(())
        } else {
            Err(pod)
        }
    });
    kubectl.apply(POD);
    kubectl.wait_pods_ready(&["pod/plain"]);
    let pod = kubectl.pod("plain");
    assert_eq!(text(&pod, "/metadata/labels/example.com~1by"), "policy");
    assert_eq!(text(&pod, "/metadata/labels/app"), "plain");
    assert_eq!(text(&pod, "/spec/initContainers/0/name"), "beside");
    assert_eq!(
        pod["spec"]["initContainers"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(pod["status"]["initContainerStatuses"][0]["ready"], true);

    let refused = kubectl.fails(&[
        "exec",
        "plain",
        "-c",
        "main",
        "--",
        "/mainstay",
        "--version",
    ]);
    assert!(refused.contains("nobody enters main"), "{refused}");
    kubectl.ok(&[
        "exec",
        "plain",
        "-c",
        "beside",
        "--",
        "/mainstay",
        "--version",
    ]);
}
