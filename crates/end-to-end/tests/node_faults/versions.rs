//! Agents and servers of other versions (docs/upgrade.md): copies of the release program that name another version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use end_to_end::{Kubectl, binary, text, wait_for, wait_for_text};

use super::{Machines, fenced, wait_for_pod, wait_node_ready};

/// The text with which the program contains its version.
const VERSION_TEXT: &[u8] = concat!("+mainstay.", env!("CARGO_PKG_VERSION")).as_bytes();

/// A copy of the program with this version, whose text has the length of the original.
fn program_of(version: &str, directory: &Path) -> PathBuf {
    let mut bytes = fs::read(binary()).expect("read the program");
    let at = memchr::memmem::find(&bytes, VERSION_TEXT);
    let at = at.expect("the program names its version");
    let end = at + VERSION_TEXT.len();
    bytes[end - version.len()..end].copy_from_slice(version.as_bytes());
    let path = directory.join(format!("mainstay-{version}"));
    fs::write(&path, bytes).expect("write a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    path
}

#[track_caller]
fn wait_for_version(kubectl: &Kubectl, node: &str, version: &str) {
    let version = format!("v1.36.0+mainstay.{version}");
    let path = "jsonpath={.status.nodeInfo.kubeletVersion}";
    wait_for_text(&version, 120, || {
        kubectl.run(&["get", "node", node, "-o", path]).stdout
    });
}

/// Checks that a command reaches the pod, and that its UID has not changed.
#[track_caller]
fn goes_on(kubectl: &Kubectl, uid: &str) {
    wait_for("a command in the pod", 120, || {
        let output = kubectl.run(&["exec", "ticks-0", "--", "hostname"]);
        match output.stdout.trim() == "ticks-0" {
            true => Ok(()),
            false => Err(output),
        }
    });
    let pod = kubectl.pod("ticks-0");
    assert_eq!(text(&pod, "/metadata/uid"), uid);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

/// A node that is one version older than its server works. A newer node cannot join, and continues with a warning if it
/// has joined before: an upgrade in the wrong order ends no pod.
#[test]
fn a_node_may_be_older_than_its_server_and_not_newer() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [older, newer] = ["0.0.9", "0.2.0"].map(|version| program_of(version, directory.path()));
    let mut machines = Machines::new();
    let (url, token) = (machines.server.url(), machines.server.token(&[]));
    let kubectl = machines.server.kubectl();

    machines.nodes[1].set_program(&newer);
    let join = ["node", "--server", &url, "--token", &token];
    let message = machines.nodes[1].refused(&join);
    let reason = "this program has the version v1.36.0+mainstay.0.2.0, and the server";
    assert!(message.contains(reason), "{message}");

    machines.nodes[0].set_program(&older);
    let mut running_pods = machines.join_with_pod(&[]);
    let uid = running_pods.0["ticks-0"][0].clone();
    machines.server.network.run(|| {
        wait_for_version(&kubectl, "n1", "0.0.9");
        goes_on(&kubectl, &uid);
        kubectl.ok(&["logs", "ticks-0"]);
    });

    machines.nodes[0].kill();
    machines.nodes[0].set_program(&newer);
    machines.nodes[0].start(&["node"]);
    let message = machines.nodes[0].output();
    assert!(message.contains(reason), "{message}");
    machines.server.network.run(|| {
        wait_for_version(&kubectl, "n1", "0.2.0");
        goes_on(&kubectl, &uid);
    });

    machines.server.kill();
    machines.server.set_program(&newer);
    machines.server.start(&["server"]);
    machines.nodes[1].set_program(&binary());
    machines.join(1, &[]);
    machines.server.network.run(|| {
        wait_for_version(&kubectl, "n2", env!("CARGO_PKG_VERSION"));
        kubectl.ok(&["scale", "statefulset/ticks", "--replicas=2"]);
        wait_for_pod(&kubectl, &mut running_pods, "ticks-1", "n2");
        wait_node_ready(&kubectl, "n1");
        goes_on(&kubectl, &uid);
        assert_eq!(fenced(&kubectl), "", "no node was lost");
    });
    machines.shut_down();
}
