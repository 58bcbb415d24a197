//! Another program replaces the program that started the pods, as a package manager does: it adopts the pods unchanged,
//! and all operations on a pod still work.

use std::fs;
use std::path::PathBuf;

use end_to_end::registry::curl;
use end_to_end::{Instance, Kubectl, example, process, text, wait_for};
use host_kernel::mount_table;

/// The identity of the running container and of its start.
fn identity(kubectl: &Kubectl, pod: &str) -> String {
    let pod = kubectl.pod(pod);
    let container = &pod["status"]["containerStatuses"][0];
    let id = text(&pod, "/status/containerStatuses/0/containerID");
    let started = &container["state"]["running"]["startedAt"];
    format!("{id} {started} {}", container["restartCount"])
}

#[test]
fn pods_outlive_the_program_that_started_them() {
    let manifest = example("web.yaml");
    let mut instance = Instance::start_copy(&["-f", manifest.to_str().expect("a path in UTF-8")]);
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 3);
    let identities = || ["web-0", "web-1", "web-2"].map(|pod| identity(&kubectl, pod));
    let before = identities();
    let address = kubectl.pod_ip("web-0");

    instance.kill();
    instance.exchange();
    curl(&["--fail", &format!("http://{address}/")]).expect("the container goes on");
    instance.start_again();
    kubectl.wait_ready("web", 3);
    assert_eq!(identities(), before);

    let version = kubectl.ok(&["exec", "web-0", "--", "/mainstay", "version"]);
    assert!(version.starts_with("mainstay "), "{version}");
    let log = kubectl.ok(&["logs", "web-0"]);
    assert!(log.contains("web-0 listens on"), "{log}");
    // Pods of the former program end, and are replaced by pods of that name.
    kubectl.ok(&["delete", "pod", "web-1"]);
    kubectl.wait_ready("web", 3);
    let after = identities();
    assert_ne!(after[1], before[1]);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    kubectl.ok(&["scale", "sts", "web", "--replicas=1"]);
    wait_for("the other pods to be deleted", 60, || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]);
        if left.trim() == "pod/web-0" {
            Ok(())
        } else {
            Err(left)
        }
    });
    assert_eq!(identity(&kubectl, "web-0"), before[0]);
}

/// The UID of the pod and the identity of its process, which are unique for all time.
fn process_of(kubectl: &Kubectl, pod: &str) -> String {
    let uid = text(&kubectl.pod(pod), "/metadata/uid").to_owned();
    let pid = process::of_pod(kubectl, pod, "mainstay");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The name, which may contain any character, is in parentheses; the twentieth word after it is the time of the
    // start.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let started = after.split_whitespace().nth(19).unwrap_or_default();
    format!("{uid} {} {pid} {started}", identity(kubectl, pod))
}

/// An upgrade as a service manager does it: SIGTERM, another program, a start.
#[test]
fn a_service_manager_exchanges_the_program_under_the_pods() {
    let manifest = example("web.yaml");
    let manifest = manifest.to_str().expect("a path in UTF-8");
    let mut instance = Instance::start_copy(&["-f", manifest, "--on-stop=leave-pods"]);
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 3);
    kubectl.ok(&["expose", "pod", "web-0", "--name=first", "--port=80"]);
    let service = kubectl.json(&["get", "service", "first"]);
    let url = format!("http://{}/", text(&service, "/spec/clusterIP"));
    let responds = || curl(&["--fail", "--max-time", "5", &url]);
    wait_for("the Service", 30, responds);
    let processes = || ["web-0", "web-1", "web-2"].map(|pod| process_of(&kubectl, pod));
    let before = processes();
    let mounted = instance_mounts(&instance);
    assert!(!mounted.is_empty());

    for _ in 0..2 {
        let shims = process::shims(&instance.data());
        assert!(instance.terminate().success(), "{}", instance.output());
        let output = instance.output();
        assert!(
            output.contains("mainstay: leaving the pods running"),
            "{output}"
        );
        // No server runs, and all processes that serve the pods continue.
        assert_eq!(process::shims(&instance.data()), shims);
        assert_eq!(instance_mounts(&instance), mounted);
        responds().expect("the Service without the program");
        instance.exchange();
        instance.start_again();
        kubectl.wait_ready("web", 3);
        assert_eq!(processes(), before);
        assert_eq!(instance_mounts(&instance), mounted);
        responds().expect("the Service with the new program");
    }
    kubectl.ok(&["exec", "web-1", "--", "/mainstay", "version"]);

    // The command `down` stops the pods.
    let output = instance.down();
    assert!(output.ends_with("stopped\n"), "{output}");
    assert!(process::shims(&instance.data()).is_empty());
    assert_eq!(instance_mounts(&instance), Vec::<PathBuf>::new());
    responds().expect_err("the rules of Services are deleted");
}

/// The mounts below the data directory.
fn instance_mounts(instance: &Instance) -> Vec<PathBuf> {
    let mounts = mount_table::read().expect("the mounts");
    let mut below = mount_table::at_or_below(&mounts, &instance.data());
    below.sort_unstable();
    below
}
