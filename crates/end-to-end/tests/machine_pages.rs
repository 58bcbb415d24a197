//! Pages that change the machine, pasted on a machine of the test (findings U7, U11): installation, first set, upgrade,
//! backup, removal.

use std::fs;

use end_to_end::lan::Lan;
use end_to_end::{Machine, Pasted, wait_for};

/// A machine on which the program is installed, as the page describes.
fn installed() -> Machine {
    install_on(Machine::start())
}

fn install_on(machine: Machine) -> Machine {
    let pasted = Pasted::on(&machine);
    let output = pasted.part("docs/install.md", "2. Install it", Some("3. Start it"));
    let written = "/usr/local/bin/mainstay";
    assert!(output.stdout.contains(written), "{output:#?}");
    machine
}

/// kubectl as the administrator.
const KUBECTL: &str = "kubectl --kubeconfig /var/lib/mainstay/kubeconfig";

/// findings U7: from an empty machine to a server of a newer program, and back to an empty machine.
#[test]
fn install_upgrade_and_uninstall_can_be_pasted() {
    let machine = installed();
    let pasted = Pasted::on(&machine);
    machine.ok("mainstay up --detach");
    let output = pasted.part(
        "docs/install.md",
        "4. Give your own user",
        Some("An installation is not required"),
    );
    assert!(output.stdout.contains(" Ready "), "{output:#?}");
    let process = "cut -d ' ' -f 1 /var/lib/mainstay/process";
    let before = machine.ok(process).stdout;
    let output = pasted.part(
        "docs/upgrade.md",
        "Without systemd",
        Some("Rename the new binary"),
    );
    assert!(output.stdout.contains("ready in "), "{output:#?}");
    assert_ne!(machine.ok(process).stdout, before);
    machine.ok(&format!("{KUBECTL} get nodes"));
    pasted.part(
        "docs/uninstall.md",
        "1. Stop the server",
        Some("2. Delete the data"),
    );
    machine.ok("mainstay down --all --yes");
    pasted.part(
        "docs/uninstall.md",
        "3. Remove the program",
        Some("## Expected"),
    );
    machine.ok(
        "! ls -d /var/lib/mainstay /usr/local/bin/mainstay /etc/systemd/system/mainstay.service",
    );
}

/// findings U7: the first set, in two shells.
#[test]
fn the_first_set_can_be_pasted() {
    let machine = installed();
    let pasted = Pasted::on(&machine);
    let running = pasted.keep_running(
        "docs/first-set.md",
        "1. Start the program",
        Some("2. In a second shell"),
    );
    machine.ok(&format!(
        "for i in $(seq 3000); do {KUBECTL} get sts web && exit 0; sleep 0.1; done; exit 1"
    ));
    let output = pasted.part(
        "docs/first-set.md",
        "2. In a second shell",
        Some("5. Stop with Ctrl-C"),
    );
    for text in ["web-1", "persistentvolumeclaim/data-web-2"] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    let ended = running.interrupt(&machine);
    assert_eq!(ended.code, 0, "{ended:#?}");
    machine.ok("mainstay down --all --yes");
}

/// findings U7: the backup restores the instance.
#[test]
fn backup_and_restore_can_be_pasted() {
    let machine = installed();
    let backups = machine.directory().join("backups");
    let backups = backups.display().to_string();
    let pasted = Pasted::on(&machine).with("/backups", &backups);
    machine.ok(&format!("mkdir {backups} && mainstay up --detach"));
    machine.ok(&format!(
        "{KUBECTL} create configmap kept --from-literal=a=b"
    ));
    pasted.part("docs/backup.md", "## Back up", Some("The command works"));
    machine.ok("mainstay down --all --yes && test ! -e /var/lib/mainstay");
    pasted.part(
        "docs/backup.md",
        "2. Restore into an empty directory",
        Some("3. Copy the directories"),
    );
    pasted.part("docs/backup.md", "4. Start.", Some("`restore` verifies"));
    let value = machine.ok(&format!(
        "{KUBECTL} get configmap kept -o jsonpath={{.data.a}}"
    ));
    assert_eq!(value.stdout, "b");
    machine.ok("mainstay down --all --yes");
}

/// An instance is deleted while the pods of another machine, with an equal data directory, run.
#[test]
fn machines_do_not_share_control_groups() {
    let machines = [installed(), installed()];
    for machine in &machines {
        machine.ok("mainstay up --detach");
    }
    let [first, second] = &machines;
    second.ok(&format!(
        "{KUBECTL} run kept --image mainstay/debug --restart Never -- sleep 1000000 \
         && {KUBECTL} wait --for=condition=Ready --timeout=300s pod/kept"
    ));
    first.ok("mainstay down && mainstay down --all --yes");
    second.ok(&format!("{KUBECTL} exec kept -- true"));
    second.ok("mainstay down --all --yes");
}

/// A pod that records its end on the machine: `ENDED` is a directory there.
const LAST_WORDS: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "last-words"}, "spec": {
    "containers": [{"name": "c", "image": "mainstay/debug", "command": ["sleep", "1000000"],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo in order > /ended/how"]}}},
        "volumeMounts": [{"name": "ended", "mountPath": "/ended"}]}],
    "volumes": [{"name": "ended", "hostPath": {"path": "ENDED"}}]}}"#;

