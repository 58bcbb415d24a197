//! `--encrypt-pod-traffic` (DESIGN §13) is refused by a kernel without WireGuard. Packets between nodes that
//! have it are in the tests of `pod-network`, in the virtual machine.

use std::path::Path;
use std::process::Command;

use end_to_end::Network;
use end_to_end::lan::{Lan, Role};

const OPTION: &str = "--encrypt-pod-traffic";

/// Whether the kernel makes WireGuard devices.
fn has_wireguard() -> bool {
    let make = ["link", "add", "wg0", "type", "wireguard"];
    let made = Network::isolated().run(|| Command::new("ip").args(make).output());
    made.expect("run ip").status.success()
}

#[test]
fn a_kernel_without_wireguard_is_refused_before_anything_changes() {
    if has_wireguard() {
        return;
    }
    let directory = tempfile::tempdir().expect("make a directory");
    let mut lan = Lan::default();
    let mut role = Role::new(&mut lan, "refused", directory.path());
    let join = ["node", OPTION, "--server", "https://192.0.2.9:6443"];
    for arguments in [
        &["server", "--with-node", OPTION][..],
        &["up", OPTION],
        &["up", "--nodes=3", OPTION],
        &join,
    ] {
        let said = role.refused(arguments);
        assert!(said.contains("has no WireGuard"), "{arguments:?}: {said}");
        assert!(said.contains("modprobe wireguard"), "{said}");
        assert!(!Path::new(&role.data()).exists(), "{arguments:?}: {said}");
    }
}
