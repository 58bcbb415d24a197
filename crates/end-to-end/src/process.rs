//! The processes of a pod, as the host sees them.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Kubectl, text};

/// The process of that program in the pod: the pod's own, not one of another instance's pod of the
/// same name.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn of_pod(kubectl: &Kubectl, pod: &str, program: &str) -> Pid {
    let uid = text(&kubectl.pod(pod), "/metadata/uid").to_owned();
    let processes = fs::read_dir("/proc").expect("read /proc");
    let found = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}"));
            read("comm").is_ok_and(|comm| comm.trim_end() == program)
                && read("cgroup").is_ok_and(|groups| groups.contains(&uid))
        });
    Pid::from_raw(found.unwrap_or_else(|| panic!("{program} does not run in {pod} ({uid})")))
}

/// Kills that process as the kernel does when memory runs out.
///
/// # Panics
/// When it does not run.
#[track_caller]
pub fn kill_in_pod(kubectl: &Kubectl, pod: &str, program: &str) {
    kill(of_pod(kubectl, pod, program), Signal::SIGKILL).expect("send SIGKILL");
}
