//! The responses of `kubectl logs`, `exec` and `attach` in every state of a pod (findings-2 I4): the table of
//! docs/troubleshooting.md, and a command that exits at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use end_to_end::{Kubectl, wait_for, wait_for_text, with_images};

/// A pod for each state. A pod that ends prints a last line.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: unscheduled}
spec:
  nodeSelector: {nowhere: 'true'}
  containers: [{name: c, image: 'busybox:1', command: [sleep, '1000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: creating}
spec:
  containers: [{name: c, image: 'busybox:1', volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, configMap: {name: none}}]
---
apiVersion: v1
kind: Pod
metadata: {name: running}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'busybox:1', command: [sh, -c, 'echo begin; sleep 1000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: succeeded}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'busybox:1', command: [echo, begin]}]
---
apiVersion: v1
kind: Pod
metadata: {name: failed}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'busybox:1', command: [sh, -c, 'echo begin; exit 3']}]
---
apiVersion: v1
kind: Pod
metadata: {name: restarting}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'busybox:1', command: [sh, -c, 'echo begin; exit 3']}]
---
apiVersion: v1
kind: Pod
metadata: {name: ending}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - name: c
    image: 'busybox:1'
    command: [sh, -c, 'trap : TERM; echo begin; until [ -e /tmp/end ]; do sleep 1; done; echo end']
---
apiVersion: v1
kind: Pod
metadata: {name: talking}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - name: c
    image: 'busybox:1'
    command: [sh, -c, 'trap : TERM; until [ -e /tmp/end ]; do echo talk; sleep 1; done; echo end']
";

#[derive(Clone, Copy, Debug)]
enum Verb {
    Logs,
    Follow,
    Previous,
    Exec,
    Attach,
}

use Verb::{Attach, Exec, Follow, Logs, Previous};

/// A state, a verb, the exit code, and the output: all of standard output, and a part of the errors.
const TABLE: &[(&str, Verb, i32, &str, &str)] = &[
    ("unscheduled", Logs, 0, "", ""),
    ("unscheduled", Follow, 0, "", ""),
    (
        "unscheduled",
        Exec,
        1,
        "",
        "pod unscheduled does not have a host assigned",
    ),
    (
        "unscheduled",
        Attach,
        1,
        "",
        "pod unscheduled does not have a host assigned",
    ),
    (
        "creating",
        Logs,
        1,
        "",
        "container \"c\" in pod \"creating\" is waiting to start: ContainerCreating",
    ),
    (
        "creating",
        Follow,
        1,
        "",
        "container \"c\" in pod \"creating\" is waiting to start: ContainerCreating",
    ),
    (
        "creating",
        Exec,
        1,
        "",
        "container not found (\"c\"): it has not started",
    ),
    (
        "creating",
        Attach,
        1,
        "",
        "container not found (\"c\"): it has not started",
    ),
    ("running", Logs, 0, "begin\n", ""),
    (
        "running",
        Previous,
        1,
        "",
        "previous terminated container \"c\" in pod \"running\" not found",
    ),
    ("running", Exec, 0, "hi\n", ""),
    ("succeeded", Logs, 0, "begin\n", ""),
    ("succeeded", Follow, 0, "begin\n", ""),
    (
        "succeeded",
        Exec,
        1,
        "",
        "cannot exec into a container in a completed pod; current phase is Succeeded",
    ),
    (
        "succeeded",
        Attach,
        1,
        "",
        "cannot attach a container in a completed pod; current phase is Succeeded",
    ),
    ("failed", Logs, 0, "begin\n", ""),
    ("failed", Follow, 0, "begin\n", ""),
    (
        "failed",
        Exec,
        1,
        "",
        "cannot exec into a container in a completed pod; current phase is Failed",
    ),
    (
        "failed",
        Attach,
        1,
        "",
        "cannot attach a container in a completed pod; current phase is Failed",
    ),
    ("restarting", Logs, 0, "begin\n", ""),
    ("restarting", Follow, 0, "begin\n", ""),
    ("restarting", Previous, 0, "begin\n", ""),
    (
        "restarting",
        Exec,
        1,
        "",
        "container not found (\"c\"): it has ended with exit code 3",
    ),
    // The streams of the container have ended.
    ("restarting", Attach, 0, "", ""),
    ("ending", Logs, 0, "begin\n", ""),
    ("ending", Exec, 0, "hi\n", ""),
    ("gone", Logs, 1, "", "pods \"gone\" not found"),
    ("gone", Follow, 1, "", "pods \"gone\" not found"),
    ("gone", Exec, 1, "", "pods \"gone\" not found"),
    ("gone", Attach, 1, "", "pods \"gone\" not found"),
];

