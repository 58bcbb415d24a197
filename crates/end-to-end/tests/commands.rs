//! The everyday commands of the standard client, on real containers (kubectl.md §1–§6).

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use end_to_end::{Kubectl, wait_for, with_images};

/// A set whose container prints, waits for TERM, and restarts on request.
const SET: &str = "
apiVersion: v1
kind: Service
metadata: {name: box, labels: {app: box}}
spec:
  clusterIP: None
  selector: {app: box}
  ports: [{port: 80, name: web}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: box}
spec:
  serviceName: box
  replicas: 2
  selector: {matchLabels: {app: box}}
  template:
    metadata: {labels: {app: box}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1
        command: [sh, -c, 'echo started $POD_NAME; trap \"exit 0\" TERM; while ! test -e /tmp/stop; do sleep 0.1; done; echo stopping; exit 3']
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        volumeMounts: [{name: data, mountPath: /data}]
      - name: side
        image: busybox:1
        command: [sh, -c, 'echo from the side; trap \"exit 0\" TERM; sleep 1000000 & wait']
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
";

#[test]
fn reading() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(SET);
    kubectl.wait_ready("box", 2);
    let kinds = "sts,pods,pvc,pv,svc,endpoints,endpointslices,nodes,events,sc,cm,sa,secrets,ns";
    for form in ["", "wide", "yaml", "json", "name"] {
        let printed = kubectl.ok(&["get", kinds, "-o", form]);
        for part in ["box-0", "data-box-0", "box"] {
            assert!(
                printed.contains(part),
                "-o {form}: {part} is not in:\n{printed}"
            );
        }
    }
    let wide = kubectl.ok(&["get", "pods", "-l", "app=box", "-o", "wide"]);
    let headings: Vec<&str> = wide
        .lines()
        .next()
        .expect("headings")
        .split_whitespace()
        .collect();
    assert_eq!(
        &headings[..7],
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    );
    assert!(wide.contains("2/2"), "{wide}");
    let nodes = kubectl.ok(&["get", "nodes"]);
    assert!(nodes.contains(" Ready "), "{nodes}");
    for object in [
        "sts/box",
        "pod/box-0",
        "pvc/data-box-0",
        "svc/box",
        "nodes",
        "ns/default",
    ] {
        let described = kubectl.ok(&["describe", object]);
        assert!(described.contains("Name:"), "{object}:\n{described}");
    }
    for (kind, part) in [
        ("pv", "Node Affinity"),
        ("endpoints", "Subsets"),
        ("events", "Reason"),
    ] {
        let described = kubectl.ok(&["describe", kind]);
        assert!(described.contains(part), "{kind}:\n{described}");
    }
    let described = kubectl.ok(&["describe", "pod", "box-0"]);
    for event in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(event), "{event} is not in:\n{described}");
    }
    let slices = ["endpointslices", "-l", "kubernetes.io/service-name=box"];
    wait_for("two endpoints", 60, || {
        let slices = kubectl.get_for_wait(&slices)?;
        match slices["items"][0]["endpoints"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(slices),
        }
    });

    let version = kubectl.ok(&["version"]);
    assert!(version.contains("Server Version: v1.36."), "{version}");
    let resources = kubectl.ok(&["api-resources"]);
    for name in [
        "statefulsets",
        "endpointslices",
        "persistentvolumeclaims",
        "clusterroles",
    ] {
        assert!(resources.contains(name), "{name} is not in:\n{resources}");
    }
    let explained = kubectl.ok(&["explain", "statefulset.spec.updateStrategy"]);
    assert!(explained.contains("rollingUpdate"), "{explained}");
    let template = "{{range $i, $c := .spec.containers}}{{$c.image}} {{end}}";
    let images = kubectl.ok(&["get", "po", "box-0", "--template", template]);
    assert_eq!(images, "busybox:1 busybox:1 ");
    assert!(kubectl.ok(&["get", "all"]).contains("statefulset.apps/box"));
    assert!(
        kubectl
            .ok(&["auth", "can-i", "create", "pods"])
            .contains("yes")
    );
}

