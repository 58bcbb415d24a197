//! Preparation of a container: its root, its mounts and its user.

use std::fs;
use std::path::Path;

use host_kernel::mount_table;

use super::devices;
use super::mapped_mounts::{self, MountDepth};
use super::rootfs;
use super::user_namespace::UserNamespace;
use super::users::{self, UserAccount};
use super::worker::{ContainerPaths, WorkerReport, remove};
use crate::id_range::{IDS_PER_POD, IdRange};
use crate::propagation;
use crate::protocol::Failure;
use crate::shim::confinement::{proc_guard, seccomp_profile};
use crate::spec::{
    ContainerSpec, Device, Mount, MountSource, Propagation, Seccomp, StartError, StartErrorKind,
};

/// Mounts a container's root and looks up its user.
pub(crate) fn create(
    spec: &ContainerSpec,
    paths: &ContainerPaths,
    users: Option<&UserNamespace>,
) -> WorkerReport {
    match prepare(spec, paths, users) {
        Ok(account) => WorkerReport::Created { user: account.user },
        Err(error) => {
            // Removes an incomplete container. If that fails, `remove` or `destroy` removes it later.
            if let WorkerReport::Failed(second) = remove(paths, Some(spec)) {
                tracing::debug!(?second, "clean-up of a failed creation");
            }
            WorkerReport::Failed(Failure::Start(error))
        }
    }
}

fn prepare(
    spec: &ContainerSpec,
    paths: &ContainerPaths,
    users: Option<&UserNamespace>,
) -> Result<UserAccount, StartError> {
    rootfs::mount_overlay(&spec.rootfs, &paths.root(), users)
        .map_err(|error| mount_error(error.to_string()))?;
    for (index, mount) in spec.mounts.iter().enumerate() {
        let target = paths.staged().join(index.to_string());
        prepare_mount(mount, &target, users)?;
    }
    for device in spec
        .devices
        .iter()
        .filter(|device| !devices::is_in_dev(device))
    {
        create_device(device, &paths.root(), users)?;
    }
    if let Seccomp::Localhost(path) = &spec.security.seccomp {
        // The profile is read again when the command starts; here, its errors are reported early.
        seccomp_profile::program(path).map_err(|error| StartError {
            kind: StartErrorKind::Other,
            message: error.to_string(),
        })?;
    }
    let account = account(spec, paths)?;
    match users {
        Some(users) => check_ids(&account, users.ids).map(|()| account),
        None => Ok(account),
    }
}

/// Checks that a container's user and groups exist in the pod's range of ids.
fn check_ids(account: &UserAccount, ids: IdRange) -> Result<(), StartError> {
    let user = &account.user;
    let mut all = [user.uid, user.gid].into_iter().chain(user.groups.clone());
    match all.find(|id| ids.on_node(*id).is_none()) {
        None => Ok(()),
        Some(id) => Err(StartError {
            kind: StartErrorKind::Other,
            message: format!(
                "user or group {id} is none of the pod's user namespace, which has 0 to {} \
                 (hostUsers: false)",
                IDS_PER_POD - 1
            ),
        }),
    }
}

fn is_bidirectional(source: &MountSource) -> bool {
    matches!(
        source,
        MountSource::Bind {
            propagation: Propagation::Bidirectional,
            ..
        }
    )
}

