//! Invalid input gets a clear error and changes nothing.

use std::fs;
use std::process::{Command, Stdio};

use end_to_end::applications::busybox;
use end_to_end::registry::curl;
use end_to_end::{Instance, Kubectl, Registry, binary, example, wait_for};

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: mainstay/hello}]}
";

fn refused(kubectl: &Kubectl, manifest: &str) -> String {
    let output = kubectl.run_with_input(&["create", "-f", "-"], manifest);
    assert_ne!(output.code, 0, "accepted: {manifest}\n{output:#?}");
    output.stderr
}

fn pod(image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: {image}{more}}}]\n"
    )
}

/// statefulset.md §6, kubectl.md §0.8.
#[test]
fn manifests() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let expect = |manifest: &str, parts: &[&str]| {
        let error = refused(&kubectl, manifest);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
    };
    expect("apiVersion: v1\nkind: [", &["error"]);
    expect("{\"apiVersion\": \"v1\", \"kind\":", &["error"]);
    expect(
        &SET.replace("replicas: 1", "replicaz: 1"),
        &["strict decoding error: unknown field \"spec.replicaz\""],
    );
    expect(
        &SET.replace("replicas: 1", "replicas: -1"),
        &["must be greater than or equal to 0"],
    );
    expect(
        &SET.replace("{name: web}", "{name: Web_1}"),
        &["Invalid value: \"Web_1\""],
    );
    expect(
        &SET.replace("matchLabels: {app: web}", "matchLabels: {app: other}"),
        &["`selector` does not match template `labels`"],
    );
    let bad_quantity = pod("x", ", resources: {requests: {memory: 12Zz}}");
    expect(
        &bad_quantity,
        &["quantities must match the regular expression"],
    );
    expect(&pod("''", ""), &["image"]);
    expect(
        "apiVersion: v9\nkind: Thing\nmetadata: {name: x}",
        &["no matches for kind \"Thing\""],
    );
    // For an existing group and version, kubectl first searches for custom kinds.
    expect(
        "apiVersion: apps/v1\nkind: Rollout\nmetadata: {name: x}",
        &["no matches for kind \"Rollout\" in version \"apps/v1\""],
    );

    let warned = kubectl.run_with_input(
        &["create", "--validate=warn", "-f", "-"],
        &SET.replace("replicas: 1", "replicas: 0\n  oops: 1"),
    );
    assert_eq!(warned.code, 0, "{warned:#?}");
    assert!(
        warned
            .stderr
            .contains("Warning: unknown field \"spec.oops\""),
        "{warned:#?}"
    );
    duplicate_fields(&kubectl);
    immutable_fields(&kubectl);
    annotations_of_mainstay(&kubectl);
}

/// An unsupported name or value is refused; the message lists the supported names or values.
fn annotations_of_mainstay(kubectl: &Kubectl) {
    let value = kubectl.fails(&["annotate", "sts", "web", "mainstay.dev/stuck-rollout=Never"]);
    assert_eq!(
        value.trim(),
        "The StatefulSet \"web\" is invalid: metadata.annotations[mainstay.dev/stuck-rollout]: \
         Unsupported value: \"Never\": supported values: \"Replace\", \"Wait\""
    );
    let name = kubectl.fails(&["annotate", "sts", "web", "mainstay.dev/stuck=Wait"]);
    let message = "a StatefulSet may have: mainstay.dev/claim-updates (InPlace or NewOnly), \
                 mainstay.dev/lost-volume (Recreate or Wait), \
                 mainstay.dev/lost-volume-seconds (1 to 2147483647), \
                 mainstay.dev/max-unavailable (AsReleased or Corrected), ";
    assert!(
        name.contains("no such annotation") && name.contains(message),
        "{name}"
    );
    let kind = kubectl.fails(&[
        "annotate",
        "ns",
        "default",
        "mainstay.dev/stuck-rollout=Wait",
    ]);
    assert!(
        kind.contains("a Namespace may have none that begins with mainstay.dev/"),
        "{kind}"
    );
    kubectl.ok(&["annotate", "sts", "web", "mainstay.dev/stuck-rollout=Wait"]);
    kubectl.ok(&["annotate", "sts", "web", "mainstay.dev/stuck-rollout-"]);
}