#[test]
fn watching() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    let watch = kubectl.watch(&[
        "get",
        "pods",
        "-w",
        "-l",
        "app=box",
        "--output-watch-events",
    ]);
    kubectl.apply(SET);
    kubectl.wait_ready("box", 2);
    kubectl.ok(&["delete", "sts", "box"]);
    wait_for("the pods to go", 60, || {
        let pods = kubectl.ok(&["get", "pods", "-l", "app=box", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    let parts = [
        "ADDED",
        "Pending",
        "ContainerCreating",
        "Running",
        "Terminating",
        "DELETED",
    ];
    wait_for("rows of all states", 60, || {
        let printed = watch.output();
        let missing = parts.into_iter().find(|part| !printed.contains(part));
        missing.map_or(Ok(()), |part| Err(format!("{part} is not in:\n{printed}")))
    });
}

#[test]
fn writing() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    assert_eq!(
        kubectl.apply(SET),
        "service/box created\nstatefulset.apps/box created\n"
    );
    // The client sends the whole (atomic) list of claim templates again, without a change.
    assert!(kubectl.apply(SET).contains("service/box unchanged"));
    assert_eq!(
        kubectl.json(&["get", "sts", "box"])["metadata"]["generation"],
        1
    );
    kubectl.wait_ready("box", 2);

    patches_and_rollouts(&kubectl);
    labels_and_namespaces(&kubectl);
    deletions(&kubectl);
}

fn patches_and_rollouts(kubectl: &Kubectl) {
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"X","value":"1"}]}]}}}}"#;
    kubectl.ok(&["patch", "sts", "box", "-p", strategic]);
    let env = "{.spec.template.spec.containers[0].env[*].name}";
    let names = kubectl.ok(&["get", "sts", "box", "-o", &format!("jsonpath={env}")]);
    assert!(
        names.contains('X') && names.contains("POD_NAME"),
        "merged by name: {names}"
    );
    let json = r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#;
    kubectl.ok(&["patch", "sts", "box", "--type=json", "-p", json]);
    kubectl.ok(&[
        "patch",
        "sts",
        "box",
        "--type=merge",
        "-p",
        r#"{"spec":{"replicas":2}}"#,
    ]);
    let status = kubectl.ok(&["rollout", "status", "sts/box", "--timeout=300s"]);
    assert!(
        status.contains("partitioned roll out complete: 2 new pods"),
        "{status}"
    );
    let history = kubectl.ok(&["rollout", "history", "sts/box"]);
    assert_eq!(
        history
            .lines()
            .filter(|line| line.starts_with(['1', '2']))
            .count(),
        2,
        "{history}"
    );
    assert!(
        kubectl
            .ok(&["rollout", "undo", "sts/box"])
            .contains("rolled back")
    );
    kubectl.ok(&["rollout", "status", "sts/box", "--timeout=300s"]);
    let names = kubectl.ok(&[
        "get",
        "pod",
        "box-0",
        "-o",
        "jsonpath={.spec.containers[0].env[*].name}",
    ]);
    assert!(!names.contains('X'), "undone: {names}");
}

fn labels_and_namespaces(kubectl: &Kubectl) {
    assert_eq!(
        kubectl.ok(&["label", "pod", "box-0", "tier=gold"]),
        "pod/box-0 labeled\n"
    );
    assert!(
        kubectl
            .ok(&["get", "pods", "-l", "tier=gold", "-o", "name"])
            .contains("box-0")
    );
    kubectl.ok(&["label", "pod", "box-0", "tier-"]);
    assert_eq!(
        kubectl.ok(&["annotate", "pod", "box-0", "a=b"]),
        "pod/box-0 annotated\n"
    );
    assert_eq!(
        kubectl.ok(&["create", "namespace", "data"]),
        "namespace/data created\n"
    );
    kubectl.ok(&[
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=k=v",
        "-n",
        "data",
    ]);
    kubectl.ok(&[
        "create",
        "configmap",
        "c",
        "--from-literal=k=v",
        "-n",
        "data",
    ]);
    let secret = kubectl.ok(&[
        "get",
        "secret",
        "s",
        "-n",
        "data",
        "-o",
        "jsonpath={.data.k}",
    ]);
    assert_eq!(secret, "dg==");
    kubectl.ok(&["create", "-n", "data", "--dry-run=server", "configmap", "d"]);
    assert!(
        kubectl
            .fails(&["get", "cm", "d", "-n", "data"])
            .contains("not found")
    );
    kubectl.ok(&["delete", "namespace", "data", "--timeout=300s"]);
    assert!(kubectl.fails(&["get", "ns", "data"]).contains("not found"));
    let node = kubectl.node_name();
    assert_eq!(
        kubectl.ok(&["label", "nodes", &node, "mysql=master"]),
        format!("node/{node} labeled\n")
    );
}