/// Opens the source of a mount, or builds it at `target`.
fn prepare_mount(
    mount: &Mount,
    target: &Path,
    users: Option<&UserNamespace>,
) -> Result<(), StartError> {
    check_mount(mount, users)?;
    match &mount.source {
        MountSource::Tmpfs { .. } => Ok(()),
        MountSource::Layers {
            lowerdirs,
            sub_path,
        } => {
            let whole = target.with_extension("layers");
            rootfs::mount_layers(lowerdirs, &whole, users)
                .map_err(|error| mount_error(error.to_string()))?;
            let sub_path = sub_path.as_deref().unwrap_or(Path::new("."));
            // The ids of this mount are mapped already.
            bind_sub_path(&whole, sub_path, target, None)
        }
        MountSource::Bind {
            path,
            sub_path: Some(sub_path),
            ..
        } => bind_sub_path(path, sub_path, target, users),
        MountSource::Bind { path, .. } => {
            let prepared = match users {
                None => fs::symlink_metadata(path).map(drop),
                Some(_) => mapped_mounts::find(path)
                    .and_then(|file| mapped_mounts::bind(&file, target, MountDepth::All, users)),
            };
            prepared.map_err(|error| {
                let (path, to) = (path.display(), mount.destination.display());
                mount_error(format!("mount {path} to {to}: {error}"))
            })
        }
    }
}

/// Checks that the path and the options of the mount are allowed.
fn check_mount(mount: &Mount, users: Option<&UserNamespace>) -> Result<(), StartError> {
    proc_guard::check_destination(mount).map_err(|error| mount_error(error.to_string()))?;
    if users.is_some() && is_bidirectional(&mount.source) {
        // The kernel accepts no mounts from namespaces with fewer rights.
        let to = mount.destination.display();
        return Err(mount_error(format!(
            "mount to {to}: mountPropagation Bidirectional needs the node's users \
             (hostUsers: true)"
        )));
    }
    check_propagation(&mount.source)
}

fn mount_error(message: String) -> StartError {
    StartError {
        kind: StartErrorKind::Mount,
        message,
    }
}

/// Checks that the mount of the node supports the propagation of the source.
fn check_propagation(source: &MountSource) -> Result<(), StartError> {
    let MountSource::Bind {
        path, propagation, ..
    } = source
    else {
        return Ok(());
    };
    if *propagation == Propagation::Private {
        return Ok(());
    }
    let failed = |error: std::io::Error| {
        mount_error(format!("read the mounts of {}: {error}", path.display()))
    };
    let resolved = fs::canonicalize(path).map_err(failed)?;
    let table = mount_table::read().map_err(failed)?;
    propagation::check_propagation(&table, &resolved, *propagation)
        .map_err(|error| mount_error(error.to_string()))
}

/// Creates a device node in a root. A file of the image at its path is replaced.
fn create_device(
    device: &Device,
    root: &Path,
    users: Option<&UserNamespace>,
) -> Result<(), StartError> {
    let (from, to) = (device.host_path.display(), device.container_path.display());
    if users.is_some() {
        return Err(mount_error(format!(
            "device {from} at {to}: needs the node's users (hostUsers: true)"
        )));
    }
    let failed =
        |error: &dyn std::fmt::Display| mount_error(format!("device {from} at {to}: {error}"));
    let node = devices::node(device).map_err(|error| failed(&error))?;
    rootfs::make_node(root, &node).map_err(|error| failed(&error))
}

fn bind_sub_path(
    volume: &Path,
    sub_path: &Path,
    target: &Path,
    users: Option<&UserNamespace>,
) -> Result<(), StartError> {
    rootfs::bind_sub_path(volume, sub_path, target, users).map_err(|error| {
        let (volume, sub) = (volume.display(), sub_path.display());
        StartError {
            kind: StartErrorKind::SubPath,
            message: format!("prepare subPath {sub} of {volume}: {error}"),
        }
    })
}

/// The user of a container, looked up in the user files of the image.
pub(crate) fn account(
    spec: &ContainerSpec,
    paths: &ContainerPaths,
) -> Result<UserAccount, StartError> {
    let read = |path| {
        rootfs::read_inside(&paths.root(), path).map_err(|error| StartError {
            kind: StartErrorKind::Other,
            message: format!("read the image's /{path}: {error}"),
        })
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    users::resolve(&spec.user, &passwd, &group).map_err(|error| StartError {
        kind: StartErrorKind::UserNotFound,
        message: error.to_string(),
    })
}
