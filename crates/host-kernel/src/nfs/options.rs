//! The parameters of an NFS mount in the form of the kernel: a pure function of the mount options.
//!
//! The parser of the kernel (`fs/nfs/fs_context.c`) checks the values. This module does the part that `mount` and
//! `mount.nfs` (nfs(5)) do before: it separates the options of the mount from the options of the file system, and tries
//! versions in order.

use std::fmt;
use std::net::IpAddr;

use rustix::mount::MountAttrFlags;

use crate::mount_options::{self, OptionRefusal};

/// A directory that an NFS server exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Name or address of the server.
    pub server: String,
    /// The directory, from the root of the server's exports.
    pub path: String,
}

impl fmt::Display for Export {
    /// Writes the export in the form of mount tables, with an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, path } = self;
        match server.contains(':') && !server.starts_with('[') {
            true => write!(f, "[{server}]:{path}"),
            false => write!(f, "{server}:{path}"),
        }
    }
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 4 with a minor version.
    Four(u8),
    Three,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Four(minor) => write!(f, "4.{minor}"),
            Self::Three => f.write_str("3"),
        }
    }
}

/// The versions that options allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AllowedVersions {
    Any,
    Four,
    Exactly(Version),
}

/// One parameter. A parameter without a value is a flag.
pub type Parameter = (String, Option<String>);

/// The parameters of `fsconfig` and `fsmount` for a mount of NFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// The versions, in the order in which they are tried.
    pub versions: Vec<Version>,
    /// The parameters, without version and address.
    pub parameters: Vec<Parameter>,
    /// Attributes of the mount, such as read-only.
    pub attributes: MountAttrFlags,
    /// The port that must accept a connection before the kernel is called; `None` over UDP or RDMA.
    pub port: Option<u16>,
}

/// The reason why an option is refused before the call of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An option that is refused for every file system.
    #[error(transparent)]
    Refused(#[from] OptionRefusal),
    /// The kernel does not support the version.
    #[error("mount option \"{0}\" names no version of NFS that is served: 3, 4, 4.0, 4.1, 4.2")]
    Version(String),
    /// An invalid port.
    #[error("mount option \"{0}\" is no port")]
    Port(String),
    /// The kernel would misinterpret the server's name or path.
    #[error("\"{0}\" is no {1}")]
    Export(String, &'static str),
}

/// Options of fstab and of `mount.nfs` itself. The agent's own retries replace the retries of `mount.nfs`.
const NOT_THE_KERNELS: &[&str] = &[
    "", "_netdev", "auto", "bg", "defaults", "fg", "group", "noauto", "nofail", "nouser", "owner",
    "retry", "rw", "user", "users",
];

/// The port of NFS, and the port of the portmapper, which knows the ports of version 3.
const NFS_PORT: u16 = 2049;
const PORTMAPPER: u16 = 111;

/// Plans the mount of an export.
///
/// # Errors
/// An option that is not allowed for a volume.
pub fn plan(
    export: &Export,
    options: &[String],
    read_only: bool,
) -> Result<MountPlan, OptionError> {
    check(export)?;
    mount_options::check(options)?;
    let mut parameters: Vec<Parameter> = Vec::new();
    let mut attributes = MountAttrFlags::empty();
    let (mut allowed, mut minor) = (AllowedVersions::Any, None);
    let (mut read_only, mut port, mut tcp) = (read_only, None, true);
    for option in options
        .iter()
        .flat_map(|options| mount_options::split(options))
    {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        if NOT_THE_KERNELS.contains(&key) {
            continue;
        }
        if let Some((bits, set)) = attribute(key) {
            attributes.set(bits, set);
            continue;
        }
        match (key, value) {
            ("ro", None) => read_only = true,
            ("vers" | "nfsvers", Some(version)) => allowed = parse_version(version, option)?,
            ("v3" | "v4" | "v4.0" | "v4.1" | "v4.2", None) => {
                allowed = parse_version(&key[1..], option)?;
            }
            ("minorversion", Some(text)) => {
                let supported = text.parse().ok().filter(|minor| *minor <= 2);
                minor = Some(supported.ok_or_else(|| OptionError::Version(option.to_owned()))?);
            }
            _ => {
                if let ("port", Some(text)) = (key, value) {
                    let parsed = text.parse();
                    port = Some(parsed.map_err(|_| OptionError::Port(option.to_owned()))?);
                }
                if let ("proto", Some(protocol)) = (key, value) {
                    tcp = protocol.starts_with("tcp");
                }
                tcp &= !matches!(key, "udp" | "rdma");
                parameters.push((key.to_owned(), value.map(str::to_owned)));
            }
        }
    }
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        parameters.push(("ro".to_owned(), None));
    }
    let allowed = match (allowed, minor) {
        (AllowedVersions::Any | AllowedVersions::Four, Some(minor)) => {
            AllowedVersions::Exactly(Version::Four(minor))
        }
        (allowed, _) => allowed,
    };
    let versions = match allowed {
        AllowedVersions::Any => vec![
            Version::Four(2),
            Version::Four(1),
            Version::Four(0),
            Version::Three,
        ],
        AllowedVersions::Four => vec![Version::Four(2), Version::Four(1), Version::Four(0)],
        AllowedVersions::Exactly(version) => vec![version],
    };
    let requested_port = port.filter(|port| *port != 0);
    let port = match allowed {
        AllowedVersions::Exactly(Version::Three) => requested_port.unwrap_or(PORTMAPPER),
        _ => requested_port.unwrap_or(NFS_PORT),
    };
    Ok(MountPlan {
        versions,
        parameters,
        attributes,
        port: tcp.then_some(port),
    })
}

