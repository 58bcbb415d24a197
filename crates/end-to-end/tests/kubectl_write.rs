//! Writes with the standard client: create, apply, edit, patch, set, delete, scale, roll back (kubectl.md 2 and 3).

use end_to_end::stateful_set::{version, web};
use end_to_end::{Instance, Kubectl, text};

#[test]
fn writing_with_the_stock_client() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    created_twice(&kubectl.in_new_namespace("made"));
    created_by_the_client(&kubectl.in_new_namespace("generated"));
    applied(&kubectl.in_new_namespace("applied"));
    pruned(&kubectl.in_new_namespace("pruned"));
    compared_replaced_and_edited(&kubectl.in_new_namespace("edited"));
    set_and_labelled(&kubectl.in_new_namespace("set"));
    patched(&kubectl.in_new_namespace("patched"));
    scaled_and_rolled_back(&kubectl.in_new_namespace("rolled"));
    deleted(&kubectl.in_new_namespace("deleted"));
}

const MAP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}}";

/// kubectl.md 2.1
fn created_twice(kubectl: &Kubectl) {
    let set = web(0).to_string();
    let create = ["create", "-f", "-"];
    assert_eq!(
        kubectl.ok_with_input(&create, &set),
        "statefulset.apps/web created\n"
    );
    let again = kubectl.run_with_input(&create, &set);
    assert_eq!(
        again.stderr,
        "Error from server (AlreadyExists): error when creating \"STDIN\": statefulsets.apps \
         \"web\" already exists\n"
    );
}

/// kubectl.md 2.2: objects that the client builds by itself.
fn created_by_the_client(kubectl: &Kubectl) {
    for (what, created) in [
        ("configmap c --from-literal=a=b", "configmap/c"),
        ("secret generic s --from-literal=a=b", "secret/s"),
        (
            "secret docker-registry r --docker-server=a --docker-username=b --docker-password=c",
            "secret/r",
        ),
        ("serviceaccount bot", "serviceaccount/bot"),
        (
            "role r --verb=get --resource=pods",
            "role.rbac.authorization.k8s.io/r",
        ),
        (
            "rolebinding r --role=r --serviceaccount=generated:bot",
            "rolebinding.rbac.authorization.k8s.io/r",
        ),
        ("service clusterip s --tcp=80:8080", "service/s"),
        ("service nodeport n --tcp=80:8080", "service/n"),
        (
            "service externalname e --external-name=example.com",
            "service/e",
        ),
        ("quota q --hard=pods=5", "resourcequota/q"),
        (
            "poddisruptionbudget p --selector=a=b --min-available=1",
            "poddisruptionbudget.policy/p",
        ),
        ("job j --image=mainstay/hello -- /no", "job.batch/j"),
        (
            "cronjob y --image=mainstay/hello --schedule=@yearly -- /no",
            "cronjob.batch/y",
        ),
        ("job from --from=cronjob/y", "job.batch/from"),
        (
            "deployment d --image=mainstay/hello --replicas=0",
            "deployment.apps/d",
        ),
    ] {
        let words: Vec<&str> = std::iter::once("create").chain(what.split(' ')).collect();
        assert_eq!(kubectl.ok(&words), format!("{created} created\n"), "{what}");
    }
    let token = [
        "create",
        "token",
        "bot",
        "--audience=vault",
        "--duration=1h",
    ];
    let token = kubectl.ok(&[
        &token[..],
        &["--bound-object-kind=Secret"],
        &["--bound-object-name=s"],
    ]
    .concat());
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let unknown = kubectl.fails(&["create", "statefulset", "w"]);
    assert!(unknown.contains("Unexpected args"), "{unknown}");
}

