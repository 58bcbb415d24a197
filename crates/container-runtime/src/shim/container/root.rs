//! The construction of a container's root from its plan.
//!
//! The code runs in the process that becomes the container's first process. Below the root, all paths are
//! opened as descriptors (see [`inside`]), and mounts are attached to the descriptors. Paths of the node
//! are trusted, because the agent has created them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use host_kernel::descriptors;
use host_kernel::mounts::{
    Attributes, NO_DEVICES, NO_EXECUTION, NO_SETUID, READ_ONLY, set_attributes,
};
use nix::mount::{MntFlags, umount2};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::devices::NULL;
use super::inside::{self, SymlinkPolicy};
use super::mapped_mounts::{self, MountDepth};
use super::root_plan::{RootMount, RootPlan, RootSource};
use super::rootfs;
use crate::spec::{Propagation, StartError, StartErrorKind};

/// Attributes of mounts that cover a path or make it read-only.
const COVER: u64 = READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXECUTION;

/// Device number of the null device.
const NULL_NUMBER: (u32, u32) = (1, 3);

/// Builds a container's root and enters it, in a private mount namespace.
///
/// # Errors
/// A step of the plan has failed; the error names the step.
pub(crate) fn enter(plan: &RootPlan) -> Result<(), StartError> {
    // The sources are copied before the process leaves the node's mount namespace, because the copies would
    // lose their propagation afterwards.
    let system = prepare(&plan.system)?;
    let volumes = prepare(&plan.volumes)?;
    let root = mapped_mounts::cut_off()
        .and_then(|()| mount_root(&plan.root))
        .map_err(failed("mount the container's root"))?;
    for (mount, tree) in plan.system.iter().zip(&system) {
        attach(&root, mount, tree, SymlinkPolicy::Refused)?;
    }
    for node in &plan.devices {
        // The directory is in a file system that was just created.
        inside::directory(&root, parent(&node.path), SymlinkPolicy::Refused)
            .map_err(io::Error::from)
            .and_then(|dir| rootfs::make_node_in(&dir, node))
            .map_err(failed(&format!("make {}", node.path.display())))?;
    }
    for (target, path) in plan.links {
        link(&root, target, Path::new(path)).map_err(failed(&format!("make {path}")))?;
    }
    // The null device is opened before the volumes are attached, because a volume may cover it.
    let null = null_device(&root).map_err(failed("open /dev/null"))?;
    for (mount, tree) in plan.volumes.iter().zip(&volumes) {
        attach(&root, mount, tree, SymlinkPolicy::Followed)?;
    }
    for path in &plan.write_protected {
        write_protect(&root, path).map_err(failed(&format!("mount {path} read-only")))?;
    }
    mask(&root, &null, plan.masked)?;
    use_null(&null).map_err(failed("open /dev/null"))?;
    pivot(&root).map_err(failed("enter the container's root"))?;
    set(&root, 0, access(plan.read_only), shared(plan.shared))
        .map_err(failed("mount the container's root"))
}

fn access(read_only: bool) -> u64 {
    match read_only {
        true => READ_ONLY,
        false => 0,
    }
}

fn shared(shared: bool) -> u64 {
    match shared {
        true => libc::MS_SHARED,
        false => 0,
    }
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> StartError {
    let doing = doing.to_owned();
    move |error| StartError {
        kind: StartErrorKind::Mount,
        message: format!("{doing}: {error}"),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Prepares detached mounts for the planned file systems.
fn prepare(planned: &[RootMount]) -> Result<Vec<OwnedFd>, StartError> {
    let trees = planned
        .iter()
        .map(|mount| make(mount).map_err(mount_failed(mount)));
    trees.collect()
}

fn make(mount: &RootMount) -> io::Result<OwnedFd> {
    match &mount.source {
        RootSource::New {
            kind,
            options,
            or_else,
        } => match (new(kind, options, mount.attributes), or_else) {
            (Err(_), Some(path)) => {
                let tree = clone_mounts(path, MountDepth::One)?;
                finish(&tree, mount, Propagation::Private).map(|()| tree)
            }
            (result, _) => result,
        },
        RootSource::Tree {
            path,
            depth,
            propagation,
        } => {
            let tree = clone_mounts(path, *depth)?;
            finish(&tree, mount, *propagation).map(|()| tree)
        }
    }
}

fn mount_failed(mount: &RootMount) -> impl FnOnce(io::Error) -> StartError {
    let what = match &mount.source {
        RootSource::New { kind, .. } => Path::new(*kind),
        RootSource::Tree { path, .. } => path,
    };
    let doing = format!("mount {} to {}", what.display(), mount.to.display());
    move |error| match error.raw_os_error() {
        Some(libc::ELOOP) => failed(&doing)(io::Error::other(
            "symbolic links on the way lead where nothing may be mounted",
        )),
        _ => failed(&doing)(error),
    }
}

/// A detached copy of the mounts at a path of the node.
fn clone_mounts(path: &Path, depth: MountDepth) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, depth == MountDepth::All);
    Ok(open_tree(CWD, path, flags)?)
}

/// Sets the attributes and the propagation of a detached mount tree.
fn finish(tree: &OwnedFd, mount: &RootMount, propagation: Propagation) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        // The tree stays shared.
        Propagation::Bidirectional => 0,
    };
    set(
        tree,
        libc::AT_RECURSIVE,
        mount.attributes_below,
        propagation,
    )?;
    set(tree, 0, mount.attributes, 0)
}

