//! The processes of a pod and of a server, as the host lists them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Kubectl, text};

/// The process of that program in the pod, and not in a pod of that name of another instance.
///
/// # Panics
///
/// There is no such process.
#[track_caller]
pub fn of_pod(kubectl: &Kubectl, pod: &str, program: &str) -> Pid {
    let uid = text(&kubectl.pod(pod), "/metadata/uid").to_owned();
    let processes = fs::read_dir("/proc").expect("read /proc");
    let candidates = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}"));
            read("comm").is_ok_and(|comm| comm.trim_end() == program)
                && read("cgroup").is_ok_and(|groups| groups.contains(&uid))
        });
    Pid::from_raw(candidates.unwrap_or_else(|| panic!("{program} does not run in {pod} ({uid})")))
}

/// Kills that process as the kernel does when memory is exhausted.
///
/// # Panics
///
/// The process does not run.
#[track_caller]
pub fn kill_in_pod(kubectl: &Kubectl, pod: &str, program: &str) {
    kill(of_pod(kubectl, pod, program), Signal::SIGKILL).expect("send SIGKILL");
}

/// The control group of all pods of the server to which the pod of the process belongs.
///
/// # Panics
///
/// The process is in no such group.
#[track_caller]
pub fn control_group(pid: Pid) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a running process");
    let mut parts = groups.lines().flat_map(|line| line.split('/'));
    let group = parts.find(|part| part.starts_with("mainstay-"));
    group.expect("the group of a server").to_owned()
}

/// The memory of a process in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All resident memory (`Rss`).
    pub resident: f64,
    /// Resident memory, in which shared pages are divided among their processes (`Pss`).
    pub proportional: f64,
    /// Pages that are not shared with another process. Pages of the program count while no second process runs it.
    pub private: f64,
    /// Pages without a file: allocated memory.
    pub anonymous: f64,
}

/// The memory of a process.
///
/// # Panics
/// The process does not run.
#[track_caller]
pub fn memory(pid: i32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running process");
    let mib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
        f64::from(number.unwrap_or_else(|| panic!("{name} {text}"))) / 1024.0
    };
    Memory {
        resident: mib("Rss:"),
        proportional: mib("Pss:"),
        private: mib("Private_Clean:") + mib("Private_Dirty:"),
        anonymous: mib("Anonymous:"),
    }
}

/// The processor time of a process, including its ended threads.
///
/// # Panics
///
/// The process does not run.
#[track_caller]
pub fn processor_time(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The name, which may contain any character, is in parentheses; user and system time are the twelfth and thirteenth
    // words after it, in hundredths of a second.
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    let hundredths: u64 = ticks.filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(hundredths * 10)
}

/// The shims of the server on that data directory.
///
/// # Panics
/// The processes cannot be listed.
pub fn shims(data: &Path) -> Vec<i32> {
    let data = data.to_string_lossy();
    let processes = fs::read_dir("/proc").expect("read /proc");
    let mut pids: Vec<i32> = processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let is_shim = line.split('\0').nth(1) == Some("shim");
            (is_shim && line.contains(data.as_ref())).then_some(pid)
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// Kills the shims of the server on that data directory, as if its machine were lost.
///
/// # Panics
/// The processes cannot be listed, or a signal is refused.
#[track_caller]
pub fn kill_shims(data: &Path) {
    for shim in shims(data) {
        match kill(Pid::from_raw(shim), Signal::SIGKILL) {
            // A shim may exit after it was listed.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("kill the shim {shim}: {error}"),
        }
    }
}
