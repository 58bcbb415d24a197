//! The built-in images have a shell and `tar`, so that users can inspect a pod without a registry (findings U8).

use std::fs;

use end_to_end::{Instance, Kubectl, Shell, example, text, wait_for};

fn with_the_demo() -> (Instance, Kubectl) {
    let manifest = example("web.yaml");
    let instance = Instance::start(&["-f", manifest.to_str().expect("a path in UTF-8")]);
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 3);
    (instance, kubectl)
}

/// findings U8: a shell in the demo, with and without a terminal; files in both directions.
#[test]
fn the_demo_has_a_shell_and_tar() {
    let (instance, kubectl) = with_the_demo();
    let printed = kubectl.ok(&[
        "exec",
        "web-0",
        "--",
        "sh",
        "-c",
        "hostname; ls / | grep data",
    ]);
    assert_eq!(printed, "web-0\ndata\n");
    let output = kubectl.run(&["exec", "web-0", "--", "sh", "-c", "exit 3"]);
    assert_eq!(output.code, 3, "{output:?}");
    let input = "read line\nfrom the test\necho \"got $line\"\n";
    let printed = kubectl.ok_with_input(&["exec", "-i", "web-0", "--", "sh"], input);
    assert_eq!(printed, "got from the test\n");
    let typed = "echo sum-$((6*7))\nnslookup web-1.web | grep Name\nexit 4\n";
    let reported = kubectl.on_terminal(&["exec", "-it", "web-0", "--", "sh"], typed);
    assert_eq!(reported.code, 4, "{reported:#?}");
    assert!(reported.stdout.contains("sum-42"), "{reported:#?}");
    assert!(reported.stdout.contains("/ # "), "{reported:#?}");
    let name = "Name:      web-1.web.default.svc.cluster.local";
    assert!(reported.stdout.contains(name), "{reported:#?}");
    let page = kubectl.ok(&[
        "exec",
        "web-0",
        "--",
        "wget",
        "-q",
        "-O",
        "-",
        "http://web-2.web/",
    ]);
    assert!(page.contains("Hello from web-2"), "{page}");

    // Files of the host are copied, too.
    let directory = instance.data().with_file_name("files");
    fs::create_dir_all(directory.join("from/inside")).expect("make a directory");
    fs::write(directory.join("from/inside/file"), "kept\n").expect("write a file");
    let shell = Shell::new(&instance, directory.clone());
    shell.ok("kubectl cp from web-0:/data/copied");
    let printed = kubectl.ok(&["exec", "web-0", "--", "cat", "/data/copied/inside/file"]);
    assert_eq!(printed, "kept\n");
    shell.ok("kubectl cp web-0:/data/copied back");
    let back = fs::read_to_string(directory.join("back/inside/file"));
    assert_eq!(back.expect("the file is back"), "kept\n");
}

/// findings U8: a debug container with a shell, and a shell in a separate pod, which stops at once.
#[test]
fn the_debug_image_is_at_hand() {
    let (_instance, kubectl) = with_the_demo();
    let image = "--image=mainstay/debug";
    let typed = "tr '\\0' ' ' </proc/1/cmdline; echo; ps | grep -c hello; exit 5\n";
    let debug = [
        "debug",
        "-it",
        "web-0",
        image,
        "--target=hello",
        "-c",
        "look",
    ];
    let printed = kubectl.on_terminal(&debug, typed);
    assert!(printed.stdout.contains("/mainstay hello"), "{printed:#?}");
    wait_for("the end of the shell", 60, || {
        let pod = kubectl.get_for_wait(&["pod", "web-0"])?;
        let state = &pod["status"]["ephemeralContainerStatuses"][0]["state"];
        match state["terminated"]["exitCode"].as_i64() {
            Some(5) => Ok(()),
            _ => Err(state.clone()),
        }
    });

    let run = ["run", "-it", "--rm", "look", image, "--restart=Never"];
    let printed = kubectl.on_terminal(&run, "curl -s http://web-1.web/\nid -u\nexit\n");
    assert!(printed.stdout.contains("Hello from web-1"), "{printed:#?}");
    assert!(
        printed.stdout.contains("pod \"look\" deleted"),
        "{printed:#?}"
    );

    // The API server from inside a pod, with the pod's account. The command waits for its input, which comes when
    // kubectl is attached, because earlier output is not printed.
    let script = "read -r go && cd /var/run/secrets/kubernetes.io/serviceaccount && \
                  curl -s --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" \
                  https://kubernetes.default.svc/version";
    let run = [
        "run",
        "-i",
        "--rm",
        "ask",
        image,
        "--restart=Never",
        "--",
        "sh",
        "-c",
        script,
    ];
    let printed = kubectl.ok_with_input(&run, "go\n");
    assert!(printed.contains("gitVersion"), "{printed}");

    // The process exits on the first signal, not on the last.
    let run = ["run", "sleeps", image, "--", "sleep", "1000"];
    kubectl.ok(&run);
    kubectl.wait_pods_ready(&["pod/sleeps"]);
    let before = kubectl.pod("sleeps");
    assert_eq!(text(&before, "/spec/containers/0/image"), "mainstay/debug");
    kubectl.ok(&[
        "delete",
        "pod",
        "sleeps",
        "--grace-period=600",
        "--timeout=300s",
    ]);
}