/// findings U7, U11: the systemd service is started, upgraded while its pods run, and stops the pods in order when the
/// machine is switched off.
#[test]
fn the_service_of_systemd_can_be_pasted() {
    let mut machine = install_on(Machine::with_systemd());
    let ended = machine.directory().join("ended");
    fs::create_dir(&ended).expect("a directory");
    let pasted = Pasted::on(&machine);
    pasted.part("docs/systemd.md", "2. Start it.", Some("## Expected"));
    let ready = format!(
        "for i in $(seq 3000); do {KUBECTL} get serviceaccount default && exit 0; sleep 0.1; done; exit 1"
    );
    machine.ok(&ready);
    assert_eq!(
        machine.ok("systemctl is-active mainstay").stdout.trim(),
        "active"
    );
    let manifest = LAST_WORDS.replace("ENDED", &ended.display().to_string());
    fs::write(machine.directory().join("pod.json"), manifest).expect("write the manifest");
    machine.ok(&format!(
        "{KUBECTL} apply -f pod.json && {KUBECTL} wait --for=condition=Ready --timeout=300s pod/last-words"
    ));
    let container = format!(
        "{KUBECTL} get pod last-words -o jsonpath={{.status.containerStatuses[0].containerID}}"
    );
    let before = machine.ok(&container).stdout;
    let process = "cut -d ' ' -f 1 /var/lib/mainstay/process";
    let server = machine.ok(process).stdout;
    pasted.part(
        "docs/upgrade.md",
        "With the service of",
        Some("Without systemd"),
    );
    machine.ok(&ready);
    assert_ne!(machine.ok(process).stdout, server);
    assert_eq!(machine.ok(&container).stdout, before);
    assert!(!ended.join("how").exists());
    machine.ok("systemctl poweroff");
    machine.wait_off();
    let how = fs::read_to_string(ended.join("how"));
    assert_eq!(how.expect("the pod's last words"), "in order\n");
}

/// Two fresh machines: a server, and a node that joins, is drained and joins again; then both as services.
#[test]
fn a_cluster_of_two_machines_can_be_pasted() {
    let mut lan = Lan::default();
    let server = install_on(Machine::with_systemd().plugged(&mut lan, "server"));
    let node = install_on(Machine::with_systemd().plugged(&mut lan, "rack7"));
    let on_server = Pasted::on(&server);
    let serving = on_server.keep_running(
        "docs/many-machines.md",
        "## 1. Start the server",
        Some("It prints its"),
    );
    wait_until(&server, &format!("{KUBECTL} get serviceaccount default"));
    let created = on_server.part(
        "docs/many-machines.md",
        "## 2. Create a token",
        Some("The output is one"),
    );
    let token = created.stdout.trim();
    let on_node = Pasted::on(&node)
        .with("echo TOKEN", &format!("echo {token}"))
        .with("' TOKEN |", &format!("' {token} |"));
    let joined = on_node.keep_running(
        "docs/many-machines.md",
        "## 3. Join",
        Some("The line appears"),
    );
    let node_is_ready = format!("{KUBECTL} wait --for=condition=Ready node/rack7 --timeout=1s");
    wait_until(&server, &node_is_ready);
    let output = on_server.part(
        "docs/many-machines.md",
        "On the server, the node is Ready:",
        Some("A pod with a volume of"),
    );
    for part in [
        " Ready ",
        "web-2",
        "node/rack7 drained",
        "node/rack7 uncordoned",
    ] {
        assert!(output.stdout.contains(part), "{part}: {output:#?}");
    }
    for ended in [joined.interrupt(&node), serving.interrupt(&server)] {
        assert_eq!(ended.code, 0, "{ended:#?}");
    }
    on_server.part(
        "docs/many-machines.md",
        "With systemd, install the service",
        Some("On each node, `/etc"),
    );
    on_node.part(
        "docs/many-machines.md",
        "On each node, `/etc",
        Some("Delete the file when"),
    );
    let pods_are_ready = format!("{KUBECTL} wait --for=condition=Ready pod/web-0 --timeout=1s");
    wait_until(&server, &pods_are_ready);
    let container =
        format!("{KUBECTL} get pod web-0 -o jsonpath={{.status.containerStatuses[0].containerID}}");
    let before = server.ok(&container).stdout;
    // The node's membership is stored in the data directory.
    node.ok("rm /etc/mainstay/node.env && systemctl restart mainstay");
    let exec = format!("{KUBECTL} exec web-0 -- hostname");
    wait_until(&server, &exec);
    wait_until(&server, &node_is_ready);
    assert_eq!(server.ok(&container).stdout, before);
    for machine in [&server, &node] {
        machine.ok("systemctl is-active mainstay");
        machine.ok("mainstay down");
    }
}

/// Runs a line on the machine until it succeeds.
#[track_caller]
fn wait_until(machine: &Machine, line: &str) {
    wait_for(line, 120, || {
        let mut command = machine.command(machine.directory(), "sh");
        let output = command.args(["-c", line]).output().expect("run a shell");
        match output.status.success() {
            true => Ok(()),
            false => Err(output),
        }
    });
}
