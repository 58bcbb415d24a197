//! `kubectl apply --server-side`, and the change from and to client-side apply (kubectl.md 0.7, 2.4, 2.6).

use end_to_end::{Instance, Kubectl, text, wait_for_text};
use serde_json::Value;

fn set(replicas: u32, image: &str, labels: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: web, labels: {{{labels}}}}}
spec:
  serviceName: web
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: main
        image: {image}
        ports: [{{containerPort: 53}}, {{containerPort: 53, protocol: UDP}}]
"
    )
}

/// `manager operation subresource` of each entry.
fn managers(kubectl: &Kubectl, object: &str) -> Vec<String> {
    let object_json = kubectl.json(&["get", object, "--show-managed-fields"]);
    let list = object_json["metadata"]["managedFields"].as_array();
    let word = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    list.into_iter()
        .flatten()
        .map(|entry| {
            let words = ["manager", "operation", "subresource"].map(|field| word(entry, field));
            words.join(" ").trim_end().to_owned()
        })
        .collect()
}

fn version(kubectl: &Kubectl, object: &str) -> String {
    let object_json = kubectl.json(&["get", object]);
    text(&object_json, "/metadata/resourceVersion").to_owned()
}

fn apply(kubectl: &Kubectl, more: &[&str], manifest: &str) -> String {
    let arguments = [&["apply", "--server-side", "-f", "-"], more].concat();
    kubectl.ok_with_input(&arguments, manifest)
}

