//! Start and size of the whole program: from process start to `ready`, memory with three pods.
//!
//! Prints medians; run it on an idle machine with `cargo xtask bench startup`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use end_to_end::process::{self, Memory};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Instance, binary, example};

pub(crate) fn bench() {
    start_to_ready();
    memory_with_three_pods();
}

/// The first start on an empty data directory, and later starts on a used one.
fn start_to_ready() {
    let [mut first, mut later] = [(); 2].map(|()| Sample::new("ms"));
    for _ in 0..sized(7, 2) {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        first.push_time(time_to_ready(&data));
        later.push_time(time_to_ready(&data));
    }
    println!("process start to ready, empty data directory: {first}");
    println!("process start to ready, used data directory: {later}");
}

fn time_to_ready(data: &Path) -> Duration {
    let started = Instant::now();
    let mut child = Command::new(binary())
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start mainstay");
    let output = child.stdout.take().expect("the output");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let ready = lines.any(|line| line.starts_with("mainstay: ready"));
    let elapsed = started.elapsed();
    assert!(ready, "the server ended before it was ready");
    interrupt(&mut child);
    // The output is read to its end, because otherwise the server could not write its last lines.
    lines.for_each(drop);
    child.wait().expect("reap the server");
    elapsed
}

fn interrupt(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("send SIGINT");
}

/// Resident memory of the server, and the private memory of each shim.
fn memory_with_three_pods() {
    let manifest = example("web.yaml");
    let instance = Instance::start(&["-f", manifest.to_str().expect("a path in UTF-8")]);
    instance.kubectl().wait_ready("web", 3);
    std::thread::sleep(Duration::from_secs(5));
    let server = process::memory(instance.pid()).resident;
    println!("resident memory of the server with three pods: {server:.1} MiB");
    for pid in process::shims(&instance.data()) {
        let Memory {
            private,
            proportional,
            ..
        } = process::memory(pid);
        println!("shim: {private:.1} MiB of its own, {proportional:.1} MiB proportional");
    }
}