/// kubectl.md 2.3, 0.7: three forms of `apply`, for a kind whose lists have keys and for a kind that the client does
/// not know.
fn applied(kubectl: &Kubectl) {
    assert_eq!(kubectl.apply(MAP), "configmap/c created\n");
    let map = kubectl.json(&["get", "configmap", "c"]);
    let last = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
    assert!(text(&map, last).contains("\"a\":\"b\""));
    assert_eq!(kubectl.apply(MAP), "configmap/c unchanged\n");
    kubectl.ok(&["patch", "configmap", "c", "-p", r#"{"data":{"x":"y"}}"#]);
    // Fields that are not applied any more are removed, and fields of other managers stay.
    let other = MAP.replace("a: b", "c: d");
    assert_eq!(kubectl.apply(&other), "configmap/c configured\n");
    let data = kubectl.json(&["get", "configmap", "c"])["data"].clone();
    assert_eq!(data, serde_json::json!({"c": "d", "x": "y"}));
    kubectl.define_things();
    let thing = "{apiVersion: example.com/v1, kind: Thing, metadata: {name: t}, list: [1, 2]}";
    assert_eq!(kubectl.apply(thing), "thing.example.com/t created\n");
    let fewer = thing.replace("[1, 2]", "[3]");
    assert_eq!(kubectl.apply(&fewer), "thing.example.com/t configured\n");
    assert_eq!(kubectl.json(&["get", "thing", "t"])["list"][0], 3);
    // An object with a changed immutable field is recreated if the user requests it.
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, type: Opaque}";
    kubectl.apply(secret);
    let other = secret.replace("Opaque", "example.com/other");
    let refused = kubectl.run_with_input(&["apply", "-f", "-"], &other);
    assert!(refused.stderr.contains("field is immutable"), "{refused:?}");
    let forced = kubectl.ok_with_input(&["apply", "--force", "-f", "-"], &other);
    assert!(forced.ends_with("secret/s configured\n"), "{forced}");
}

/// kubectl.md 2.5
fn pruned(kubectl: &Kubectl) {
    let map = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{app: x}}}}}}\n"
        )
    };
    let both = format!("{}---\n{}", map("one"), map("two"));
    let apply = ["apply", "-f", "-", "--prune", "-l", "app=x"];
    let apply = [&apply[..], &["--prune-allowlist=core/v1/ConfigMap"]].concat();
    kubectl.ok_with_input(&apply, &both);
    let printed = kubectl.ok_with_input(&apply, &map("two"));
    assert_eq!(printed, "configmap/two unchanged\nconfigmap/one pruned\n");
    let dry = kubectl.ok_with_input(&["apply", "--dry-run=server", "-f", "-"], &both);
    assert_eq!(
        dry,
        "configmap/one created (server dry run)\nconfigmap/two unchanged (server dry run)\n"
    );
}

/// kubectl.md 2.6
fn compared_replaced_and_edited(kubectl: &Kubectl) {
    kubectl.apply(MAP);
    let diff = |manifest: &str| kubectl.run_with_input(&["diff", "-f", "-"], manifest);
    assert_eq!(diff(MAP).code, 0);
    let changed = MAP.replace("a: b", "a: other");
    let printed_diff = diff(&changed);
    assert_eq!(printed_diff.code, 1, "{printed_diff:?}");
    assert!(
        printed_diff.stdout.contains("+  a: other"),
        "{printed_diff:?}"
    );
    let replace = ["replace", "-f", "-"];
    assert_eq!(
        kubectl.ok_with_input(&replace, &changed),
        "configmap/c replaced\n"
    );
    let uid = |kubectl: &Kubectl| {
        let map = kubectl.json(&["get", "configmap", "c"]);
        text(&map, "/metadata/uid").to_owned()
    };
    let first = uid(kubectl);
    let forced = kubectl.ok_with_input(&["replace", "--force", "-f", "-"], MAP);
    assert!(forced.ends_with("configmap/c replaced\n"), "{forced}");
    assert_ne!(uid(kubectl), first);
    let mut edit = kubectl.command(&["edit", "configmap", "c"]);
    let edited = edit.env("KUBE_EDITOR", "sed -i s/^..a:.b/\\ \\ a:\\ edited/");
    let edited = edited.output().expect("start kubectl");
    assert_eq!(
        String::from_utf8_lossy(&edited.stdout),
        "configmap/c edited\n"
    );
    let map = kubectl.json(&["get", "configmap", "c", "--show-managed-fields"]);
    assert_eq!(map["data"]["a"], "edited");
    assert!(map["metadata"].to_string().contains("\"kubectl-edit\""));
}

