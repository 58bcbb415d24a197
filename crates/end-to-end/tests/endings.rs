//! The ends of the program, the state that it leaves, and the deletion of its data.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use end_to_end::program::{mainstay, ok, refused, text};
use end_to_end::stateful_set::web_with_claims;
use end_to_end::{Instance, ReservedRanges, binary, wait_for, with_images};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[track_caller]
fn down(data: &Path, arguments: &[&str]) -> String {
    ok(&[&["down", "--data-dir", text(data)], arguments].concat())
}

/// The name of the instance in the kernel.
fn kernel_name(data: &Path) -> String {
    let marker = fs::read(data.join("instance")).expect("the marker");
    let marker: serde_json::Value = serde_json::from_slice(&marker).expect("JSON");
    marker["kernelName"].as_str().expect("a name").to_owned()
}

/// All objects with the instance's name in the kernel, and mounts and processes of its directory.
fn left_in_kernel(data: &Path, name: &str) -> Vec<String> {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .expect(program);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let label = format!("lo:ms{name}");
    let alias = format!("mainstay/{name}/");
    let group = format!("mainstay-{name}");
    let mut left = Vec::new();
    let listings = [
        (run("ip", &["-o", "addr", "show", "lo"]), label.as_str()),
        (run("ip", &["-d", "link"]), alias.as_str()),
        (
            fs::read_to_string("/proc/self/mounts").expect("the mounts"),
            text(data),
        ),
    ];
    for (listings, mark) in &listings {
        left.extend(
            listings
                .lines()
                .filter(|line| line.contains(mark))
                .map(str::to_owned),
        );
    }
    for entry in fs::read_dir("/proc").expect("read /proc") {
        let path = entry.expect("a process").path();
        let line = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        if line.contains("shim") && line.contains(text(data)) {
            left.push(line);
        }
    }
    for root in [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/pids",
    ] {
        let group = Path::new(root).join(&group);
        if group.exists() {
            left.push(group.display().to_string());
        }
    }
    left
}

/// findings R6: the reader of the program's output has exited, as with `up 2>&1 | tee` after Ctrl-C.
#[test]
fn the_end_comes_though_nobody_reads() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut child = Command::new(binary())
        .args(["up", "--data-dir", text(&data), "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("start mainstay");
    let mut output = child.stdout.take().expect("its output");
    let errors = child.stderr.take().expect("its errors");
    let mut lines = Vec::new();
    while !String::from_utf8_lossy(&lines).contains("mainstay: ready") {
        let mut chunk = [0; 256];
        let count = output.read(&mut chunk).expect("read its output");
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&lines));
        lines.extend_from_slice(&chunk[..count]);
    }
    drop((output, errors));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("send a signal");
    let status = wait_for("mainstay to end", 60, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    assert!(status.success(), "{status}");

    let mut version = Command::new(binary());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = version.arg("version").stdout(writer).status().expect("run");
    assert!(status.success(), "{status}");
}

/// findings R7: a closed terminal has the effect of SIGTERM; and `down` stops the remains of a killed server. findings
/// R9: deleted directories are named, and only marked directories are deleted.
#[test]
fn what_is_left_is_ended_and_what_is_ours_deleted() {
    let arguments = ["--on-stop=leave-pods"];
    let mut instance = Instance::start_prepared(&arguments, |data| {
        fs::write(data.join("registries.yaml"), "mirrors: {}\n").expect("write");
        fs::write(data.join("mine"), "not mainstay's\n").expect("write");
    });
    let data = instance.data();
    let kubectl = instance.kubectl();
    kubectl.apply(&web_with_claims(2).to_string());
    kubectl.wait_ready("web", 2);
    let name = kernel_name(&data);
    assert!(instance.hang_up().success(), "{}", instance.output());
    assert!(instance.output().contains("leaving the pods running"));
    assert!(left_in_kernel(&data, &name).len() > 4);
    instance.start_again();
    instance.kubectl().wait_ready("web", 2);
    instance.kill();

    let output = down(&data, &[]);
    assert!(
        output.contains("2 pods of a killed server: web-0, web-1"),
        "{output}"
    );
    assert_eq!(left_in_kernel(&data, &name), Vec::<String>::new());
    // The next start has all pods again.
    instance.start_again();
    instance.kubectl().wait_ready("web", 2);
    instance.kill();

    let volume = fs::read_dir(data.join("volumes"))
        .expect("the volumes")
        .count();
    assert_eq!(volume, 2);
    let refusal = refused(&["down", "--data-dir", text(&data), "--volumes"]);
    assert!(refusal.contains("add --yes"), "{refusal}");
    let output = down(&data, &["--volumes", "--yes"]);
    assert!(
        output.contains("kept: images, kubeconfig.kubectl-cache, mine, registries.yaml\n"),
        "{output}"
    );
    assert_eq!(left_in_kernel(&data, &name), Vec::<String>::new());
    assert!(!data.join("volumes").exists() && !data.join("store").exists());

    instance.start_again();
    let output = instance.kubectl().run(&["get", "sts,pvc", "-o", "name"]);
    assert_eq!(output.stdout, "", "a new cluster");
    assert!(instance.interrupt().success());
    let output = down(&data, &["--all", "--yes"]);
    assert!(
        // Every file of the program is known by name; these files belong to the test and to kubectl.
        output.contains("other files are kept: kubeconfig.kubectl-cache, mine\n"),
        "{output}"
    );
    let error = refused(&["down", "--data-dir", text(&data), "--all", "--yes"]);
    assert!(
        error.contains("is not marked as a data directory"),
        "{error}"
    );
    assert!(data.join("mine").exists());
}