/// kubectl itself removes duplicate fields, so the request is sent directly: the server must refuse them.
fn duplicate_fields(kubectl: &Kubectl) {
    let twice =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{},"data":{}}"#;
    let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    let refused = kubectl.run_with_input(&["create", "--raw", path, "-f", "-"], twice);
    assert_ne!(refused.code, 0, "{refused:#?}");
    assert!(
        refused.stderr.contains("duplicate field \"data\""),
        "{refused:#?}"
    );
    assert!(kubectl.fails(&["get", "cm", "twice"]).contains("not found"));
}

/// statefulset.md §6.5, T23.
fn immutable_fields(kubectl: &Kubectl) {
    let patch = r#"{"spec":{"serviceName":"other"}}"#;
    let error = kubectl.fails(&["patch", "sts", "web", "-p", patch]);
    assert!(
        error.contains("updates to statefulset spec for fields other than 'replicas', 'ordinals'"),
        "{error}"
    );
    let stale = kubectl.json(&["get", "sts", "web"]);
    kubectl.ok(&["label", "sts", "web", "x=y"]);
    let replaced = kubectl.run_with_input(&["replace", "-f", "-"], &stale.to_string());
    assert!(
        replaced.stderr.contains("the object has been modified"),
        "{replaced:#?}"
    );
    let name = kubectl.ok(&["get", "sts", "web", "-o", "jsonpath={.spec.serviceName}"]);
    assert_eq!(name, "web", "nothing has changed");
}

/// A missing image, a missing command, a claim of an unknown class.
#[test]
fn pods_that_cannot_start() {
    let registry = Registry::start();
    registry.push("library/busybox", "1", &busybox());
    let instance = Instance::start_prepared(&[], |data| {
        fs::write(data.join("registries.yaml"), registry.registries_yaml()).expect("write");
    });
    let kubectl = instance.kubectl();

    let no_image = pod("nothing:here", "").replace("name: bad", "name: no-image");
    let no_secret = "spec:\n  imagePullSecrets: [{name: not-there}]";
    kubectl.apply(&no_image.replace("spec:", no_secret));
    let texts = [
        "ErrImagePull",
        "ImagePullBackOff",
        "Unable to retrieve some image pull secrets",
    ];
    wait_for("ErrImagePull, then ImagePullBackOff", 60, || {
        let described = kubectl.ok(&["describe", "pod", "no-image"]);
        let all = texts.iter().all(|text| described.contains(text));
        if all { Ok(()) } else { Err(described) }
    });
    let command = ", command: [/no/such/program]";
    kubectl.apply(&pod("busybox:1", command).replace("name: bad", "name: no-command"));
    wait_for("the missing program to be named", 60, || {
        let described = kubectl.ok(&["describe", "pod", "no-command"]);
        if described.contains("/no/such/program") && described.contains("Failed") {
            Ok(())
        } else {
            Err(described)
        }
    });
    kubectl.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: unknown}\nspec: {accessModes: \
         [ReadWriteOnce], storageClassName: nope, resources: {requests: {storage: 1Gi}}}",
    );
    wait_for("the missing class to be named", 60, || {
        let described = kubectl.ok(&["describe", "pvc", "unknown"]);
        let text = "storageclass.storage.k8s.io \"nope\" not found";
        if described.contains(text) {
            Ok(())
        } else {
            Err(described)
        }
    });
    kubectl.apply(&pod("busybox:1", ", resources: {requests: {cpu: 1000}}"));
    wait_for("a FailedScheduling event", 60, || {
        let described = kubectl.ok(&["describe", "pod", "bad"]);
        let text = "0/1 nodes are available: 1 Insufficient cpu";
        if described.contains(text) {
            Ok(())
        } else {
            Err(described)
        }
    });
}

fn up_fails(arguments: &[&str]) -> String {
    let output = Command::new(binary())
        .arg("up")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("start mainstay");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    error
}

