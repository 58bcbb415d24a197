//! Streams into containers by the standard client: exec, attach, run, cp, port-forward, logs, proxy (kubectl.md 5),
//! over WebSocket and over SPDY.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};

use end_to_end::registry::curl;
use end_to_end::{Kubectl, with_images};

/// A container that repeats its input, and a container that serves a page.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}, annotations: {kubectl.kubernetes.io/default-container: main}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: side, image: busybox:1, command: [sleep, '1000']}
  - name: main
    image: busybox:1
    stdin: true
    command: [sh, -c, 'echo ready; while read line; do echo said $line; done; sleep 1000']
---
apiVersion: v1
kind: Pod
metadata: {name: page, labels: {app: page}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: mainstay/hello, ports: [{containerPort: 80, name: http}]}]
---
apiVersion: v1
kind: Service
metadata: {name: page}
spec: {selector: {app: page}, ports: [{port: 8080, targetPort: http, name: http}]}
";

/// Processes that are killed at the end of the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn streams_into_containers() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(PODS);
    kubectl.wait_pods_ready(&["pods", "--all"]);
    for websocket in ["true", "false"] {
        exec(&kubectl, websocket);
        attach(&kubectl, websocket);
        copy(&kubectl, websocket);
        forward(&kubectl, websocket);
    }
    run(&kubectl);
    logs(&kubectl);
    proxy(&kubectl);
}

const REMOTE: &str = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS";

/// kubectl.md 5.1, 5.2, 5.10: the exit code comes after all output.
fn exec(kubectl: &Kubectl, websocket: &str) {
    let script = "seq 1 2000; exit 7";
    let mut command = kubectl.command(&["exec", "echo", "--", "sh", "-c", script]);
    let output = command.env(REMOTE, websocket).output();
    let output = output.expect("start kubectl");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let lines = output.stdout.split(|byte| *byte == b'\n').count();
    assert_eq!(lines, 2001);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("command terminated with exit code 7"),
        "{message}"
    );
}

/// kubectl.md 5.3
fn attach(kubectl: &Kubectl, websocket: &str) {
    let mut command = kubectl.command(&["attach", "-i", "echo"]);
    command.env(REMOTE, websocket);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut attached = Background(command.spawn().expect("start kubectl"));
    let hint = first_line(&mut attached.0.stderr, "press");
    assert_eq!(
        hint,
        "If you don't see a command prompt, try pressing enter."
    );
    let mut input = attached.0.stdin.take().expect("a pipe");
    writeln!(input, "over {websocket}").expect("type");
    let line_read = first_line(&mut attached.0.stdout, "said");
    assert_eq!(line_read, format!("said over {websocket}"));
}

/// The first line with a word. The pipe stays open as long as its client writes.
fn first_line(pipe: &mut Option<impl Read>, word: &str) -> String {
    let pipe = BufReader::new(pipe.as_mut().expect("a pipe"));
    let mut lines = pipe.lines().map_while(Result::ok);
    lines.find(|line| line.contains(word)).unwrap_or_default()
}

/// kubectl.md 5.5
fn copy(kubectl: &Kubectl, websocket: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let here = |name: &str| directory.path().join(name).display().to_string();
    let text = "line\n".repeat(100_000);
    std::fs::create_dir(here("tree")).expect("make a directory");
    std::fs::write(here("tree/file"), &text).expect("write a file");
    let run = |arguments: &[&str]| {
        let mut command = kubectl.command(arguments);
        let output = command.env(REMOTE, websocket).output();
        let output = output.expect("start kubectl");
        assert!(output.status.success(), "{output:?}");
    };
    let there = format!("echo:/tmp/{websocket}");
    run(&["cp", &here("tree"), &there]);
    run(&["cp", "--retries=2", &format!("{there}/file"), &here("back")]);
    assert_eq!(std::fs::read_to_string(here("back")).expect("read"), text);
}

/// kubectl.md 5.6
fn forward(kubectl: &Kubectl, websocket: &str) {
    for target in ["pod/page", "service/page"] {
        let port = if target == "pod/page" { ":80" } else { ":8080" };
        let mut command = kubectl.command(&["port-forward", target, port]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket);
        let command = command.stdout(Stdio::piped());
        let mut child = Background(command.spawn().expect("start kubectl"));
        let line = first_line(&mut child.0.stdout, "127.0.0.1");
        let address = line
            .strip_prefix("Forwarding from ")
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_else(|| panic!("no address in {line:?}"));
        // Several connections, one after the other and concurrently.
        let url = format!("http://{address}/");
        let page = curl(&["--fail", "--parallel", &url, &url]).expect("pages");
        assert!(page.contains("page"), "{page}");
    }
}

