//! `mainstay plan`: what it tells, and that nothing is written (rollouts.md R18 to R21), and an order that a policy gives (R2).

use std::path::Path;

use end_to_end::program::mainstay;
use end_to_end::stateful_set::web;
use end_to_end::{Instance, Kubectl};
use serde_json::{Value, json};

/// The answer of a command.
#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn plan(data: &Path, namespace: &str, file: &Path, more: &[&str]) -> Answer {
    let (data, file) = (data.display().to_string(), file.display().to_string());
    let arguments = [
        "plan",
        "sts/web",
        "-n",
        namespace,
        "--data-dir",
        &data,
        "-f",
        &file,
    ];
    let output = mainstay(&[&arguments[..], more].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// The revision of each pod, by name.
fn revisions(kubectl: &Kubectl) -> Vec<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name}={.metadata.labels.controller-revision-hash} {end}";
    let text = kubectl.ok(&["get", "pods", "-o", path]);
    text.split_whitespace().map(str::to_owned).collect()
}

fn write(directory: &Path, name: &str, object: &Value) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, object.to_string()).expect("write a manifest");
    path
}

/// rollouts.md R18, R21: a new set, its update by server-side apply, and its scale-down are told; then what was told happens.
#[test]
fn what_was_told_happens() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl().in_new_namespace("told");
    let directory = tempfile::tempdir().expect("a directory");
    let mut manifest = web(3);
    let file = write(directory.path(), "web.json", &manifest);
    let new = plan(&instance.data(), "told", &file, &["-o", "json"]);
    assert_eq!(new.code, Some(1), "{new:#?}");
    let told: Value = serde_json::from_str(&new.stdout).expect("JSON");
    assert_eq!(
        (&told["isNew"], &told["versions"]),
        (&json!(true), &json!("new")),
        "{told:#}"
    );
    assert_eq!(
        told["rollout"].as_array().map(Vec::len),
        Some(3),
        "{told:#}"
    );
    // R19: nothing is stored.
    assert!(kubectl.fails(&["get", "sts", "web"]).contains("NotFound"));

    let file_name = file.display().to_string();
    kubectl.ok(&["apply", "--server-side", "-f", &file_name]);
    kubectl.wait_ready("web", 3);
    kubectl.ok(&["rollout", "status", "sts/web", "--timeout=120s"]);
    let nothing = plan(&instance.data(), "told", &file, &[]);
    assert_eq!(nothing.code, Some(0), "{nothing:#?}");
    assert!(
        nothing
            .stdout
            .contains("StatefulSet told/web: nothing changes"),
        "{nothing:#?}"
    );

    let before = revisions(&kubectl);
    manifest["spec"]["template"]["metadata"]["annotations"] = json!({"edition": "2"});
    manifest["spec"]["replicas"] = json!(2);
    let file = write(directory.path(), "next.json", &manifest);
    let update = plan(&instance.data(), "told", &file, &["-o", "json"]);
    assert_eq!(update.code, Some(1), "{update:#?}");
    assert_eq!(revisions(&kubectl), before, "nothing is stored");
    let told: Value = serde_json::from_str(&update.stdout).expect("JSON");
    let steps = told["rollout"].as_array().expect("steps");
    let steps: Vec<(&str, &str)> = steps
        .iter()
        .map(|step| {
            let pod = &step["pods"][0];
            (
                pod["pod"].as_str().unwrap_or("?"),
                pod["action"].as_str().unwrap_or("?"),
            )
        })
        .collect();
    let expected = [
        ("web-2", "Remove"),
        ("web-1", "Restart"),
        ("web-0", "Restart"),
    ];
    assert_eq!(steps, expected, "{told:#}");

    let versions = told["versions"].as_str().expect("versions").to_owned();
    let stored = plan(&instance.data(), "told", &file, &["--apply", &versions]);
    assert_eq!(stored.code, Some(0), "{stored:#?}");
    kubectl.ok(&["rollout", "status", "sts/web", "--timeout=120s"]);
    let revision = told["updateRevision"].as_str().expect("a revision");
    assert_eq!(
        revisions(&kubectl),
        [format!("web-0={revision}"), format!("web-1={revision}")]
    );

    // R20: the same versions are refused after the change.
    let again = plan(&instance.data(), "told", &file, &["--apply", &versions]);
    assert_eq!(again.code, Some(2), "{again:#?}");
    assert!(
        again.stderr.contains("is not as it was planned"),
        "{again:#?}"
    );
}