/// kubectl.md 2.8
fn set_and_labelled(kubectl: &Kubectl) {
    kubectl.apply(&web(0).to_string());
    kubectl.ok(&["create", "serviceaccount", "bot"]);
    kubectl.ok(&["create", "service", "clusterip", "front", "--tcp=80"]);
    for (what, printed) in [
        ("image sts/web hello=mainstay/hello:2", "image updated"),
        ("env sts/web COLOUR=blue", "env updated"),
        (
            "resources sts/web --limits=memory=64Mi",
            "resource requirements updated",
        ),
        ("serviceaccount sts/web bot", "serviceaccount updated"),
    ] {
        let words: Vec<&str> = std::iter::once("set").chain(what.split(' ')).collect();
        let expected = format!("statefulset.apps/web {printed}\n");
        assert_eq!(kubectl.ok(&words), expected);
    }
    kubectl.ok(&["set", "selector", "service", "front", "app=web"]);
    let spec = kubectl.json(&["get", "sts", "web"])["spec"]["template"]["spec"].clone();
    let container = &spec["containers"][0];
    assert_eq!(container["image"], "mainstay/hello:2");
    assert_eq!(container["env"][1]["name"], "COLOUR");
    assert_eq!(container["resources"]["limits"]["memory"], "64Mi");
    assert_eq!(spec["serviceAccountName"], "bot");
    let service = kubectl.json(&["get", "service", "front"]);
    assert_eq!(
        service["spec"]["selector"],
        serde_json::json!({"app": "web"})
    );
    let printed = |arguments: &[&str]| {
        let printed = kubectl.ok(arguments);
        printed
            .trim_start_matches("statefulset.apps/web ")
            .to_owned()
    };
    assert_eq!(printed(&["label", "sts", "web", "a=b"]), "labeled\n");
    assert_eq!(printed(&["label", "sts", "web", "a=b"]), "not labeled\n");
    assert_eq!(printed(&["label", "sts", "web", "a-"]), "unlabeled\n");
    assert_eq!(printed(&["annotate", "sts", "web", "a=b"]), "annotated\n");
    let stale = ["label", "sts", "web", "a=c", "--resource-version=1"];
    assert!(
        kubectl
            .fails(&stale)
            .contains("the object has been modified")
    );
}

