//! A node whose address the server cannot reach, as behind network address translation (docs/many-machines.md, "A node
//! that the server cannot reach").

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::sync::mpsc;

use end_to_end::lan::{Lan, Role, cut, ip, mend};
use end_to_end::{Kubectl, wait_for};

use crate::nodes::{WEB, client_reaches, client_sees_usage, wait_for_path};

/// The address in the Node object. Packets to this address are lost.
const HIDDEN: &str = "10.77.0.2";
/// The next hop to the hidden address, which does not exist.
const NOBODY: &str = "192.0.2.77";

/// The value of a metric of the server.
fn metric(kubectl: &Kubectl, name: &str) -> Result<u64, String> {
    let page = kubectl.run(&["get", "--raw", "/metrics"]);
    let line = page.stdout.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| format!("no {name}: {}", page.stderr))
}

#[track_caller]
fn wait_for_tunnels(kubectl: &Kubectl, number: u64) {
    wait_for(&format!("{number} tunnels"), 240, || {
        match metric(kubectl, "mainstay_node_tunnels ") {
            Ok(open) if open == number => Ok(()),
            other => Err(other),
        }
    });
}

#[track_caller]
fn wait_for_exec(kubectl: &Kubectl) {
    wait_for("exec through the tunnel", 240, || {
        let output = kubectl.run(&["exec", "web-0", "--", "hostname"]);
        match output.stdout.trim() {
            "web-0" => Ok(()),
            _ => Err(output),
        }
    });
}

#[test]
fn a_hidden_node_is_reached_through_its_tunnel() {
    let directory = tempfile::Builder::new()
        .prefix("mainstay-test-")
        .tempdir()
        .expect("make a directory");
    let mut lan = Lan::default();
    let mut server = Role::new(&mut lan, "server", directory.path());
    let mut node = Role::new(&mut lan, "n1", directory.path());
    server.network.run(|| {
        ip(&format!("route add {HIDDEN}/32 via {NOBODY}"));
        let lost = "lladdr 02:00:00:00:00:01 dev eth0 nud permanent";
        ip(&format!("neighbour add {NOBODY} {lost}"));
    });
    let address = format!("address add {HIDDEN}/32 dev lo");
    node.network.run(|| ip(&address));
    server.start(&["server"]);
    let kubectl = server.kubectl();
    let (url, token) = (server.url(), server.token(&[]));
    let join = ["node", "--server", &url, "--token", &token];
    node.start(&[&join[..], &["--node-name", "n1", "--node-ip", HIDDEN]].concat());
    server.network.run(|| {
        let wide = kubectl.ok(&["get", "nodes", "-o", "wide"]);
        assert!(wide.contains(HIDDEN), "{wide}");
        kubectl.apply(&WEB.replace("replicas: 2", "replicas: 1"));
        kubectl.wait_ready("web", 1);
        client_reaches(&kubectl, "web-0", directory.path());
        echoes_input(&kubectl);
        has_a_terminal(&kubectl);
        follows_logs(&kubectl);
        client_sees_usage(&kubectl, 1);
        wait_for_path(&kubectl, "n1", "Tunnel");
        let connections = "mainstay_node_connections_total";
        let direct = format!("{connections}{{way=\"direct\",result=\"success\"}} ");
        assert_eq!(metric(&kubectl, &direct), Ok(0));
        let tunnel = format!("{connections}{{way=\"tunnel\",result=\"success\"}} ");
        assert!(metric(&kubectl, &tunnel).is_ok_and(|count| count > 5));
    });

    // The server is killed: the node opens a tunnel to the next server.
    server.kill();
    server.start(&["server"]);
    server.network.run(|| wait_for_exec(&kubectl));

    // Packets are dropped silently, in both directions. Each end detects this, and the node reconnects.
    server.network.run(|| wait_for_tunnels(&kubectl, 1));
    cut(server.machine(), node.machine());
    server.network.run(|| {
        wait_for_tunnels(&kubectl, 0);
        let refused = kubectl.run(&["exec", "web-0", "--", "hostname"]);
        let reason = "the node has no tunnel to this server";
        assert!(refused.stderr.contains(reason), "{refused:?}");
        wait_for_path(&kubectl, "n1", "NoWay");
    });
    mend(server.machine(), node.machine());
    server.network.run(|| wait_for_exec(&kubectl));

    node.interrupt();
    server.network.run(|| wait_for_tunnels(&kubectl, 0));
    server.interrupt();
}

/// The input of a command is returned, in parts.
fn echoes_input(kubectl: &Kubectl) {
    let mut command = kubectl.command(&["exec", "-i", "web-0", "--", "cat"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start kubectl");
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    for line in ["one\n", "two\n"] {
        input.write_all(line.as_bytes()).expect("write a line");
        let mut back = vec![0; line.len()];
        output.read_exact(&mut back).expect("read a line");
        assert_eq!(back, line.as_bytes());
    }
    drop(input);
    assert!(child.wait().expect("wait for kubectl").success());
}

/// A command on a terminal, with its exit code.
fn has_a_terminal(kubectl: &Kubectl) {
    let arguments = ["exec", "-it", "web-0", "--", "sh"];
    let typed = "test -t 0 && echo terminal-$((40 + 2)); exit 3\n";
    let terminal = kubectl.on_terminal(&arguments, typed);
    assert!(terminal.stdout.contains("terminal-42"), "{terminal:?}");
    assert_eq!(terminal.code, 3, "{terminal:?}");
}

/// Lines that are written later arrive at a client that follows the logs.
fn follows_logs(kubectl: &Kubectl) {
    let mut command = kubectl.command(&["logs", "--follow", "--tail=0", "web-0"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let output = child.stdout.take().expect("a pipe");
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut count = 0;
    wait_for("lines of the log", 240, || {
        let write = "echo later >/proc/1/fd/1";
        kubectl.run(&["exec", "web-0", "--", "sh", "-c", write]);
        count += lines.try_iter().filter(|line| line == "later").count();
        if count >= 2 { Ok(()) } else { Err(count) }
    });
    child.kill().expect("end kubectl");
    child.wait().expect("wait for kubectl");
    drop(lines);
    reader.join().expect("read the log");
}
