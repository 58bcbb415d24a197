//! Kills all processes of a control group.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::{Hierarchies, KILL_MAX, join, tree};

/// Sends `SIGKILL` once to every present process of a group and of its child groups.
pub(crate) fn kill_once(group: &str) -> io::Result<()> {
    for pid in processes_in(Hierarchies::mounted()?, group)? {
        send_kill(pid);
    }
    Ok(())
}

fn send_kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    // The process may have exited since it was listed.
    if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
        tracing::debug!(%pid, %error, "not killed");
    }
}

/// Kills every process of a group and of its child groups, repeatedly until no process is left.
pub(crate) fn kill(group: &str) -> io::Result<()> {
    let until = Instant::now() + KILL_MAX;
    let hierarchies = Hierarchies::mounted()?;
    if let Hierarchies::Unified(root) = hierarchies {
        // One write kills all processes, even those that fork. Older kernels do not have this file.
        match fs::write(join(root, group).join("cgroup.kill"), "1") {
            Ok(()) => {}
            Err(error) => tracing::debug!(group, %error, "no cgroup.kill"),
        }
    }
    loop {
        let left = processes_in(hierarchies, group)?;
        if left.is_empty() {
            return Ok(());
        }
        left.into_iter().for_each(send_kill);
        thaw(hierarchies, group);
        if Instant::now() > until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "processes do not end",
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Thaws frozen processes of version 1: the freezer delays even `SIGKILL`.
fn thaw(hierarchies: &Hierarchies, group: &str) {
    let Some(dir) = hierarchies.v1_dir("freezer", group) else {
        return;
    };
    // Parent groups first: a group below a frozen group stays frozen.
    for dir in tree(&dir).unwrap_or_default() {
        if let Err(error) = fs::write(dir.join("freezer.state"), "THAWED") {
            tracing::debug!(dir = %dir.display(), %error, "not thawed");
        }
    }
}

/// Process ids of a group and of its child groups, in all hierarchies.
pub(super) fn processes_in(hierarchies: &Hierarchies, group: &str) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for root in hierarchies.roots() {
        for dir in tree(&join(root, group))? {
            let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) else {
                continue;
            };
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    // The id 0 means a process of another process namespace.
    pids.retain(|pid| *pid > 0);
    Ok(pids)
}