/// kubectl.md 2.7: further checks are in the tests of `structured-merge`.
fn patched(kubectl: &Kubectl) {
    kubectl.apply(&web(0).to_string());
    let patch = |more: &[&str]| kubectl.run(&[&["patch", "sts", "web"], more].concat());
    let same = patch(&["-p", r#"{"spec":{"replicas":0}}"#]);
    assert_eq!(same.stdout, "statefulset.apps/web patched (no change)\n");
    let scaled = ["--subresource=scale", "--type=merge", "-p"];
    let scaled = patch(&[&scaled[..], &[r#"{"spec":{"replicas":0}}"#]].concat());
    assert_eq!(scaled.code, 0, "{scaled:?}");
    let test = r#"[{"op":"test","path":"/spec/replicas","value":7}]"#;
    let refused = patch(&["--type=json", "-p", test]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("/spec/replicas"), "{refused:?}");
}

/// kubectl.md 3.1 to 3.5, 9.3: with and without preconditions; history by the set's selector.
fn scaled_and_rolled_back(kubectl: &Kubectl) {
    kubectl.apply(&web(1).to_string());
    kubectl.wait_ready("web", 1);
    let scale = |more: &[&str]| kubectl.run(&[&["scale", "sts", "web"], more].concat());
    let scaled = "statefulset.apps/web scaled\n";
    assert_eq!(
        scale(&["--replicas=1", "--current-replicas=1"]).stdout,
        scaled
    );
    let wrong = scale(&["--replicas=1", "--current-replicas=7"]);
    assert_eq!(
        wrong.stderr, "error: Expected replicas to be 7, was 1\n",
        "{wrong:?}"
    );
    let rollout = |more: &[&str]| {
        let output = kubectl.run(&[&["rollout"], more, &["sts/web"]].concat());
        // A warning about an earlier apply of the set may be printed in both cases.
        let message = if output.code == 0 {
            output.stdout
        } else {
            output.stderr
        };
        let lines = message
            .lines()
            .filter(|line| !line.starts_with("Warning: "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(
        rollout(&["undo"]),
        "error: no last revision to roll back to\n"
    );
    kubectl.ok(&[
        "annotate",
        "sts",
        "web",
        "kubernetes.io/change-cause=b it is",
    ]);
    kubectl.patch_web(&version("b"));
    let status = rollout(&["status", "--timeout=300s"]);
    assert!(
        status.ends_with("partitioned roll out complete: 1 new pods have been updated...\n"),
        "{status}"
    );
    let history = rollout(&["history"]);
    assert!(history.starts_with("statefulset.apps/web \nREVISION  CHANGE-CAUSE\n"));
    assert!(history.contains("2         b it is\n"), "{history}");
    let second = rollout(&["history", "--revision=2"]);
    assert!(second.contains("VERSION:\tb"), "{second}");
    let same = rollout(&["undo", "--to-revision=2"]);
    assert_eq!(
        same,
        "statefulset.apps/web skipped rollback (current template already matches revision 2)\n"
    );
    assert_eq!(rollout(&["undo"]), "statefulset.apps/web rolled back\n");
    kubectl.wait_versions("0:a");
    assert_eq!(rollout(&["restart"]), "statefulset.apps/web restarted\n");
    let set = kubectl.json(&["get", "sts", "web"]);
    let restarted = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";
    text(&set, restarted);
    for verb in ["pause", "resume"] {
        let message = rollout(&[verb]);
        let what = if verb == "pause" {
            "pausing"
        } else {
            "resuming"
        };
        let expected = format!("error: statefulsets.apps \"web\" {what} is not supported\n");
        assert_eq!(message, expected);
    }
    let unknown = rollout(&["undo", "--to-revision=9"]);
    assert_eq!(
        unknown,
        "error: unable to find specified revision 9 in history\n"
    );
}

/// kubectl.md 2.9, 2.10, 9.6
fn deleted(kubectl: &Kubectl) {
    kubectl.apply(&web(2).to_string());
    kubectl.wait_ready("web", 2);
    let before = kubectl.pod_uid("web-0");
    let output = kubectl.ok(&["delete", "pod", "web-0"]);
    assert_eq!(output, "pod \"web-0\" deleted from deleted namespace\n");
    // The command waited for that pod; there may be another pod of its name by now.
    kubectl.wait_ready("web", 2);
    assert_ne!(kubectl.pod_uid("web-0"), before);
    let forced = kubectl.run(&["delete", "pod", "web-1", "--force"]);
    assert_eq!(
        forced.stdout,
        "pod \"web-1\" force deleted from deleted namespace\n"
    );
    assert!(
        forced.stderr.contains("Immediate deletion does not wait"),
        "{forced:?}"
    );
    kubectl.wait_ready("web", 2);
    for grace in ["--now", "--grace-period=0"] {
        kubectl.ok(&["delete", "pod", "web-1", grace]);
        kubectl.wait_ready("web", 2);
    }
    let old = kubectl.run(&["delete", "sts", "web", "--cascade=false"]);
    assert!(
        old.stderr.contains("--cascade=false is deprecated"),
        "{old:?}"
    );
    let left = kubectl.ok(&["get", "pods", "-o", "name"]);
    assert_eq!(left, "pod/web-0\npod/web-1\n");
    kubectl.ok(&["delete", "pods", "--all", "--now"]);
    kubectl.ok(&["create", "namespace", "short-lived"]);
    let message = kubectl.ok(&["delete", "namespace", "short-lived", "--timeout=300s"]);
    assert_eq!(message, "namespace \"short-lived\" deleted\n");
}
