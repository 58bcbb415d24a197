//! The devices of all specifications, by their full names. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::CdiError;
use super::spec::{CdiEdits, CdiSpec};

/// A file in one of the directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiFile {
    pub path: String,
    /// The position of its directory; a device of a later directory replaces one of an earlier directory.
    pub priority: usize,
    /// The specification, or the reason why it is not valid.
    pub content: Result<CdiSpec, String>,
}

/// The file of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    File {
        index: usize,
        priority: usize,
    },
    /// Several files of one directory have the device.
    Conflict {
        priority: usize,
    },
}

impl Owner {
    fn priority(self) -> usize {
        match self {
            Self::File { priority, .. } | Self::Conflict { priority } => priority,
        }
    }
}

/// The devices of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CdiIndex {
    files: Vec<CdiFile>,
    owners: BTreeMap<String, Owner>,
}

impl CdiIndex {
    pub fn new(files: Vec<CdiFile>) -> Self {
        let mut owners: BTreeMap<String, Owner> = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            let Ok(spec) = &file.content else { continue };
            let priority = file.priority;
            for device in &spec.devices {
                let name = format!("{}={}", spec.kind, device.name);
                let owner = match owners.get(&name).map(|owner| owner.priority()) {
                    Some(former) if former > priority => continue,
                    Some(former) if former == priority => Owner::Conflict { priority },
                    _ => Owner::File { index, priority },
                };
                owners.insert(name, owner);
            }
        }
        Self { files, owners }
    }

    /// The edits for a container with these devices. The edits of a file come once, before those of its first device.
    ///
    /// # Errors
    /// No valid file has a device, or several files have it.
    pub fn edits(&self, devices: &[String]) -> Result<CdiEdits, CdiError> {
        let mut edits = CdiEdits::default();
        let mut files = BTreeSet::new();
        let mut unresolvable = Vec::new();
        let mut resolved = BTreeSet::new();
        for name in devices.iter().filter(|name| resolved.insert(*name)) {
            let Some((index, spec)) = self.spec_of(name) else {
                unresolvable.push(name.clone());
                continue;
            };
            if files.insert(index) {
                edits.extend(&spec.container_edits);
            }
            let is_named = |device: &&str| name.rsplit('=').next() == Some(*device);
            for device in &spec.devices {
                if is_named(&device.name.as_str()) {
                    edits.extend(&device.container_edits);
                }
            }
        }
        if unresolvable.is_empty() {
            return Ok(edits);
        }
        let invalid = self.files.iter().filter_map(|file| {
            let error = file.content.as_ref().err()?;
            Some(format!("{}: {error}", file.path))
        });
        Err(CdiError::Unresolvable {
            devices: unresolvable,
            invalid: invalid.collect(),
        })
    }

    fn spec_of(&self, name: &str) -> Option<(usize, &CdiSpec)> {
        let Owner::File { index, .. } = self.owners.get(name)? else {
            return None;
        };
        let spec = self.files.get(*index)?.content.as_ref().ok()?;
        Some((*index, spec))
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::CdiDevice;
    use super::*;

    fn edits(env: &str) -> CdiEdits {
        CdiEdits {
            env: vec![env.to_owned()],
            ..CdiEdits::default()
        }
    }

    fn file(path: &str, priority: usize, devices: &[&str]) -> CdiFile {
        let device = |name: &&str| CdiDevice {
            name: (*name).to_owned(),
            container_edits: edits(&format!("{name}={path}")),
            ..CdiDevice::default()
        };
        CdiFile {
            path: path.to_owned(),
            priority,
            content: Ok(CdiSpec {
                kind: "v/c".to_owned(),
                devices: devices.iter().map(device).collect(),
                container_edits: edits(&format!("file={path}")),
                ..CdiSpec::default()
            }),
        }
    }

    fn env(index: &CdiIndex, names: &[&str]) -> Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let edits = index.edits(&names);
        edits
            .map(|edits| edits.env)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_later_directory_comes_first_and_the_edits_of_a_file_come_once() {
        let index = CdiIndex::new(vec![
            file("etc", 0, &["a", "b"]),
            file("run", 1, &["b", "d"]),
        ]);
        assert_eq!(
            env(&index, &["v/c=a", "v/c=b", "v/c=d", "v/c=a"]).unwrap(),
            ["file=etc", "a=etc", "file=run", "b=run", "d=run"]
        );
        assert_eq!(env(&index, &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_device_that_is_missing_or_ambiguous_is_named_with_the_invalid_files() {
        let broken = CdiFile {
            path: "/etc/cdi/x.json".to_owned(),
            priority: 0,
            content: Err("cut off".to_owned()),
        };
        let index = CdiIndex::new(vec![
            file("one", 0, &["a", "b"]),
            broken,
            file("two", 0, &["b"]),
        ]);
        let error = env(&index, &["v/c=a", "v/c=b", "v/c=z"]).unwrap_err();
        assert_eq!(
            error,
            "unresolvable CDI devices v/c=b, v/c=z; not readable: /etc/cdi/x.json: cut off"
        );
    }
}
