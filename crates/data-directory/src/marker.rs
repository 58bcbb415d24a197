//! The file that marks a data directory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The name of the marker file in the data directory.
pub const FILE: &str = "instance";
/// The format version that is written, and the newest version that can be read.
const FORMAT: u32 = 1;

/// The program to which the directory belongs.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// `mainstay up`: a cluster with one node.
    #[default]
    Up,
    /// `mainstay server`: a cluster with nodes on other machines.
    Server,
    /// `mainstay node`: a node of a server's cluster. The directory contains no store.
    Node,
}

impl Role {
    /// The command of the role.
    pub fn command(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Server => "server",
            Self::Node => "node",
        }
    }

    /// Whether a directory of this role may get the `requested` role: a cluster with one node can get more nodes.
    fn can_become(self, requested: Self) -> bool {
        self == requested || (self, requested) == (Self::Up, Self::Server)
    }
}

/// The location of the objects of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// The data directory.
    #[default]
    Embedded,
    /// An etcd, which several servers share.
    Etcd,
}

impl Engine {
    fn is_embedded(&self) -> bool {
        *self == Self::Embedded
    }
}

/// The content of the marker file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    format: u32,
    /// A UUID, which the record in the store contains, too.
    pub instance: String,
    /// Six hexadecimal digits that are part of every name of the instance in the kernel.
    pub kernel_name: String,
    /// Whether a cluster was started or joined, so that a store must exist.
    pub cluster: bool,
    /// The program of the last start.
    #[serde(default)]
    pub role: Role,
    /// The location of the objects.
    #[serde(default, skip_serializing_if = "Engine::is_embedded")]
    pub engine: Engine,
    /// The path of the directory at the last start; volumes contain it.
    pub path: PathBuf,
    /// The name of the host at the last start; nodes and volumes contain it.
    pub host: String,
}

/// The reason why a marker is invalid.
#[derive(Debug)]
pub enum MarkerError {
    /// The file cannot be read.
    Io(io::Error),
    /// A newer version of the program wrote the file.
    Newer,
    /// The file is not a marker.
    Damaged,
}

impl Marker {
    /// A marker for a directory without a marker. Before markers existed, the kernel name was computed from the path;
    /// it still is, so that the pods of such an instance are recognised.
    pub fn new(data: &Path, host: &str, used: &BTreeSet<String>) -> Self {
        Self {
            format: FORMAT,
            instance: uuid::Uuid::new_v4().to_string(),
            kernel_name: kernel_name(data, used),
            cluster: false,
            role: Role::Up,
            engine: Engine::Embedded,
            path: data.to_owned(),
            host: host.to_owned(),
        }
    }

    /// Reads the marker of a directory; `None` if it does not exist.
    pub fn read(data: &Path) -> Result<Option<Self>, MarkerError> {
        let bytes = match fs::read(data.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(MarkerError::Io(error)),
        };
        Self::parse(&bytes).map(Some)
    }

    fn parse(bytes: &[u8]) -> Result<Self, MarkerError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format = serde_json::from_slice::<Format>(bytes);
        match format.map_err(|_| MarkerError::Damaged)?.format {
            FORMAT => {}
            newer if newer > FORMAT => return Err(MarkerError::Newer),
            _ => return Err(MarkerError::Damaged),
        }
        let marker: Self = serde_json::from_slice(bytes).map_err(|_| MarkerError::Damaged)?;
        // The kernel name becomes a part of other names, so it must be safe.
        let digits = marker.kernel_name.bytes();
        let is_name = digits.len() == 6 && digits.clone().all(|digit| digit.is_ascii_hexdigit());
        is_name.then_some(marker).ok_or(MarkerError::Damaged)
    }

    /// Refuses a role that cannot use the data.
    ///
    /// # Errors
    /// The role of the data, and its command.
    pub fn check_role(&self, data: &Path, role: Role) -> Result<()> {
        if !self.cluster || self.role.can_become(role) {
            return Ok(());
        }
        bail!(
            "{data} belongs to `mainstay {role}`, and `mainstay {requested}` cannot use it: start \
             `mainstay {role}`, or choose another --data-dir",
            data = data.display(),
            role = self.role.command(),
            requested = role.command(),
        )
    }

    /// Writes the marker, unless it is up to date.
    pub fn write(&self, data: &Path) -> Result<()> {
        if matches!(Self::read(data), Ok(Some(present)) if present == *self) {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(self).context("encode the marker")?;
        crate::private_file::write(&data.join(FILE), &format!("{text}\n"))
    }
}

