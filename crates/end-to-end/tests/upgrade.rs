//! Another program takes the place of the one that started the pods, as a package manager puts it
//! there: it finds the pods as they are, and all that can be done with a pod still can.

use end_to_end::registry::curl;
use end_to_end::{Instance, Kubectl, example, text, wait_for};

/// Which container of which start runs.
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
    // Pods of the former program end, and are followed by others of the same name.
    kubectl.ok(&["delete", "pod", "web-1"]);
    kubectl.wait_ready("web", 3);
    let after = identities();
    assert_ne!(after[1], before[1]);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    kubectl.ok(&["scale", "sts", "web", "--replicas=1"]);
    wait_for("the other pods to be gone", 60, || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]);
        if left.trim() == "pod/web-0" {
            Ok(())
        } else {
            Err(left)
        }
    });
    assert_eq!(identity(&kubectl, "web-0"), before[0]);
}