impl MountPlan {
    /// The parameters for one version and one address of the server, in the order of the kernel calls.
    pub fn parameters(&self, version: Version, address: IpAddr) -> Vec<Parameter> {
        let negotiated = [
            ("vers".to_owned(), Some(version.to_string())),
            ("addr".to_owned(), Some(address.to_string())),
        ];
        self.parameters.iter().cloned().chain(negotiated).collect()
    }
}

fn check(export: &Export) -> Result<(), OptionError> {
    let bad = |text: &str, what| Err(OptionError::Export(text.to_owned(), what));
    let server = export.server.trim_matches(['[', ']']);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if server.is_empty() || !server.chars().all(plain) {
        return bad(&export.server, "server");
    }
    let control = |c: char| c.is_control();
    match export.path.starts_with('/') && !export.path.contains(control) {
        true => Ok(()),
        false => bad(&export.path, "path of an export"),
    }
}

fn parse_version(version: &str, option: &str) -> Result<AllowedVersions, OptionError> {
    Ok(match version {
        "3" => AllowedVersions::Exactly(Version::Three),
        "4" => AllowedVersions::Four,
        "4.0" => AllowedVersions::Exactly(Version::Four(0)),
        "4.1" => AllowedVersions::Exactly(Version::Four(1)),
        "4.2" => AllowedVersions::Exactly(Version::Four(2)),
        _ => return Err(OptionError::Version(option.to_owned())),
    })
}