fn set(tree: &OwnedFd, flags: libc::c_int, attributes: u64, propagation: u64) -> io::Result<()> {
    if attributes == 0 && propagation == 0 {
        return Ok(());
    }
    let changes = Attributes {
        set: attributes,
        propagation,
        ..Attributes::default()
    };
    set_attributes(tree, &changes, flags)
}

/// Mounts the root over itself, so that it can become the root of this process even if another namespace
/// owns the mount below. Returns the new mount.
fn mount_root(path: &Path) -> io::Result<OwnedFd> {
    let root = clone_mounts(path, MountDepth::All)?;
    set(&root, libc::AT_RECURSIVE, 0, libc::MS_PRIVATE)?;
    move_mount(
        &root,
        "",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(root)
}

/// Attaches the mounts in the root; missing mount points are created.
fn attach(
    root: &OwnedFd,
    mount: &RootMount,
    tree: &OwnedFd,
    links: SymlinkPolicy,
) -> Result<(), StartError> {
    let mount_point = || {
        let is_directory = File::from(tree.try_clone()?).metadata()?.is_dir();
        let opened = match is_directory {
            true => inside::directory(root, &mount.to, links),
            false => inside::file(root, &mount.to, links),
        };
        Ok(opened?)
    };
    mount_point()
        .and_then(|target| put(tree, &target).map_err(|error| mismatch(tree, &target, error)))
        .map_err(mount_failed(mount))
}

/// The error of a mount of a file on a directory, or the reverse. The kernel has no specific error number
/// for it.
fn mismatch(tree: &OwnedFd, target: &OwnedFd, error: io::Error) -> io::Error {
    let is_directory = |file: &OwnedFd| {
        let file = File::from(file.try_clone()?);
        file.metadata().map(|metadata| metadata.is_dir())
    };
    match (is_directory(tree), is_directory(target)) {
        (Ok(true), Ok(false)) => io::Error::other("a directory cannot be mounted over a file"),
        (Ok(false), Ok(true)) => io::Error::other("a file cannot be mounted over a directory"),
        _ => error,
    }
}

/// A new detached file system.
fn new(kind: &str, options: &[(&'static str, String)], attributes: u64) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, value.as_str()).map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("option {name}={value}: {error}"))
        })?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Attaches a mount tree to an open path.
fn put(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let by_descriptors =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", by_descriptors)?)
}

fn link(root: &OwnedFd, target: &str, path: &Path) -> io::Result<()> {
    let dir = inside::directory(root, parent(path), SymlinkPolicy::Refused)?;
    let name = path.file_name().unwrap_or_default();
    match rustix::fs::symlinkat(target, &dir, name) {
        // A device that the pod requested may have this name.
        Err(Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

/// The container's null device.
fn null_device(root: &OwnedFd) -> io::Result<OwnedFd> {
    let null = inside::find(root, Path::new(NULL), SymlinkPolicy::Refused)?;
    match is_null(&null)? {
        true => Ok(null),
        false => Err(io::Error::other("it is not the null device")),
    }
}

fn is_null(file: impl AsFd) -> io::Result<bool> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    let number = metadata.rdev();
    let is_number = (libc::major(number), libc::minor(number)) == NULL_NUMBER;
    Ok(metadata.file_type().is_char_device() && is_number)
}

/// Replaces the node's null device by the container's in the standard streams.
fn use_null(null: &OwnedFd) -> io::Result<()> {
    // The device is reopened through its descriptor, because a volume may cover its path.
    let name = format!("/proc/self/fd/{}", null.as_raw_fd());
    for stream in 0..=2 {
        // SAFETY: the standard streams are open in every process of the shim, and are not closed here.
        let stream_file = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream) };
        if is_null(stream_file)? {
            let reopened = File::options().read(true).write(true).open(&name)?;
            descriptors::replace_stream(stream, &reopened)?;
        }
    }
    Ok(())
}

/// Mounts a path over itself, read-only. A missing path is no error.
fn write_protect(root: &OwnedFd, path: &str) -> io::Result<()> {
    let file = match inside::find(root, Path::new(path), SymlinkPolicy::Refused) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let tree = mapped_mounts::copy(&file, MountDepth::All)?;
    set(&tree, libc::AT_RECURSIVE, COVER, libc::MS_PRIVATE)?;
    put(&tree, &file)
}

/// Covers directories by an empty file system, and files by the null device. A missing path is no error.
fn mask(root: &OwnedFd, null: &OwnedFd, paths: &[&str]) -> Result<(), StartError> {
    let mut empty = None;
    for path in paths {
        cover(root, null, &mut empty, path).map_err(failed(&format!("mount over {path}")))?;
    }
    Ok(())
}

fn cover(
    root: &OwnedFd,
    null: &OwnedFd,
    empty: &mut Option<OwnedFd>,
    path: &str,
) -> io::Result<()> {
    let file = match inside::find(root, Path::new(path), SymlinkPolicy::Refused) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    if !File::from(file.try_clone()?).metadata()?.is_dir() {
        return put(&mapped_mounts::copy(null, MountDepth::One)?, &file);
    }
    // All directories share one file system: it is attached once, then copied.
    let tree = match empty {
        Some(attached) => mapped_mounts::copy(attached, MountDepth::One)?,
        None => new("tmpfs", &[("size", "4k".to_owned())], COVER)?,
    };
    put(&tree, &file)?;
    empty.get_or_insert(tree);
    Ok(())
}

/// Makes a mount the root of this process, and unmounts the node's root.
fn pivot(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root is mounted over the new root, and then unmounted.
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}
