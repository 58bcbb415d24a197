//! The content of a sandbox's directory.
//!
//! ```text
//! <state_dir>/sandboxes/<id>/
//!     sandbox.json            the sandbox's specification, written before the shim starts
//!     lock                    record lock that the shim holds as long as it runs
//!     shim.sock  shim.log
//!     containers/<id>/
//!         spec.json           the container's specification
//!         state.json          created, running, or the exit
//!         bundle/             the mount point of the container's root
//! ```
//!
//! Every file is written under another name, synced and renamed, so that no reader finds an incomplete
//! file.

use std::fs;
use std::io;
use std::path::Path;

use host_kernel::durable_file::{self, Durability};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id_range::IdRange;
use crate::spec::{ContainerState, SandboxSpec};

/// Version of the file format.
pub(crate) const VERSION: u32 = 1;
pub(crate) const SANDBOXES: &str = "sandboxes";
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const CONTAINERS: &str = "containers";
pub(crate) const SPEC_FILE: &str = "spec.json";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const BUNDLE: &str = "bundle";
/// The line that a shim writes to its standard output when its socket is open.
pub(crate) const READY: &str = "ready";

/// The content of `sandbox.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxFile {
    pub version: u32,
    /// Control group of the pod, for all controllers.
    pub cgroup: String,
    /// Control group of all shims, so that the memory of a shim does not count for its pod, and the limits
    /// of the pod do not affect the shim.
    pub shim_cgroup: String,
    pub created_at: Timestamp,
    /// The node's ids for the pod's user namespace. The ids are reserved while this file exists.
    #[serde(default)]
    pub ids: Option<IdRange>,
    pub spec: SandboxSpec,
}

impl SandboxFile {
    pub fn read(dir: &Path) -> io::Result<SandboxFile> {
        let file: SandboxFile = read_json(&dir.join(SANDBOX_FILE))?;
        if file.version > VERSION {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("written by a newer version ({} > {VERSION})", file.version),
            ));
        }
        Ok(file)
    }

    pub fn write(&self, dir: &Path) -> io::Result<()> {
        write_json(&dir.join(SANDBOX_FILE), self, Durability::Name)
    }
}

/// Reads the recorded states of a sandbox's containers. Unreadable states are left out.
pub(crate) fn read_containers(dir: &Path) -> Vec<ContainerState> {
    let Ok(entries) = fs::read_dir(dir.join(CONTAINERS)) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| read_json(&entry.ok()?.path().join(STATE_FILE)).ok())
        .collect()
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

pub(crate) fn write_json<T: Serialize>(
    path: &Path,
    value: &T,
    durability: Durability,
) -> io::Result<()> {
    durable_file::replace(path, &serde_json::to_vec(value)?, 0o600, durability)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::Reply;
    use crate::spec::{ContainerSpec, ContainerStatus};

    /// The files and the response of version 0.1.0 for a running pod. Shims of that version survive an
    /// upgrade, so later versions have to decode them.
    #[test]
    fn what_an_earlier_version_wrote_is_understood() {
        let sandbox = include_str!("../tests/formats/sandbox.json");
        let sandbox: SandboxFile = serde_json::from_str(sandbox).unwrap();
        assert!(sandbox.version <= VERSION);
        assert_eq!(
            sandbox.cgroup,
            "/mainstay-9b1851/pod0834df1c-abcc-4cb7-bd0b-5552de6412f1"
        );
        assert!(sandbox.spec.share_process_namespace);
        assert_eq!(sandbox.spec.hostname, "rich");

        let spec = include_str!("../tests/formats/spec.json");
        let spec: ContainerSpec = serde_json::from_str(spec).unwrap();
        assert_eq!((spec.id.as_str(), spec.user.uid), ("main-2", Some(1000)));
        assert_eq!(spec.resources.memory_bytes, Some(128 << 20));
        assert!(spec.tty && spec.security.no_new_privileges && spec.rootfs.read_only);

        let reply: Reply =
            serde_json::from_str(include_str!("../tests/formats/reply.json")).unwrap();
        let Reply::State(state) = reply else {
            panic!("{reply:?}")
        };
        let codes: BTreeMap<_, _> = state
            .containers
            .iter()
            .map(|(id, container)| match &container.status {
                ContainerStatus::Exited(exit) => (id.as_str(), Some(exit.code)),
                _ => (id.as_str(), None),
            })
            .collect();
        assert_eq!(
            codes,
            BTreeMap::from([("first-0", Some(0)), ("main-2", Some(1)), ("side-0", None)])
        );
    }
}