/// Six hexadecimal digits that are computed from the path, and unique on the machine.
pub fn kernel_name(data: &Path, used: &BTreeSet<String>) -> String {
    let name = |attempt: u32| {
        let mut digest = Sha256::new();
        digest.update(data.as_os_str().as_encoded_bytes());
        if attempt > 0 {
            digest.update(attempt.to_le_bytes());
        }
        let digest = digest.finalize();
        let bytes = digest.iter().take(3);
        bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let mut names = (0..).map(name);
    names
        .find(|name| !used.contains(name))
        .unwrap_or_else(|| name(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_apart_by_their_directory() {
        let name = |path: &str| kernel_name(Path::new(path), &BTreeSet::new());
        // `printf %s /var/lib/mainstay | sha256sum | cut -c1-6`, as in version 0.1.0.
        assert_eq!(name("/var/lib/mainstay").len(), 6);
        assert_ne!(name("/var/lib/mainstay"), name("/srv/mainstay"));
        let used = BTreeSet::from([name("/srv/mainstay")]);
        assert_ne!(
            kernel_name(Path::new("/srv/mainstay"), &used),
            name("/srv/mainstay")
        );
    }

    #[test]
    fn a_directory_has_one_role_while_it_has_data() {
        let data = Path::new("/d");
        let mut marker = Marker::new(data, "host", &BTreeSet::new());
        marker.role = Role::Node;
        marker.check_role(data, Role::Up).unwrap();
        marker.cluster = true;
        let all = [Role::Up, Role::Server, Role::Node];
        for (from, allowed) in [
            (Role::Up, &[Role::Up, Role::Server][..]),
            (Role::Server, &[Role::Server]),
            (Role::Node, &[Role::Node]),
        ] {
            marker.role = from;
            for to in all {
                let checked = marker.check_role(data, to);
                assert_eq!(checked.is_ok(), allowed.contains(&to), "{from:?} {to:?}");
            }
        }
        let refused = marker.check_role(data, Role::Up).unwrap_err().to_string();
        assert!(
            refused.contains("/d belongs to `mainstay node`"),
            "{refused}"
        );
        // Markers of earlier versions contain no role.
        let mut text = serde_json::to_value(&marker).unwrap();
        text.as_object_mut().unwrap().remove("role");
        let earlier = Marker::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(earlier.role, Role::Up);
    }

    #[test]
    fn what_is_no_marker_is_told_from_a_newer_one() {
        assert!(matches!(
            Marker::parse(b"{\"format\": 2}"),
            Err(MarkerError::Newer)
        ));
        assert!(matches!(
            Marker::parse(b"{\"format\": 1}"),
            Err(MarkerError::Damaged)
        ));
        assert!(matches!(
            Marker::parse(b"an instance"),
            Err(MarkerError::Damaged)
        ));
        let mut marker = Marker::new(Path::new("/d"), "host", &BTreeSet::new());
        let bytes = serde_json::to_vec(&marker).unwrap();
        assert_eq!(Marker::parse(&bytes).unwrap(), marker);
        marker.kernel_name = "../../".to_owned();
        let bytes = serde_json::to_vec(&marker).unwrap();
        assert!(matches!(Marker::parse(&bytes), Err(MarkerError::Damaged)));
    }
}
