//! The processes of sandboxes that stop with the Lease of their node.

use std::fs;
use std::io;
use std::path::Path;

use crate::cgroup;
use crate::state_dir::{SANDBOXES, SandboxFile};

/// Whether a sandbox that stops with the node's Lease has a process, including killed processes that wait
/// for a device. `state_dir` is the state directory of the runtime.
///
/// # Errors
/// A record or a control group cannot be read.
pub fn leased_processes_are_there(state_dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(state_dir.join(SANDBOXES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let file = match SandboxFile::read(&entry?.path()) {
            // A directory without a file belongs to a sandbox that has started no process.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        if file.spec.lease.is_some() && !cgroup::processes(&file.cgroup)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
