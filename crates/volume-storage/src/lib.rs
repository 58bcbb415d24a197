//! The storage of volumes on a node: directories or subvolumes, images of block devices in them, and
//! directories of NFS exports (statefulset.md §11.7, 11.8, 11.13).
//!
//! [`Storage`] runs each call on a thread that may wait for the disk. Only files inside of the volumes' directory
//! change. Volumes of `local-cow` are in a pool, a btrfs file system in one file. The decisions are in
//! `controller-planners`; `controllers::volume_provisioning` creates and removes the volumes of claims.

mod backup;
mod device_image;
mod directories;
mod error;
pub mod nfs_directories;
mod pool;
mod pool_image;
mod projects;
mod storage;
mod subvolumes;
#[cfg(test)]
mod tests;
mod volume_move;
mod volume_replication;

pub use backup::{Class, Frozen, UserSnapshot};
pub use error::{StorageError, readable_bytes};
pub use storage::Storage;
pub use subvolumes::{InitialContents, VolumeCount};
pub use volume_move::{CopyLocation, FirstCopy, MovedVolume, Snapshots};
pub use volume_replication::{CopyOf, ReplicatedVolume};