/// The command line, the data directory and the port.
#[test]
fn starts_that_must_fail() {
    let instance = Instance::start(&[]);
    let data = instance.data();
    let data = data.to_str().expect("a path in UTF-8");
    let error = up_fails(&["--data-dir", data, "--listen", "127.0.0.1:0"]);
    assert!(error.contains("mainstay already runs on"), "{error}");
    instance.kubectl().ok(&["get", "nodes"]);

    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = elsewhere.path().to_str().expect("a path in UTF-8");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("the address").to_string();
    let error = up_fails(&["--data-dir", other, "--listen", &address]);
    assert!(
        error.contains(&address) && error.contains("in use"),
        "{error}"
    );

    let missing = example("no-such-file.yaml");
    let missing = missing.to_str().expect("a path in UTF-8");
    let error = up_fails(&[
        "--data-dir",
        other,
        "--listen",
        "127.0.0.1:0",
        "-f",
        missing,
    ]);
    assert!(error.contains("no-such-file.yaml"), "{error}");

    let unknown = Command::new(binary())
        .args(["up", "--no-such-flag"])
        .output()
        .expect("start");
    assert_eq!(unknown.status.code(), Some(2), "usage errors end with 2");
    let not_root = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy_for_everybody(elsewhere.path()))
        .args(["up", "--listen", "127.0.0.1:0"])
        .env("XDG_DATA_HOME", "/tmp")
        .output()
        .expect("start as nobody");
    let error = String::from_utf8_lossy(&not_root.stderr);
    assert!(error.contains("root"), "{error}");
}

/// A start that fails after the set-up of the network leaves no network objects behind.
#[test]
fn a_failed_start_leaves_nothing_in_the_kernel() {
    let mut instance = Instance::start(&[]);
    assert!(instance.interrupt().success());
    let data = instance.data();
    let text = fs::read_to_string(data.join("network/ranges.json")).expect("the ranges");
    let ranges: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let data = data.to_str().expect("a path in UTF-8");
    let other = ["--service-cidr", "10.213.0.0/16"];
    let error = up_fails(&[&["--data-dir", data, "--listen", "127.0.0.1:0"], &other[..]].concat());
    assert!(error.contains("since its first start"), "{error}");
    let pods = ranges["pod"].as_str().expect("the pods' range");
    let range = pods.replace(".0/24", ".1/32");
    let addresses = Command::new("ip")
        .args(["-o", "addr", "show", "lo"])
        .output()
        .expect("ip");
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    assert!(!addresses.contains(&range), "{range} is left:\n{addresses}");
}

/// A copy of the binary in a directory that an unprivileged user can read.
fn copy_for_everybody(directory: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("open the directory");
    let copy = directory.join("mainstay");
    fs::copy(binary(), &copy).expect("copy the binary");
    copy
}

/// A body that is too large, slow or incomplete does not affect other requests.
#[test]
fn request_bodies() {
    use std::io::Write;
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let mut huge =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: huge}\ndata:\n  x: ".to_owned();
    huge.push_str(&"y".repeat(4 * 1024 * 1024));
    let error = refused(&kubectl, &huge);
    assert!(
        error.contains("too large") || error.contains("TooLarge"),
        "{error}"
    );
    assert!(kubectl.fails(&["get", "cm", "huge"]).contains("not found"));

    let config = kubectl.ok(&[
        "config",
        "view",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ]);
    let address = config.trim_start_matches("https://").to_owned();
    let mut cut_off = std::net::TcpStream::connect(&address).expect("connect");
    cut_off
        .write_all(b"\x16\x03\x01")
        .expect("half a handshake");
    drop(cut_off);
    let anonymous = curl(&["--insecure", &format!("{config}/api/v1/namespaces")]);
    let anonymous = anonymous.expect("a response");
    // The server indents responses for curl.
    assert!(
        anonymous.contains("\"reason\": \"Unauthorized\""),
        "{anonymous}"
    );
    let version = curl(&["--insecure", &format!("{config}/version")]).expect("a response");
    assert!(version.contains("gitVersion"), "{version}");
    kubectl.ok(&["get", "nodes"]);
}
