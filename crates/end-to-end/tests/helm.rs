//! helm: the work with a release, from its installation to its removal.

use std::path::PathBuf;

use end_to_end::applications::{busybox, nginx};
use end_to_end::{Helm, Instance, Kubectl, example, text, wait_for, with_images};

fn chart_of_tests(name: &str) -> String {
    let charts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/charts");
    charts.join(name).display().to_string()
}

/// The remaining objects of a release with this name.
fn left(kubectl: &Kubectl, selector: &str) -> Vec<String> {
    let kinds = "deployments,statefulsets,services,jobs,pods,configmaps,secrets,serviceaccounts,\
                 roles,rolebindings,poddisruptionbudgets";
    let listed = kubectl.json(&["get", kinds, "-l", selector]);
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let name = |item| format!("{}/{}", text(item, "/kind"), text(item, "/metadata/name"));
    items.iter().map(name).collect()
}

/// kubectl.md 7.3, 7.5, 7.6: the chart as `helm create` writes it: Deployment, Service,
/// ServiceAccount, probes, a test pod.
#[test]
fn the_chart_that_helm_creates() {
    let (registry, instance) = with_images();
    registry.push("library/nginx", "1.16.0", &nginx("1"));
    registry.push("library/busybox", "latest", &busybox());
    let (helm, kubectl) = (Helm::new(&instance), instance.kubectl());
    let chart = helm.create(&instance.data(), "demo");
    let wait = ["--wait", "--timeout", "120s"];

    helm.ok(&[&["install", "web", &chart], &wait[..]].concat());
    assert_eq!(image(&kubectl), "nginx:1.16.0");
    let tested = helm.ok(&["test", "web", "--timeout", "60s"]);
    assert!(tested.contains("Succeeded"), "{tested}");

    let more = ["--set", "replicaCount=2", "--set", "image.tag=2"];
    helm.ok(&[&["upgrade", "web", &chart], &wait[..], &more].concat());
    assert_eq!(image(&kubectl), "nginx:2");
    let ready = kubectl.json(&["get", "deployment", "web-demo"]);
    assert_eq!(ready["status"]["readyReplicas"], 2);
    let values = helm.json(&["get", "values", "web"]);
    assert_eq!(values["replicaCount"], 2);

    // An upgrade that does not become ready is stopped, and rolled back.
    let broken = ["--set", "image.tag=none", "--wait", "--timeout", "5s"];
    let failed = helm.run(&[&["upgrade", "web", &chart], &broken[..]].concat());
    assert_ne!(failed.code, 0, "{failed:?}");
    helm.ok(&[&["rollback", "web", "1"], &wait[..]].concat());
    assert_eq!(image(&kubectl), "nginx:1.16.0");
    assert_eq!(
        helm.revisions("web"),
        "1:superseded 2:superseded 3:failed 4:deployed"
    );
    let manifest = helm.ok(&["get", "manifest", "web"]);
    assert!(manifest.contains("image: \"nginx:1.16.0\""), "{manifest}");
    assert_eq!(helm.json(&["list"])[0]["revision"], "4");
    assert_eq!(helm.json(&["status", "web"])["info"]["status"], "deployed");

    helm.ok(&["uninstall", "web", "--wait", "--timeout", "60s"]);
    // An object that a hook created does not belong to the release, so helm does not remove it.
    kubectl.ok(&["delete", "pod", "web-demo-test-connection"]);
    nothing_is_left(&kubectl, "app.kubernetes.io/name=demo");
    assert_eq!(helm.json(&["list"]).as_array().map(Vec::len), Some(0));
}

fn image(kubectl: &Kubectl) -> String {
    let deployment = kubectl.json(&["get", "deployment", "web-demo"]);
    text(&deployment, "/spec/template/spec/containers/0/image").to_owned()
}