/// findings R7: a pod that a killed server has left is stopped with its hook, and by its own stop signal.
#[test]
fn what_is_left_is_ended_as_its_pods_say() {
    let (_registry, mut instance) = with_images();
    let data = instance.data();
    let folder = tempfile::tempdir().expect("a directory");
    let order = folder.path().join("order");
    let script = "trap 'echo USR1 >> /trace/order; exit 0' USR1; touch /trace/hears; \
        while true; do sleep 0.1; done";
    let hook = ["sh", "-c", "echo hook >> /trace/order; sleep 0.3"];
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "os": {"name": "linux"},
        "volumes": [{"name": "trace", "hostPath": {"path": folder.path()}}],
        "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "trace", "mountPath": "/trace"}],
            "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"exec": {"command": hook}}}}]}});
    let kubectl = instance.kubectl();
    kubectl.apply(&pod.to_string());
    kubectl.wait_pods_ready(&["pod/p"]);
    wait_for("the container to hear", 30, || {
        match folder.path().join("hears").exists() {
            true => Ok(()),
            false => Err("not yet"),
        }
    });
    instance.kill();
    let output = down(&data, &[]);
    assert!(output.contains("  p ended\n"), "{output}");
    assert_eq!(
        fs::read_to_string(order).expect("the order"),
        "hook\nUSR1\n"
    );
}

/// findings R5: a deleted store is not replaced. findings R17: a moved directory continues where a killed program left
/// it.
#[test]
fn a_directory_that_was_moved_goes_on_and_one_without_its_store_does_not() {
    // After the move, other servers do not know the directory, and could use its ranges.
    let ranges = ReservedRanges::reserve();
    let [pods, services] = ranges.arguments();
    let mut instance = Instance::start(&[&pods, &services]);
    let data = instance.data();
    instance.kubectl().ok(&["create", "configmap", "kept"]);
    let name = kernel_name(&data);
    instance.kill();
    assert!(!left_in_kernel(&data, &name).is_empty());
    let moved = data.with_file_name("moved");
    fs::rename(&data, &moved).expect("move the directory");
    let up = [
        "up",
        "--detach",
        "--data-dir",
        text(&moved),
        "--listen",
        "127.0.0.1:0",
    ];
    let output = mainstay(&up);
    assert!(output.status.success(), "{output:?}");
    let kubectl = end_to_end::Kubectl::new(&moved.join("kubeconfig"));
    kubectl.ok(&["get", "configmap", "kept"]);
    // findings U5: a second server detects the first.
    let error = refused(&up);
    assert!(error.contains("mainstay already runs on"), "{error}");
    down(&moved, &[]);
    assert_eq!(left_in_kernel(&moved, &name), Vec::<String>::new());

    fs::rename(&moved, &data).expect("move it back");
    let store = data.with_file_name("store");
    fs::rename(data.join("store"), &store).expect("take the store away");
    let error = instance.start_refused();
    assert!(error.contains("Is a disk not mounted?"), "{error}");
    assert!(!data.join("store").exists());
    fs::rename(&store, data.join("store")).expect("put the store back");
    instance.start_again();
    instance.kubectl().ok(&["get", "configmap", "kept"]);
}

/// findings R8: an error in a manifest stops no running pod, and starts none.
#[test]
fn a_mistake_in_a_manifest_stops_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("web.yaml");
    let good = web_with_claims(1);
    let mut bad = good.clone();
    bad["spec"]["replicas"] = (-1).into();
    fs::write(&file, bad.to_string()).expect("write");
    let mut instance = Instance::prepare(&["-f", text(&file)]);
    let error = instance.start_refused();
    assert!(error.contains("nothing was started"), "{error}");
    assert!(
        error.contains("must be greater than or equal to 0"),
        "{error}"
    );
    fs::write(&file, good.to_string()).expect("write");
    instance.start_again();
    instance.kubectl().wait_ready("web", 1);
    let before = instance.kubectl().pod_uid("web-0");
    fs::write(&file, bad.to_string()).expect("write");
    instance.kill();
    instance.start_again();
    wait_for("the refusal", 60, || match instance.output() {
        text if text.contains("existing objects continue to run") => Ok(()),
        text => Err(text),
    });
    assert_eq!(instance.kubectl().pod_uid("web-0"), before);
    instance.kubectl().wait_ready("web", 1);
}
