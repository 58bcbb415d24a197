//! `nfs` volumes: an export of a server, mounted by the kernel for one pod.
//!
//! The module never reads an existing mount: each read would wait for the server, and would never end if
//! the mount is `hard`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_kernel::mount_table::{self, MountPoint};
use host_kernel::nfs::{Detached, Export, MountError};
use host_kernel::{
    Interrupted, TimedCallError, blocking, call_with_timeout, call_with_timeout_blocking,
};
use k8s_openapi::api::core::v1::NFSVolumeSource;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::prepared::Prepared;

/// Time limit of a mount.
const MOUNT_MAX: Duration = Duration::from_secs(60);

/// Time limit of an unmount that writes pending data of the kernel.
const UNMOUNT_MAX: Duration = Duration::from_secs(10);

/// The reason why an export is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum NfsVolumeError {
    #[error("make {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("read the mounts: {0}")]
    Mounts(io::Error),
    /// The server does not respond.
    #[error("mount {export}: {source}")]
    Call {
        export: String,
        source: TimedCallError,
    },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Mounts the export of a volume at `target`. Does nothing if the export is mounted there.
pub(super) async fn prepare(
    target: PathBuf,
    source: &NFSVolumeSource,
    options: Vec<String>,
    read_only: bool,
) -> Result<Prepared, NfsVolumeError> {
    let export = Export {
        server: source.server.clone(),
        path: source.path.clone(),
    };
    let path = target.clone();
    let mount_point = blocking(move || free_mount_point(&path)).await?;
    if let Some(mount_point) = mount_point {
        let key = format!("mount {}", target.display());
        let export_name = export.to_string();
        let work = move || Detached::mount(&export, &options, read_only);
        let detached_mount = call_with_timeout(key, MOUNT_MAX, work).await;
        let detached_mount = detached_mount.map_err(|source| NfsVolumeError::Call {
            export: export_name,
            source,
        })??;
        // The mount is attached only after it has succeeded. A mount that succeeds after the pod was
        // removed would never be unmounted.
        blocking(move || Ok::<_, NfsVolumeError>(detached_mount.attach(&mount_point)?)).await?;
    }
    Ok(Prepared {
        path: target,
        read_only,
        remote: true,
        ..Prepared::default()
    })
}

/// The path to mount at; `None` if a mount exists there already.
fn free_mount_point(target: &Path) -> Result<Option<PathBuf>, NfsVolumeError> {
    let parent = target.parent().unwrap_or(target);
    let create_error = |source: io::Error| NfsVolumeError::Create {
        path: target.to_owned(),
        source,
    };
    fs::create_dir_all(parent).map_err(create_error)?;
    let parent = fs::canonicalize(parent).map_err(create_error)?;
    let path = parent.join(target.file_name().unwrap_or_default());
    let table = mount_table::read().map_err(NfsVolumeError::Mounts)?;
    if table.iter().any(|mount| mount.path == path) {
        return Ok(None);
    }
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(create_error(error)),
        _ => Ok(Some(path)),
    }
}

/// Whether the files of a mount are on a remote machine.
pub(super) fn is_remote(mount: &MountPoint) -> bool {
    matches!(mount.file_system.as_str(), "nfs" | "nfs4" | "ceph")
}

/// Unmounts a volume whose server may not respond. The mount is detached from its directory at once. Then
/// the kernel writes or discards the pending data, as the options `hard` and `soft` say.
///
/// # Errors
/// The kernel rejected the unmount.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let flags = MntFlags::UMOUNT_NOFOLLOW;
    let mount_point = target.to_owned();
    let work = move || match umount2(&mount_point, flags) {
        Err(Errno::EBUSY) => umount2(&mount_point, flags | MntFlags::MNT_DETACH),
        result => result,
    };
    match call_with_timeout_blocking(format!("unmount {}", target.display()), UNMOUNT_MAX, work) {
        Ok(Ok(()) | Err(Errno::EINVAL | Errno::ENOENT)) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(TimedCallError::TimedOut) => {
            tracing::warn!(volume = %target.display(), "the server of the volume does not answer: the newest data is not written yet");
            Ok(())
        }
        Err(TimedCallError::Failed(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_mounts_are_recognised_by_their_file_system() {
        let table = mount_table::parse(
            b"1 0 0:50 / /a rw - nfs4 s:/x rw\n2 0 0:51 / /b rw - nfs s:/x rw\n\
              3 0 8:1 / /c rw - ext4 /dev/sda rw\n4 0 0:52 / /d rw - nfsd nfsd rw\n",
        );
        let remote: Vec<bool> = table.iter().map(is_remote).collect();
        assert_eq!(remote, [true, true, false, false]);
    }

    /// Needs root.
    #[test]
    fn an_existing_mount_stays_and_a_missing_mount_is_no_error() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("volumes/data");
        fs::create_dir_all(&target).unwrap();
        let tmpfs = Some("tmpfs");
        nix::mount::mount(
            tmpfs,
            &target,
            tmpfs,
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        assert_eq!(free_mount_point(&target).unwrap(), None);
        for _ in 0..2 {
            unmount(&target).unwrap();
        }
        assert_eq!(
            free_mount_point(&target).unwrap().unwrap(),
            fs::canonicalize(&target).unwrap()
        );
    }
}