/// The mount attribute that an option changes, and whether the option sets it (mount(8)).
fn attribute(option: &str) -> Option<(MountAttrFlags, bool)> {
    Some(match option {
        "nosuid" => (MountAttrFlags::MOUNT_ATTR_NOSUID, true),
        "suid" => (MountAttrFlags::MOUNT_ATTR_NOSUID, false),
        "nodev" => (MountAttrFlags::MOUNT_ATTR_NODEV, true),
        "dev" => (MountAttrFlags::MOUNT_ATTR_NODEV, false),
        "noexec" => (MountAttrFlags::MOUNT_ATTR_NOEXEC, true),
        "exec" => (MountAttrFlags::MOUNT_ATTR_NOEXEC, false),
        "noatime" => (MountAttrFlags::MOUNT_ATTR_NOATIME, true),
        "atime" | "relatime" => (MountAttrFlags::MOUNT_ATTR__ATIME, false),
        "strictatime" => (MountAttrFlags::MOUNT_ATTR_STRICTATIME, true),
        "nodiratime" => (MountAttrFlags::MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (MountAttrFlags::MOUNT_ATTR_NODIRATIME, false),
        _ => return None,
    })
}

/// The version to try after an error of the kernel, as `mount.nfs` decides (`nfs_autonegotiate`).
pub fn try_next(version: Version, error: rustix::io::Errno) -> Option<NextVersion> {
    use rustix::io::Errno;
    match (version, error) {
        (Version::Three, _) => None,
        // The server or the kernel does not support the version; the errors differ.
        (_, Errno::PROTONOSUPPORT | Errno::INVAL | Errno::ACCESS) => Some(NextVersion::Lower),
        // Old servers do not export a root of version 4, or refuse the version.
        (_, Errno::NOENT | Errno::PERM) => Some(NextVersion::Three),
        _ => None,
    }
}

/// The next version to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextVersion {
    /// The next lower version.
    Lower,
    /// Version 3, if it is allowed.
    Three,
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn export() -> Export {
        Export {
            server: "10.0.0.1".to_owned(),
            path: "/srv".to_owned(),
        }
    }

    fn planned(options: &[&str]) -> Result<MountPlan, OptionError> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        plan(&export(), &options, false)
    }

    fn text(parameters: &[Parameter]) -> String {
        let one = |(key, value): &Parameter| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        parameters.iter().map(one).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn versions_are_tried_from_the_newest_unless_one_is_named() {
        use Version::{Four, Three};
        let versions = |options: &[&str]| planned(options).unwrap().versions;
        assert_eq!(versions(&[]), [Four(2), Four(1), Four(0), Three]);
        assert_eq!(versions(&["vers=4"]), [Four(2), Four(1), Four(0)]);
        assert_eq!(versions(&["nfsvers=3"]), [Three]);
        assert_eq!(versions(&["v4.1", "hard"]), [Four(1)]);
        assert_eq!(versions(&["vers=4,minorversion=0"]), [Four(0)]);
        for bad in ["vers=2", "nfsvers=5", "minorversion=9"] {
            let refused = planned(&[bad]).unwrap_err();
            assert_eq!(refused, OptionError::Version(bad.to_owned()));
        }
    }

    #[test]
    fn the_kernel_gets_its_options_and_the_mount_its_attributes() {
        let options = [
            "defaults,_netdev,hard",
            "nosuid",
            "timeo=600",
            "retry=2,noatime",
            "bg",
        ];
        let plan = planned(&options).unwrap();
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(
            text(&plan.parameters(Version::Four(2), address)),
            "hard,timeo=600,vers=4.2,addr=10.0.0.1"
        );
        let expected = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME;
        assert_eq!(plan.attributes, expected);
        let labelled = planned(&["context=\"u:r:t:s0:c1,c2\",soft"]).unwrap();
        assert_eq!(
            text(&labelled.parameters),
            "context=\"u:r:t:s0:c1,c2\",soft"
        );
        let undone = planned(&["nosuid,suid,noatime,relatime"]).unwrap();
        assert!(undone.attributes.is_empty());
    }

    #[test]
    fn a_read_only_volume_stays_so() {
        let plan = plan(&export(), &["rw".to_owned()], true).unwrap();
        assert_eq!(text(&plan.parameters), "ro");
        assert_eq!(plan.attributes, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert_eq!(planned(&["ro"]).unwrap(), plan);
    }

    #[test]
    fn options_that_lead_elsewhere_are_refused() {
        for bad in [
            "bind",
            "remount",
            "addr=10.9.9.9",
            "source=/dev/sda",
            "x-mount.mkdir",
        ] {
            let refused = planned(&["hard", bad]).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("mount option \"{bad}\" is not for a volume")
            );
        }
        for (server, path) in [
            ("", "/a"),
            ("a,b", "/a"),
            ("a b", "/a"),
            ("a", "b"),
            ("a", "/\n"),
        ] {
            let export = Export {
                server: server.to_owned(),
                path: path.to_owned(),
            };
            let refused = plan(&export, &[], false);
            assert!(matches!(refused, Err(OptionError::Export(..))), "{export}");
        }
    }

    #[test]
    fn the_port_that_must_answer_is_that_of_the_version() {
        let port = |options: &[&str]| planned(options).unwrap().port;
        assert_eq!(port(&[]), Some(2049));
        assert_eq!(port(&["port=1234"]), Some(1234));
        assert_eq!(port(&["vers=3"]), Some(111));
        assert_eq!(port(&["vers=3,port=2049,mountport=20048"]), Some(2049));
        assert_eq!(port(&["vers=3,udp"]), None);
        assert_eq!(port(&["proto=rdma"]), None);
        assert!(planned(&["port=x"]).is_err());
    }

    #[test]
    fn an_address_of_version_6_stands_in_brackets() {
        let named = |server: &str| {
            Export {
                server: server.to_owned(),
                ..export()
            }
            .to_string()
        };
        assert_eq!(named("fd00::1"), "[fd00::1]:/srv");
        assert_eq!(named("[fd00::1]"), "[fd00::1]:/srv");
        assert_eq!(named("files.example"), "files.example:/srv");
    }

    #[test]
    fn a_server_without_a_version_is_asked_for_the_next() {
        let four = Version::Four(2);
        assert_eq!(
            try_next(four, Errno::PROTONOSUPPORT),
            Some(NextVersion::Lower)
        );
        assert_eq!(try_next(four, Errno::NOENT), Some(NextVersion::Three));
        assert_eq!(try_next(four, Errno::TIMEDOUT), None);
        assert_eq!(try_next(Version::Three, Errno::ACCESS), None);
    }
}