/// rollouts.md R19, R20: bad input is one clear error with exit status 2; a reader without the right to write gets the
/// server's refusal; a policy that changes is a change of the world.
#[test]
fn plans_that_cannot_be_made_say_why() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl().in_new_namespace("errors");
    let directory = tempfile::tempdir().expect("a directory");
    let file = write(directory.path(), "web.json", &web(1));
    let data = instance.data();
    let fails = |file: &Path, more: &[&str], text: &str| {
        let output = plan(&data, "errors", file, more);
        assert_eq!(output.code, Some(2), "{output:#?}");
        assert!(output.stderr.contains(text), "{text}: {output:#?}");
    };
    let other = write(
        directory.path(),
        "other.json",
        &json!({"apiVersion": "apps/v1",
        "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {}}),
    );
    fails(
        &other,
        &[],
        "the manifests have no StatefulSet errors/web, but db",
    );
    let mut bad = web(1);
    bad["spec"]["replicas"] = json!(-1);
    let bad = write(directory.path(), "bad.json", &bad);
    fails(&bad, &[], "spec.replicas: Invalid value: -1");
    fails(&file, &["--apply", "x:y"], "are no versions of a plan");
    fails(
        directory.path().join("absent.yaml").as_path(),
        &[],
        "absent.yaml",
    );

    kubectl.ok(&["apply", "-f", &file.display().to_string()]);
    kubectl.wait_ready("web", 1);
    kubectl.ok(&["rollout", "status", "sts/web", "--timeout=120s"]);
    let mut next = web(1);
    next["spec"]["template"]["metadata"]["annotations"] = json!({"edition": "2"});
    let next = write(directory.path(), "next.json", &next);
    let told = plan(&data, "errors", &next, &["-o", "json"]);
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    let versions = told["versions"].as_str().expect("versions").to_owned();
    kubectl.apply(
        "{\"apiVersion\": \"apps.mainstay.dev/v1alpha1\", \"kind\": \"StatefulSetPolicy\",
          \"metadata\": {\"name\": \"all\"}, \"spec\": {\"selector\": {}, \"guard\": {\"minHealthy\": 1}}}",
    );
    fails(&next, &["--apply", &versions], "its StatefulSetPolicy is");
    let held = plan(&data, "errors", &next, &[]);
    assert!(
        held.stdout
            .contains("Then it waits: the guard of StatefulSetPolicy all holds pod web-0"),
        "{held:#?}"
    );
}

/// rollouts.md R2: the leader, by its label, is replaced after all other pods, with evictions under a guard.
#[test]
fn the_leader_goes_last() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl().in_new_namespace("leader");
    let mut set = web(3);
    // The times of creation have whole seconds.
    set["spec"]["minReadySeconds"] = json!(2);
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("web", 3);
    kubectl.ok(&["rollout", "status", "sts/web", "--timeout=120s"]);
    let policy = json!({"apiVersion": "apps.mainstay.dev/v1alpha1", "kind": "StatefulSetPolicy",
        "metadata": {"name": "web"}, "spec": {"setRef": {"name": "web"},
        "guard": {"minHealthy": "Quorum"}, "roles": {"fromLabel": "role", "default": "replica"},
        "rollout": {"order": [{"role": {"last": ["leader"]}}]}}});
    kubectl.apply(&policy.to_string());
    kubectl.ok(&["label", "pod", "web-2", "role=leader"]);
    kubectl.ok(&["set", "env", "sts/web", "EDITION=2"]);
    kubectl.ok(&["rollout", "status", "sts/web", "--timeout=120s"]);
    let created = |pod: &str| {
        let path = "jsonpath={.metadata.creationTimestamp}";
        kubectl.ok(&["get", "pod", pod, "-o", path])
    };
    let (second, first, last) = (created("web-0"), created("web-1"), created("web-2"));
    assert!(first < second && second < last, "{first} {second} {last}");
    // Without roles an order by role is refused, and nothing is stored.
    let mut bad = policy.clone();
    bad["spec"].as_object_mut().expect("a spec").remove("roles");
    let refused = kubectl.run_with_input(&["apply", "-f", "-"], &bad.to_string());
    assert!(
        refused.stderr.contains("an order by role needs roles"),
        "{refused:#?}"
    );
}
