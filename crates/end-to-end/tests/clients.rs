//! Tours by client libraries of other projects; each is a program in its own language, which fails if the server
//! behaves differently from the client's expectations.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use end_to_end::{Instance, tool};

fn tour(name: &str) -> PathBuf {
    let tours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    tours.join(name)
}

/// Runs a program until it exits, with its output in that of the test.
#[track_caller]
pub fn run_client(command: &mut Command) {
    let output = command
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("start the program");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
}

/// The official Python client: typed, dynamic and custom objects, patches, watch, exec,
/// port-forward, reviews.
#[test]
fn the_python_client() {
    let instance = Instance::start(&[]);
    let mut python = Command::new(tool("python").join("bin/python"));
    let kubeconfig = instance.data().join("kubeconfig");
    run_client(python.arg(tour("tour.py")).arg(kubeconfig));
}

/// The official JavaScript client: typed and custom objects, patches, informer, exec,
/// port-forward, reviews.
#[test]
fn the_javascript_client() {
    let instance = Instance::start(&[]);
    let mut node = Command::new("node");
    let kubeconfig = instance.data().join("kubeconfig");
    run_client(
        node.arg(tour("tour.mjs"))
            .arg(kubeconfig)
            .arg(tool("javascript")),
    );
}
