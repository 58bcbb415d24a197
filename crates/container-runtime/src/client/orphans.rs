//! Kills the processes of sandboxes whose records are lost, or come from a backup.
//!
//! The directory of sandboxes records the created sandboxes. The control groups and the shims show the
//! running ones. A second instance of a pod must not be created while an instance without a record runs. A
//! shim cannot be called without its socket, so its processes are killed and not adopted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;
use crate::error::{Result, RuntimeError};
use crate::state_dir::SANDBOXES;

/// Maximum time until a killed shim has exited.
const SHIM_END_MAX: Duration = Duration::from_secs(10);

/// The name prefix of a pod's control group.
const POD: &str = "pod";

/// The control group of a pod below the parent group of all pods.
pub(crate) fn pod_group(parent: &str, id: &str) -> String {
    format!("{parent}/{POD}{id}")
}

/// The control group that all shims share.
pub(crate) fn shim_group(parent: &str) -> String {
    format!("{parent}/shims")
}

/// Ids of all sandboxes that have a shim or a control group.
pub(crate) fn ids(parent: &str) -> Result<BTreeSet<String>> {
    let mut ids = ids_of_groups(parent)?;
    let group = shim_group(parent);
    let shims = cgroup::processes(&group).map_err(RuntimeError::io("read", &group))?;
    ids.extend(shims.into_iter().filter_map(id_of_shim));
    Ok(ids)
}

/// Ids of all sandboxes that have a control group.
pub(crate) fn ids_of_groups(parent: &str) -> Result<BTreeSet<String>> {
    let groups = cgroup::children(parent);
    let groups = groups.map_err(RuntimeError::io("list control groups of", parent))?;
    let ids = groups.iter().filter_map(|name| name.strip_prefix(POD));
    Ok(ids.map(str::to_owned).collect())
}

/// Kills the shims and processes of a sandbox, and removes its control group. Blocks.
pub(crate) fn end(parent: &str, id: &str) -> Result<()> {
    end_shims(parent, id)?;
    let group = pod_group(parent, id);
    cgroup::kill(&group).map_err(RuntimeError::io("kill control group", &group))?;
    cgroup::remove(&group).map_err(RuntimeError::io("remove control group", &group))
}

/// Kills the shims of a sandbox whose id matches, in any state directory. Blocks.
pub(crate) fn end_shims(parent: &str, id: &str) -> Result<()> {
    let group = shim_group(parent);
    let until = Instant::now() + SHIM_END_MAX;
    loop {
        let all = cgroup::processes(&group).map_err(RuntimeError::io("read", &group))?;
        let is_its_shim = |pid: &i32| id_of_shim(*pid).is_some_and(|of| of == id);
        let left: Vec<i32> = all.into_iter().filter(is_its_shim).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(RuntimeError::Shim(format!(
                "shim {} cannot be killed",
                left[0]
            )));
        }
        for pid in left {
            tracing::warn!(sandbox = id, pid, "a shim without a record is ended");
            // The shim may just have exited, so there is no process to kill.
            if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                tracing::debug!(pid, %error, "shim has ended");
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The id of a shim's sandbox: the last argument of the shim is the directory of its sandbox.
fn id_of_shim(pid: i32) -> Option<String> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let last = arguments
        .split(|byte| *byte == 0)
        .rfind(|part| !part.is_empty())?;
    let last = String::from_utf8_lossy(last);
    let dir = Path::new(last.as_ref());
    let is_of_sandbox = dir.parent().and_then(Path::file_name)? == SANDBOXES;
    let id = dir.file_name()?.to_string_lossy();
    is_of_sandbox.then(|| id.into_owned())
}