fn deletions(kubectl: &Kubectl) {
    kubectl.ok(&["delete", "sts", "box", "--cascade=orphan"]);
    sleep(Duration::from_secs(1));
    assert_eq!(
        kubectl
            .ok(&["get", "pods", "-l", "app=box", "-o", "name"])
            .lines()
            .count(),
        2
    );
    kubectl.apply(SET);
    kubectl.wait_ready("box", 2);
    kubectl.ok(&[
        "delete",
        "sts",
        "box",
        "--cascade=foreground",
        "--timeout=300s",
    ]);
    assert_eq!(
        kubectl.ok(&["get", "pods", "-l", "app=box", "-o", "name"]),
        ""
    );
    assert_eq!(
        kubectl.ok(&["get", "pvc", "-o", "name"]).lines().count(),
        2,
        "claims stay"
    );
}

#[test]
fn talking_to_containers() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(SET);
    kubectl.wait_ready("box", 2);

    let cat = kubectl.ok_with_input(
        &["exec", "-i", "box-0", "-c", "main", "--", "cat"],
        "to and fro\n",
    );
    assert_eq!(cat, "to and fro\n");
    let failed = kubectl.run(&[
        "exec",
        "box-0",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (failed.code, failed.stdout.as_str()),
        (7, "out\n"),
        "{failed:#?}"
    );
    assert!(failed.stderr.contains("err\n"), "{failed:#?}");
    let shell = kubectl.on_terminal(
        &["exec", "-it", "box-0", "-c", "main", "--", "sh"],
        "tty; exit 4\n",
    );
    assert!(shell.stdout.contains("/dev/pts/"), "{shell:#?}");
    assert_eq!(shell.code, 4, "{shell:#?}");

    logs(&kubectl);

    let run = [
        "run",
        "once",
        "--image=busybox:1",
        "--restart=Never",
        "-i",
        "--rm",
        "--quiet",
    ];
    let once = kubectl.run_with_input(
        &[&run[..], &["--", "sh", "-c", "cat; exit 5"]].concat(),
        "typed\n",
    );
    assert_eq!(once.code, 5, "{once:#?}");
    assert!(once.stdout.contains("typed"), "{once:#?}");
    assert!(kubectl.fails(&["get", "pod", "once"]).contains("not found"));
}

/// Waits until the log of `box-0` is that text.
#[track_caller]
fn says(kubectl: &Kubectl, which: &[&str], text: &str) {
    wait_for(text, 60, || {
        let log = kubectl.run(&[&["logs", "box-0"], which].concat());
        if log.stdout == text { Ok(()) } else { Err(log) }
    });
}

/// kubectl.md §5.7.
fn logs(kubectl: &Kubectl) {
    says(kubectl, &["-c", "main"], "started box-0\n");
    says(kubectl, &["-c", "side"], "from the side\n");
    assert!(
        kubectl
            .ok(&["logs", "box-0", "--all-containers", "--prefix"])
            .contains("box-0/side")
    );
    let mut follow = kubectl
        .command(&["logs", "-f", "box-0", "-c", "main"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let mut followed = BufReader::new(follow.stdout.take().expect("its output"));
    let mut text = String::new();
    followed.read_line(&mut text).expect("read the log");
    // The client follows this container, and not the next one.
    kubectl.ok(&["exec", "box-0", "-c", "main", "--", "touch", "/tmp/stop"]);
    followed
        .read_to_string(&mut text)
        .expect("the log ends with its container");
    follow.wait().expect("wait for kubectl");
    assert_eq!(text, "started box-0\nstopping\n");
    wait_for("the container to be restarted", 60, || {
        let status =
            kubectl.get_for_wait(&["pod", "box-0"])?["status"]["containerStatuses"][0].clone();
        let again = status["restartCount"] == 1 && status["state"]["running"].is_object();
        if again { Ok(()) } else { Err(status) }
    });
    let previous = kubectl.ok(&["logs", "--previous", "box-0", "-c", "main"]);
    assert_eq!(previous, "started box-0\nstopping\n");
    says(kubectl, &["-c", "main", "--tail=1"], "started box-0\n");
    let pod = kubectl.pod("box-0");
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 3, "{last}");
}
