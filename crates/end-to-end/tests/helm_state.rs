//! helm, further checks: its queries before an installation, both methods of applying, the storage of its state, and
//! its output about the state (kubectl.md 7).

use std::path::PathBuf;

use end_to_end::{Helm, Instance, Kubectl, Output, text, wait_for};
use serde_json::json;

#[test]
fn releases_of_a_stateful_chart() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let charts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/charts");
    let chart = charts.join("well").display().to_string();
    kubectl.ok(&["create", "configmap", "given", "--from-literal=word=hello"]);
    let helm = Helm::new(&instance);
    lookups_while_rendering(&helm, &kubectl, &chart);
    by_the_server(&helm, &kubectl, &chart);
    by_the_client(&helm, &kubectl, &chart);
    in_config_maps(&helm.with_driver("configmap"), &kubectl, &chart);
}

/// kubectl.md 7.1, 7.8: versions, kinds and objects that a chart looks up; nothing is stored.
fn lookups_while_rendering(helm: &Helm, kubectl: &Kubectl, chart: &str) {
    let expected = [
        "given: \"hello\"",
        "version: \"v1.36.0+mainstay",
        "sets: \"true\"",
        "monitors: \"false\"",
    ];
    let template = ["template", "dry", chart, "--dry-run=server"];
    let install = ["install", "dry", chart, "--dry-run=server"];
    for command in [template, install] {
        let rendered = helm.ok(&command);
        for line in expected {
            assert!(rendered.contains(line), "{line} is not in:\n{rendered}");
        }
        assert!(!rendered.contains("namespaces: \"0\""), "{rendered}");
    }
    assert_eq!(helm.ok(&["list", "-q", "-A"]), "");
    assert!(kubectl.fails(&["get", "sts", "dry"]).contains("NotFound"));
}

/// The manager of the set's replicas, and its operation.
fn manager(kubectl: &Kubectl, set: &str) -> String {
    let set_object = kubectl.json(&["get", "sts", set, "--show-managed-fields"]);
    let list = set_object["metadata"]["managedFields"].as_array().cloned();
    let owns = |entry: &&serde_json::Value| entry.to_string().contains("\"f:replicas\":{}");
    let spec = |entry: &&serde_json::Value| entry["subresource"].is_null();
    let list = list.unwrap_or_default();
    let entry = list.iter().filter(spec).find(owns).expect("a manager");
    format!("{} {}", text(entry, "/manager"), text(entry, "/operation"))
}

/// The steps of any release, from its installation to its end.
fn through_its_life(helm: &Helm, kubectl: &Kubectl, chart: &str, name: &str, method: &str) {
    let wait = ["--wait", "--timeout", "90s"];
    let run = |verb: &str, more: &[&str]| {
        helm.run(&[&[verb, name, chart, method], &wait[..], more].concat())
    };
    run("install", &[]).expect_success("helm install");
    let set = kubectl.json(&["get", "sts", name]);
    assert_eq!(set["status"]["readyReplicas"], 1);
    let owner = "/metadata/annotations/meta.helm.sh~1release-name";
    assert_eq!(text(&set, owner), name);
    let colours = ["--set", "colour=red", "--set", "extra=false"];
    run("upgrade", &colours).expect_success("helm upgrade");
    let set = kubectl.json(&["get", "sts", name]);
    let colour = "/spec/template/spec/containers/0/env/0/value";
    assert_eq!(text(&set, colour), "red");
    let extra = format!("{name}-extra");
    assert!(
        kubectl
            .fails(&["get", "secret", &extra])
            .contains("NotFound")
    );
    // A change of an immutable field is refused with the message of the API server.
    let grown = run("upgrade", &["--set", "storage=16Mi"]);
    let why = "updates to statefulset spec for fields other than";
    assert!(grown.code != 0 && grown.stderr.contains(why), "{grown:?}");
    let values = "storage=16Mi,colour=red,extra=false";
    claims_follow(kubectl, name, || run("upgrade", &["--set", values]));
    helm.ok(&[&["rollback", name, "1"], &wait[..]].concat());
    assert_eq!(text(&kubectl.json(&["get", "sts", name]), colour), "blue");
    kubectl.ok(&["delete", "statefulsetpolicy", "claims"]);
    kubectl.ok(&["get", "secret", &extra]);
    assert_eq!(
        helm.revisions(name),
        "1:superseded 2:superseded 3:failed 4:superseded 5:deployed"
    );
    let all = helm.ok(&["get", "all", name]);
    for part in ["COMPUTED VALUES:", "kind: StatefulSet", "NOTES:"] {
        assert!(all.contains(part), "{part} is not in:\n{all}");
    }
    let notes = helm.ok(&["get", "notes", name]);
    assert!(notes.contains(&format!("{name} is blue.")), "{notes}");
    let metadata = helm.json(&["get", "metadata", name]);
    assert_eq!(metadata["chart"], "well");
    assert_eq!(helm.ok(&["list", "-q", "-A"]), format!("{name}\n"));
}

