//! Mounts of NFS exports through the kernel alone, without `mount.nfs`.
//!
//! The file system is created by `fsopen`, and is attached to a path only after its server has responded. So an
//! abandoned attempt leaves no mount, even after the end of this process.

mod options;

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

pub use options::{Export, MountPlan, OptionError, Parameter, Version, plan};

use options::{NextVersion, try_next};

/// Longest wait for a connection to the port of a server.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The error of an NFS mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// An option is refused.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The kernel does not support NFS.
    #[error(
        "the kernel of this node has no file system \"nfs\": its module \"nfs\" is missing or cannot be \
         loaded"
    )]
    NoModule,
    /// The name of the server cannot be resolved.
    #[error("the node cannot resolve the server {server:?}: {source}")]
    Name {
        /// The name.
        server: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The port of the server does not respond.
    #[error("the server of {export} does not answer on port {port}: {source}")]
    Away {
        export: String,
        port: u16,
        /// The error of the connection.
        source: io::Error,
    },
    /// The kernel or the server refused the mount.
    #[error("mount {export} by NFS {version}: {why}")]
    Refused {
        export: String,
        version: Version,
        /// The error, with the messages of the kernel if there are any.
        why: String,
    },
    /// The mount cannot be attached, or this machine lacks a resource.
    #[error("mount {doing}: {source}")]
    Here {
        /// The failed operation.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

/// A mounted export that is not attached to a path yet. Dropping the value unmounts it.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Mounts an export. The kernel may block the call while the server does not respond; see
    /// [`call_with_timeout`](crate::call_with_timeout).
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn mount(
        export: &Export,
        options: &[String],
        read_only: bool,
    ) -> Result<Detached, MountError> {
        check_length(export)?;
        let plan = plan(export, options, read_only)?;
        mount(export, &plan).map(Detached)
    }

    /// Attaches the mount to a directory.
    ///
    /// # Errors
    /// The directory cannot be a mount point.
    pub fn attach(self, target: &Path) -> Result<(), MountError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.0, "", CWD, target, flags).map_err(|error| MountError::Here {
            doing: format!("on {}", target.display()),
            source: error.into(),
        })
    }

    /// The file descriptor of the mounted root, not yet attached to a path.
    pub fn root(&self) -> &OwnedFd {
        &self.0
    }
}

/// Maximum length of a value of fsconfig(2): 256 bytes, including the final zero.
const SOURCE_BYTES_MAX: usize = 255;

fn check_length(export: &Export) -> Result<(), MountError> {
    let name = export.to_string();
    if name.len() <= SOURCE_BYTES_MAX {
        return Ok(());
    }
    let length = name.len();
    Err(MountError::Here {
        doing: name,
        source: io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("server and path have {length} bytes, and the kernel takes {SOURCE_BYTES_MAX}"),
        ),
    })
}

fn mount(export: &Export, plan: &MountPlan) -> Result<OwnedFd, MountError> {
    // Checked before any request to the server, because the kernel of the node may not support NFS.
    drop(open()?);
    let address = listening_address(export, plan.port)?;
    let mut versions = plan.versions.iter().copied().peekable();
    while let Some(version) = versions.next() {
        let refused = match create(export, plan, version, address) {
            Ok(mount) => return Ok(mount),
            Err(refused) => refused,
        };
        match try_next(version, refused.error) {
            Some(NextVersion::Three) => {
                while versions.next_if(|next| *next != Version::Three).is_some() {}
            }
            Some(NextVersion::Lower) => {}
            None => return Err(refused.into_error(export, version)),
        }
        if versions.peek().is_none() {
            return Err(refused.into_error(export, version));
        }
    }
    Err(MountError::NoModule)
}

fn open() -> Result<OwnedFd, MountError> {
    fsopen("nfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| match error {
        Errno::NODEV => MountError::NoModule,
        other => MountError::Here {
            doing: "nfs".to_owned(),
            source: other.into(),
        },
    })
}

/// The first address of the server that accepts a connection.
fn listening_address(export: &Export, port: Option<u16>) -> Result<IpAddr, MountError> {
    let server = export.server.trim_matches(['[', ']']);
    let addresses = (server, port.unwrap_or_default()).to_socket_addrs();
    let addresses = addresses.map_err(|source| MountError::Name {
        server: server.to_owned(),
        source,
    })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let Some(_) = port else {
            return Ok(address.ip());
        };
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(_) => return Ok(address.ip()),
            Err(error) => last = error,
        }
    }
    Err(MountError::Away {
        export: export.to_string(),
        port: port.unwrap_or_default(),
        source: last,
    })
}

/// A refusal by the kernel.
struct Refused {
    error: Errno,
    /// The messages of the kernel.
    messages: String,
}

impl Refused {
    fn into_error(self, export: &Export, version: Version) -> MountError {
        let why = match self.error {
            Errno::ACCESS => "access denied by the server".to_owned(),
            Errno::NOENT => "the server has no such directory".to_owned(),
            Errno::PROTONOSUPPORT => "the server or this kernel lacks the version".to_owned(),
            other => io::Error::from(other).to_string(),
        };
        MountError::Refused {
            export: export.to_string(),
            version,
            why: match self.messages.is_empty() {
                true => why,
                false => format!("{why} ({})", self.messages),
            },
        }
    }
}

fn create(
    export: &Export,
    plan: &MountPlan,
    version: Version,
    address: IpAddr,
) -> Result<OwnedFd, Refused> {
    let without_message = |error| Refused {
        error,
        messages: String::new(),
    };
    let context = fsopen("nfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(without_message)?;
    let configure = || {
        fsconfig_set_string(&context, "source", export.to_string())?;
        for (key, value) in plan.parameters(version, address) {
            match value {
                Some(value) => fsconfig_set_string(&context, key, value)?,
                None => fsconfig_set_flag(&context, key)?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, plan.attributes)
    };
    configure().map_err(|error| Refused {
        error,
        messages: kernel_messages(context),
    })
}

/// The messages of the kernel about the creation of a file system; a letter at the start of each message is its
/// severity.
fn kernel_messages(context: OwnedFd) -> String {
    let mut context = File::from(context);
    let mut lines = Vec::new();
    let mut buffer = [0; 512];
    // Each read returns one message; an error follows the last message.
    while let Ok(length @ 1..) = context.read(&mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        let line = line.split_once(' ').map_or(line.as_str(), |(_, text)| text);
        lines.push(line.to_owned());
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 I1
    #[test]
    fn an_export_that_is_too_long_for_the_kernel_is_refused_with_its_length() {
        let export = Export {
            server: "127.0.0.1".to_owned(),
            path: format!("/{}", "d".repeat(255)),
        };
        let failed = Detached::mount(&export, &[], false).unwrap_err();
        assert!(
            matches!(&failed, MountError::Here { source, .. }
            if source.to_string().contains("266 bytes")),
            "{failed}"
        );
    }

    /// As root, on a kernel with NFS, the error is that the server is missing.
    #[test]
    fn a_kernel_without_nfs_and_a_server_that_is_away_are_named() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let export = Export {
            server: "127.0.0.1".to_owned(),
            path: "/srv".to_owned(),
        };
        let failed = Detached::mount(&export, &[format!("port={port}")], false).unwrap_err();
        let text = failed.to_string();
        match failed {
            MountError::NoModule => assert!(text.contains("module \"nfs\""), "{text}"),
            MountError::Away { .. } => assert!(text.contains(&port.to_string()), "{text}"),
            other => panic!("{other}"),
        }
    }
}