/// kubectl.md 5.4
fn run(kubectl: &Kubectl) {
    let run = ["run", "--image=busybox:1", "--restart=Never", "--rm"];
    let run = |more: &[&'static str]| [&run[..], more].concat();
    let once = run(&["once", "-i", "--", "sh", "-c", "cat; exit 5"]);
    let once = kubectl.run_with_input(&once, "typed\n");
    assert_eq!(once.code, 5, "{once:?}");
    assert!(once.stdout.contains("typed\n"), "{once:?}");
    let message = "pod \"once\" deleted from default namespace";
    assert!(once.stdout.contains(message), "{once:?}");
    // The container has exited before the client could attach, so its output comes from the log. The client reads the
    // log before it attaches, and again when it was too late to attach. An attachment between the last line and the
    // exit prints nothing, as in Kubernetes, so the next run counts.
    let logged = ["quick", "quicker", "quickest"]
        .into_iter()
        .find_map(|name| {
            let quick = kubectl.run(&run(&[name, "-i", "--quiet", "--", "echo", "done"]));
            assert_eq!(quick.code, 0, "{quick:?}");
            Some(quick.stdout).filter(|logged| !logged.is_empty())
        });
    let logged = logged.expect("an output in one of three runs");
    assert!(matches!(&*logged, "done\n" | "done\ndone\n"), "{logged:?}");
    let terminal = kubectl.on_terminal(&run(&["tty", "-it", "--", "sh"]), "tty; exit 3\n");
    assert!(terminal.stdout.contains("/dev/"), "{terminal:?}");
    assert_eq!(terminal.code, 3, "{terminal:?}");
    kubectl.ok(&["run", "stays", "--image=busybox:1", "--", "sleep", "1000"]);
    let stays = kubectl.pod("stays");
    assert_eq!(stays["spec"]["restartPolicy"], "Always");
    assert_eq!(stays["metadata"]["labels"]["run"], "stays");
    kubectl.ok(&["delete", "pod", "stays", "--now"]);
}

/// kubectl.md 5.7: further checks are in `commands`.
fn logs(kubectl: &Kubectl) {
    let log = |arguments: &[&str]| kubectl.ok(&[&["logs", "echo"], arguments].concat());
    assert!(
        log(&[]).starts_with("ready\nsaid over true\n"),
        "{}",
        log(&[])
    );
    assert_eq!(log(&["--tail=1"]), "said over false\n");
    assert_eq!(log(&["--limit-bytes=3"]), "rea");
    assert_eq!(log(&["--since=1h"]), log(&[]));
    assert_eq!(log(&["--since-time=2999-01-01T00:00:00Z"]), "");
    let stamped = log(&["--timestamps", "--tail=1"]);
    let (time, rest) = stamped.split_once(' ').expect("a time and a text");
    assert!(
        time.ends_with('Z') && rest == "said over false\n",
        "{stamped}"
    );
    let by_label = kubectl.ok(&[
        "logs", "-l", "app=echo", "--prefix", "-c", "main", "--tail=1",
    ]);
    assert_eq!(by_label, "[pod/echo/main] said over false\n");
    let unknown = kubectl.fails(&["logs", "echo", "-c", "none"]);
    assert!(
        unknown.contains("container none is not valid for pod echo"),
        "{unknown}"
    );
    let previous = kubectl.fails(&["logs", "echo", "--previous"]);
    let why = "previous terminated container \"main\" in pod \"echo\" not found";
    assert!(previous.contains(why), "{previous}");
    let waiting = "{apiVersion: v1, kind: Pod, metadata: {name: waits}, spec: {containers: \
                   [{name: c, image: 'mainstay/hello', volumeMounts: [{name: v, mountPath: /v}]}], \
                   volumes: [{name: v, configMap: {name: none}}]}}";
    kubectl.apply(waiting);
    kubectl.wait_waiting("waits", "ContainerCreating");
    let waiting = kubectl.fails(&["logs", "waits"]);
    let why = "container \"c\" in pod \"waits\" is waiting to start: ContainerCreating";
    assert!(waiting.contains(why), "{waiting}");
    kubectl.ok(&["delete", "pod", "waits", "--now"]);
}

/// kubectl.md 5.9: through the client's proxy, and through the server's.
fn proxy(kubectl: &Kubectl) {
    let mut command = kubectl.command(&["proxy", "--port=0"]);
    let command = command.stdout(Stdio::piped());
    let mut child = Background(command.spawn().expect("start kubectl"));
    let line = first_line(&mut child.0.stdout, "127.0.0.1");
    let address = line.rsplit(' ').next().unwrap_or_default();
    let get = |path: &str| {
        let url = format!("http://{address}{path}");
        curl(&["--fail", "--location", &url]).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let pod: serde_json::Value =
        serde_json::from_str(&get("/api/v1/namespaces/default/pods/echo")).expect("JSON");
    assert_eq!(pod["kind"], "Pod");
    for path in [
        "pods/page/proxy/",
        "pods/page:80/proxy/",
        "services/page:http/proxy/",
        "services/http:page:8080/proxy/",
    ] {
        let page = get(&format!("/api/v1/namespaces/default/{path}"));
        assert!(page.contains("page"), "{path}: {page}");
    }
    let node = kubectl.node_name();
    let healthy = get(&format!("/api/v1/nodes/{node}/proxy/healthz"));
    assert_eq!(healthy, "ok");
}