/// rollouts.md C4, C11: a policy of the namespace permits the same upgrade of a chart that cannot be changed, on the first
/// attempt. The volume grows, and the pod stays.
fn claims_follow(kubectl: &Kubectl, name: &str, upgrade: impl Fn() -> Output) {
    let policy = json!({"apiVersion": "apps.mainstay.dev/v1alpha1", "kind": "StatefulSetPolicy",
        "metadata": {"name": "claims"}, "spec": {"selector": {}, "claims": {"update": "InPlace"}}});
    kubectl.apply(&policy.to_string());
    let pod = format!("{name}-0");
    let uid = || text(&kubectl.json(&["get", "pod", &pod]), "/metadata/uid").to_owned();
    let before = uid();
    upgrade().expect_success("helm upgrade");
    let claim = format!("data-{name}-0");
    wait_for("the volume to grow", 60, || {
        let claim = kubectl.json(&["get", "pvc", &claim]);
        match text(&claim, "/status/capacity/storage") {
            "16Mi" => Ok(()),
            _ => Err(claim["status"].clone()),
        }
    });
    kubectl.ok(&[
        "wait",
        "--for=condition=ClaimsUpToDate",
        &format!("sts/{name}"),
        "--timeout=60s",
    ]);
    assert_eq!(uid(), before);
}

fn ended(helm: &Helm, kubectl: &Kubectl, name: &str) {
    helm.ok(&["uninstall", name, "--wait", "--timeout", "60s"]);
    let left = |kinds| kubectl.ok(&["get", kinds, "-o", "name"]);
    let objects = left("sts,secrets,configmaps");
    assert!(!objects.contains(&format!("/{name}")), "{objects}");
    assert!(!objects.contains("sh.helm.release"), "{objects}");
    // Helm deletes in the background, and waits only for its own objects.
    wait_for("the end of the pods", 60, || match left("pods") {
        pods if pods.contains(&format!("/{name}")) => Err(pods),
        _ => Ok(()),
    });
}

/// kubectl.md 7.2, 7.3, 7.4, 7.6: the method of helm 4. The state is in Secrets with labels.
fn by_the_server(helm: &Helm, kubectl: &Kubectl, chart: &str) {
    through_its_life(helm, kubectl, chart, "new", "--server-side=true");
    assert_eq!(manager(kubectl, "new"), "helm Apply");
    let labels = "owner=helm,name=new,status=deployed,version=5";
    let secrets = kubectl.json(&["get", "secrets", "-l", labels]);
    let secrets = &secrets["items"][0];
    assert_eq!(text(secrets, "/type"), "helm.sh/release.v1");
    assert_eq!(text(secrets, "/metadata/name"), "sh.helm.release.v1.new.v5");
    // An object of another owner is not adopted.
    kubectl.ok(&["create", "configmap", "theirs"]);
    let refused = helm.run(&["install", "theirs", chart]);
    assert!(
        refused.stderr.contains("invalid ownership metadata"),
        "{refused:?}"
    );
    ended(helm, kubectl, "new");
}

/// kubectl.md 7.3, 7.4, 7.5: the method of helm 3, three-way patches; its method of waiting.
fn by_the_client(helm: &Helm, kubectl: &Kubectl, chart: &str) {
    through_its_life(helm, kubectl, chart, "old", "--server-side=false");
    assert_eq!(manager(kubectl, "old"), "helm Update");
    let legacy = ["--server-side=true", "--force-conflicts", "--wait=legacy"];
    let legacy = [&["upgrade", "old", chart, "--timeout", "90s"], &legacy[..]].concat();
    helm.ok(&legacy);
    assert_eq!(manager(kubectl, "old"), "helm Apply");
    ended(helm, kubectl, "old");
}

/// kubectl.md 7.2, 7.6: the state in ConfigMaps.
fn in_config_maps(helm: &Helm, kubectl: &Kubectl, chart: &str) {
    helm.ok(&["install", "open", chart, "--set", "replicas=0"]);
    let config_maps = kubectl.ok(&["get", "configmaps", "-l", "owner=helm", "-o", "name"]);
    assert_eq!(config_maps, "configmap/sh.helm.release.v1.open.v1\n");
    assert_eq!(helm.revisions("open"), "1:deployed");
    ended(helm, kubectl, "open");
}