fn words(verb: Verb, pod: &str) -> Vec<&str> {
    match verb {
        Logs => vec!["logs", pod],
        Follow => vec!["logs", "-f", pod],
        Previous => vec!["logs", "--previous", pod],
        Exec => vec!["exec", pod, "--", "echo", "hi"],
        Attach => vec!["attach", pod],
    }
}

// findings-2 I4
#[test]
fn each_verb_has_its_answer_in_each_state() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(PODS);
    kubectl.wait_waiting("creating", "ContainerCreating");
    for pod in ["running", "ending", "talking"] {
        kubectl.wait_pods_ready(&[&format!("pod/{pod}")]);
    }
    for (pod, phase) in [("succeeded", "Succeeded"), ("failed", "Failed")] {
        let phase = format!("--for=jsonpath={{.status.phase}}={phase}");
        kubectl.ok(&["wait", &phase, &format!("pod/{pod}"), "--timeout=240s"]);
    }
    // The time between two restarts grows: the third wait is long enough for all commands.
    wait_for("two restarts", 240, || {
        let pod = kubectl.pod("restarting");
        let status = &pod["status"]["containerStatuses"][0];
        let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        (waits && status["restartCount"].as_u64() >= Some(2))
            .then_some(())
            .ok_or_else(|| status.clone())
    });
    for row in TABLE.iter().filter(|(pod, ..)| *pod == "restarting") {
        check(&kubectl, row);
    }
    kubectl.ok(&["delete", "pod", "ending", "talking", "--wait=false"]);
    for row in TABLE.iter().filter(|(pod, ..)| *pod != "restarting") {
        check(&kubectl, row);
    }
    // A client that follows or is attached gets the last lines of a pod that ends.
    let mut listeners = [Follow, Attach].map(|verb| kubectl.start(&words(verb, "talking")));
    for listener in &listeners {
        wait_for_text("talk\n", 240, || listener.output());
    }
    kubectl.ok(&["exec", "talking", "--", "touch", "/tmp/end"]);
    for listener in &mut listeners {
        wait_for_text("end\n", 240, || listener.output());
        wait_for("the end of the listener", 240, || {
            listener.has_ended().then_some(()).ok_or("it goes on")
        });
    }
    kubectl.ok(&["exec", "ending", "--", "touch", "/tmp/end"]);
}

fn check(kubectl: &Kubectl, (pod, verb, code, stdout, stderr): &(&str, Verb, i32, &str, &str)) {
    let output = kubectl.run(&words(*verb, pod));
    assert_eq!(output.code, *code, "{pod} {verb:?}: {output:?}");
    assert_eq!(output.stdout, *stdout, "{pod} {verb:?}: {output:?}");
    assert!(output.stderr.contains(stderr), "{pod} {verb:?}: {output:?}");
}

/// The number of runs of a command that exits at once. The figure of the last audit was measured with
/// `MAINSTAY_QUICK_RUNS=200`.
const RUNS: usize = 40;

/// The number of concurrent clients.
const CLIENTS: usize = 4;

// findings-2 I4
#[test]
fn a_command_that_ends_at_once_is_heard_exactly_once() {
    let runs = std::env::var("MAINSTAY_QUICK_RUNS").ok();
    let runs = runs.and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let (_registry, instance) = with_images();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let kubectl = instance.kubectl();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        return;
                    }
                    run_once(&kubectl, number);
                }
            });
        }
    });
}

fn run_once(kubectl: &Kubectl, number: usize) {
    let name = format!("quick-{number}");
    let text = format!("said {number}");
    let image = "--image=busybox:1";
    let output = kubectl.run(&[
        "run",
        &name,
        image,
        "--restart=Never",
        "--rm",
        "-i",
        "--quiet",
        "--",
        "echo",
        &text,
    ]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, format!("{text}\n"), "{output:?}");
    assert!(!output.stderr.contains("warning"), "{output:?}");
}
