//! A copy of a node's data directory on another machine (docs/many-machines.md).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::{binary, text, wait_for_text};

use super::{Machines, runs, wait_node_ready};

/// The program on a machine with another machine ID.
fn program_elsewhere(directory: &Path) -> PathBuf {
    let id = directory.join("machine-id");
    fs::write(&id, "0123456789abcdef0123456789abcdef\n").expect("write an id");
    let (id, program) = (id.display(), binary());
    let mount = format!("mount --bind {id} /etc/machine-id");
    let run = format!("exec {} \"$@\"", program.display());
    let script = format!("#!/bin/sh\nexec unshare -m sh -c '{mount} && {run}' sh \"$@\"\n");
    let path = directory.join("elsewhere");
    fs::write(&path, script).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    path
}

/// The agent of the copy is refused while the original agent lives, whose pod continues. The copy takes the node over
/// when the lease of the original agent has ended.
#[test]
fn a_copy_of_a_nodes_directory_does_not_run_its_pods_twice() {
    let directory = tempfile::tempdir().expect("make a directory");
    let mut machines = Machines::new();
    machines.join_with_pod(&["--node-lease-duration", "12s"]);
    let kubectl = machines.server.kubectl();
    let uid = machines.server.network.run(|| {
        let pod = kubectl.pod("ticks-0");
        text(&pod, "/metadata/uid").to_owned()
    });
    let [original, copy] = machines.nodes.each_ref().map(|node| node.data());
    let copied = Command::new("cp").args(["-a", &original, &copy]).output();
    let copied = copied.expect("run cp");
    assert!(copied.status.success(), "{copied:?}");
    machines.nodes[1].set_program(&program_elsewhere(directory.path()));
    let message = machines.nodes[1].refused(&["node"]);
    assert!(
        message.contains("the node n1 runs on another machine (machine id "),
        "{message}"
    );
    assert!(runs(&uid));
    machines.server.network.run(|| {
        let address = "jsonpath={.status.addresses[0].address}";
        let address = kubectl.ok(&["get", "node", "n1", "-o", address]);
        assert_eq!(address, machines.nodes[0].address);
        let pod = kubectl.pod("ticks-0");
        assert_eq!(text(&pod, "/metadata/uid"), uid);
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    });

    machines.nodes[0].interrupt();
    assert!(!runs(&uid));
    machines.nodes[1].spawn(&["node"]);
    wait_for_text("waiting until its lease has ended", 60, || {
        machines.nodes[1].output()
    });
    wait_for_text("mainstay: ready", 120, || machines.nodes[1].output());
    machines.server.network.run(|| {
        wait_node_ready(&kubectl, "n1");
        kubectl.wait_ready("ticks", 1);
    });
    machines.nodes[1].interrupt();
    machines.server.interrupt();
}