#[test]
fn kubectl_applies_by_the_server() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    // Create, dry run, change, nothing.
    let manifest = set(0, "a:1", "team: one");
    let printed = apply(&kubectl, &["--dry-run=server"], &manifest);
    assert_eq!(
        printed,
        "statefulset.apps/web serverside-applied (server dry run)\n"
    );
    assert!(kubectl.fails(&["get", "sts", "web"]).contains("NotFound"));
    let printed = apply(&kubectl, &[], &manifest);
    assert_eq!(printed, "statefulset.apps/web serverside-applied\n");
    assert_eq!(managers(&kubectl, "sts/web")[0], "kubectl Apply");
    let hidden = kubectl.ok(&["get", "sts", "web", "-o", "yaml"]);
    assert!(!hidden.contains("managedFields"), "{hidden}");
    let ports = "/spec/template/spec/containers/0/ports";
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(
        result
            .pointer(ports)
            .and_then(Value::as_array)
            .map(Vec::len),
        Some(2)
    );
    apply(&kubectl, &[], &set(0, "a:2", ""));
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(
        text(&result, "/spec/template/spec/containers/0/image"),
        "a:2"
    );
    assert_eq!(result["metadata"].get("labels"), None);
    // The controller writes the status of the set, which has no pods to wait for.
    end_to_end::wait_for("the status to be written", 30, || {
        let result = kubectl.get_for_wait(&["sts", "web"])?;
        let (spec, status) = (
            &result["metadata"]["generation"],
            &result["status"]["observedGeneration"],
        );
        if spec == status {
            Ok(())
        } else {
            Err(result.clone())
        }
    });
    let before = version(&kubectl, "sts/web");
    apply(&kubectl, &[], &set(0, "a:2", ""));
    assert_eq!(version(&kubectl, "sts/web"), before);

    // Another manager owns the number of replicas; kubectl.md 2.4 has the message.
    kubectl.ok(&["scale", "sts", "web", "--replicas=0"]);
    kubectl.ok(&["label", "sts", "web", "by=hand"]);
    let one = set(0, "a:2", "by: file");
    let refused = kubectl.run_with_input(&["apply", "--server-side", "-f", "-"], &one);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.starts_with(
            "error: Apply failed with 1 conflict: conflict with \"kubectl-label\" using apps/v1: \
             .metadata.labels.by\nPlease review the fields above"
        ),
        "{}",
        refused.stderr
    );
    let diff = ["diff", "--server-side", "--force-conflicts", "-f", "-"];
    let diff = kubectl.run_with_input(&diff, &one);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.stdout.contains("+    by: file"), "{diff:?}");
    apply(&kubectl, &["--force-conflicts"], &one);
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(text(&result, "/metadata/labels/by"), "file");
    let diff = kubectl.run_with_input(&["diff", "--server-side", "-f", "-"], &one);
    assert_eq!(diff.code, 0, "{diff:?}");
    // A second manager owns its part, and releases it.
    let theirs = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web, \
                  annotations: {x/y: z}}}";
    apply(&kubectl, &["--field-manager=other"], theirs);
    let theirs = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web}}";
    apply(&kubectl, &["--field-manager=other"], theirs);
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(result["metadata"].get("annotations"), None);
    assert_eq!(text(&result, "/metadata/labels/by"), "file");
    // A field that the type does not have.
    let wrong = set(0, "a:2", "").replace("serviceName", "serviceNam");
    let refused = kubectl.run_with_input(&["apply", "--server-side", "-f", "-"], &wrong);
    assert!(
        refused
            .stderr
            .contains(".spec.serviceNam: field not declared in schema"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_the_client_applied_the_server_takes_over_and_gives_back() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(&set(0, "a:1", "team: one, old: x"));
    let all = managers(&kubectl, "sts/web");
    let client = "kubectl-client-side-apply Update".to_owned();
    assert!(all.contains(&client), "{all:?}");
    // No conflict, though the client's manager owned all fields; and fields that are not applied any more are removed.
    apply(&kubectl, &[], &set(0, "a:2", "team: two"));
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(
        text(&result, "/spec/template/spec/containers/0/image"),
        "a:2"
    );
    assert_eq!(
        result["metadata"]["labels"],
        serde_json::json!({"team": "two"})
    );
    let all = managers(&kubectl, "sts/web");
    assert!(all.contains(&"kubectl Apply".to_owned()), "{all:?}");
    assert!(
        !all.iter().any(|name| name.starts_with("kubectl-client")),
        "{all:?}"
    );
    // Back to client-side apply: the annotation has been updated.
    kubectl.apply(&set(0, "a:3", ""));
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(
        text(&result, "/spec/template/spec/containers/0/image"),
        "a:3"
    );
    assert_eq!(result["metadata"].get("labels"), None);
    // An object that was only applied server-side: the client warns, and continues.
    let map = |value: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, data: {{a: '{value}'}}}}"
        )
    };
    apply(&kubectl, &[], &map("1"));
    let output = kubectl.run_with_input(&["apply", "-f", "-"], &map("2"));
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        output
            .stderr
            .contains("missing the kubectl.kubernetes.io/last-applied"),
        "{output:?}"
    );
    let refused = kubectl.run_with_input(
        &["apply", "--server-side", "--field-manager=ci", "-f", "-"],
        &map("3"),
    );
    assert!(
        refused
            .stderr
            .contains("conflict with \"kubectl-client-side-apply\" using v1: .data.a"),
        "{refused:?}"
    );
}

#[test]
fn up_applies_its_manifests_as_one_manager() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("set.yaml");
    let write = |manifest: &str| std::fs::write(&file, manifest).expect("write the manifest");
    write(&set(0, "a:1", "team: one, old: x"));
    let path = file.to_str().expect("a path in UTF-8");
    let mut instance = Instance::start(&["-f", path]);
    // A server is ready before it has applied its manifests.
    wait_for_text("statefulset.apps/web created", 60, || instance.output());
    let kubectl = instance.kubectl();
    assert_eq!(managers(&kubectl, "sts/web")[0], "mainstay-up Apply");
    kubectl.ok(&["label", "sts", "web", "by=hand", "team=two", "--overwrite"]);
    let status = instance.interrupt();
    assert!(status.success(), "{status}: {}", instance.output());
    write(&set(0, "a:2", "team: one"));
    instance.start_again();
    wait_for_text("statefulset.apps/web configured", 60, || instance.output());
    let result = kubectl.json(&["get", "sts", "web"]);
    assert_eq!(
        result["metadata"]["labels"],
        serde_json::json!({"by": "hand", "team": "one"})
    );
    assert_eq!(
        text(&result, "/spec/template/spec/containers/0/image"),
        "a:2"
    );
}