fn nothing_is_left(kubectl: &Kubectl, selector: &str) {
    wait_for("nothing to be left", 60, || match left(kubectl, selector) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// kubectl.md 7.5, 7.7, 10.6: a chart with a database: StatefulSet with claims, headless Service, hooks, a test, a
/// budget, rights (`examples/charts/ledger`).
#[test]
fn a_chart_with_a_stateful_set_and_hooks() {
    let (_registry, instance) = with_images();
    let (helm, kubectl) = (Helm::new(&instance), instance.kubectl());
    let chart = example("charts/ledger").display().to_string();
    let wait = ["--wait", "--timeout", "120s"];

    // The hook before the installation can refuse it before any object is created.
    let refused = helm.run(&[&["install", "bad", &chart, "--set", "user=a:b"], &wait[..]].concat());
    assert_ne!(refused.code, 0, "{refused:?}");
    let log = kubectl.ok(&["logs", "job/bad-check"]);
    assert_eq!(log, "user 'a:b' is empty or has a colon\n");
    assert!(kubectl.fails(&["get", "sts", "bad"]).contains("NotFound"));
    helm.ok(&["uninstall", "bad"]);

    helm.ok(&[&["install", "books", &chart], &wait[..]].concat());
    kubectl.wait_ready("books", 2);
    let password = |kubectl: &Kubectl| kubectl.json(&["get", "secret", "books"])["data"].clone();
    let first = password(&kubectl);
    helm.ok(&["test", "books", "--timeout", "60s"]);
    rights(&kubectl);

    let more = ["--set", "replicas=3", "--set", "title=journal"];
    helm.ok(&[&["upgrade", "books", &chart], &wait[..], &more].concat());
    kubectl.wait_ready("books", 3);
    assert_eq!(password(&kubectl), first);
    assert_eq!(
        lines(&kubectl, 0),
        "ledger of books-0\nupgraded to revision 2\n"
    );
    assert_eq!(
        lines(&kubectl, 2),
        "journal of books-2\nupgraded to revision 2\n"
    );
    helm.ok(&["test", "books", "--timeout", "60s"]);

    helm.ok(&[&["rollback", "books", "1"], &wait[..]].concat());
    kubectl.wait_ready("books", 2);
    assert_eq!(
        lines(&kubectl, 1),
        "ledger of books-1\nupgraded to revision 2\n"
    );
    assert_eq!(
        helm.revisions("books"),
        "1:superseded 2:superseded 3:deployed"
    );
    wait_for("one disruption to be allowed", 60, || {
        let budget = kubectl.get_for_wait(&["pdb", "books"])?;
        let allowed = budget["status"]["disruptionsAllowed"] == 1;
        if allowed { Ok(()) } else { Err(budget) }
    });

    helm.ok(&["uninstall", "books", "--wait", "--timeout", "60s"]);
    // Objects of hooks stay, and so do claims with their data.
    kubectl.ok(&["delete", "job", "books-check"]);
    kubectl.ok(&["delete", "pod", "books-reads"]);
    nothing_is_left(&kubectl, "app.kubernetes.io/instance=books");
    let claims = kubectl.ok(&["get", "pvc", "-o", "name"]);
    assert_eq!(claims.lines().count(), 3, "{claims}");
}

fn lines(kubectl: &Kubectl, ordinal: u32) -> String {
    let pod = format!("books-{ordinal}");
    kubectl.ok(&["exec", &pod, "--", "cat", "/data/ledger/lines"])
}

fn rights(kubectl: &Kubectl) {
    let may = |verb: &str, object: &str| {
        let account = "--as=system:serviceaccount:default:books";
        let output = kubectl.run(&["auth", "can-i", verb, object, account]);
        output.stdout.trim() == "yes"
    };
    assert!(may("get", "configmaps/books"));
    assert!(!may("get", "configmaps/other"));
    assert!(!may("delete", "configmaps/books"));
}

/// A chart may contain a kind, and an object of this kind in the same installation.
#[test]
fn a_chart_with_a_kind_of_its_own() {
    let instance = Instance::start(&[]);
    let (helm, kubectl) = (Helm::new(&instance), instance.kubectl());
    let chart = chart_of_tests("garden");
    helm.ok(&["install", "rose", &chart, "--wait", "--timeout", "60s"]);
    let row = kubectl.ok(&["get", "fl", "rose", "--no-headers"]);
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>()[..3],
        ["rose", "5", "red"]
    );
    let refused = helm.run(&["upgrade", "rose", &chart, "--set", "petals=1"]);
    let reason = "spec.petals: Invalid value: 1: spec.petals in body should be greater than or \
                  equal to 3";
    assert!(refused.stderr.contains(reason), "{refused:?}");
    helm.ok(&["upgrade", "rose", &chart, "--set", "petals=7"]);
    assert_eq!(
        kubectl.json(&["get", "flower", "rose"])["spec"]["petals"],
        7
    );
    helm.ok(&["rollback", "rose", "1"]);
    assert_eq!(
        kubectl.json(&["get", "flower", "rose"])["spec"]["petals"],
        5
    );
    helm.ok(&["uninstall", "rose", "--wait"]);
    // The kind stays, because other releases may have objects of it.
    assert_eq!(kubectl.ok(&["get", "flowers", "-o", "name"]), "");
}
