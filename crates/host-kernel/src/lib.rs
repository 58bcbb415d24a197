//! Safe wrappers of calls to the kernel of this machine: descriptors and walks ([`tree`]), mounts and the mount table,
//! the file systems and devices of volumes, replacement of whole files ([`durable_file`]), the deadline of a node, and
//! the allocators of a server.
//!
//! Three functions do blocking work: [`block_in_place`] for short work, [`blocking`] (or [`blocking_value`]) for long work, and
//! [`call_with_timeout`] for calls that wait for another machine, which may never respond.

pub mod allocator;
mod blocking;
pub mod btrfs;
pub mod copy_on_write;
pub mod deadline;
pub mod descriptors;
pub mod disk_usage;
pub mod durable_file;
pub mod keyed_locks;
pub mod loop_device;
pub mod mount_options;
pub mod mount_table;
pub mod mounts;
pub mod nfs;
pub mod project_quota;
mod timed_call;
pub mod tree;
pub mod watchdog;

pub use blocking::{BlockingTask, Interrupted, block_in_place, blocking, blocking_value};
pub use timed_call::{TimedCallError, call_with_timeout, call_with_timeout_blocking};
