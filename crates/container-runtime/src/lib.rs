//! Pods in real containers, without a daemon between the node agent and them.
//!
//! Each pod has one small process, its *shim* ([`shim`]): it holds the pod's namespaces,
//! creates the containers, reaps them, writes their logs, serves exec and attach over a unix
//! socket, and outlives the agent. [`Runtime`] and [`Sandbox`] are the agent's side; they
//! hold no state of their own, so that a restarted agent finds everything again in the state
//! directory.
//!
//! Only this crate contains `unsafe` code: the shim side of it, and calls to the kernel that are safe to
//! use, for volumes in [`btrfs`], [`loop_device`] and [`project_quota`], in [`deadline`], in [`descriptors`],
//! in [`allocator`], in `stack` and in [`watchdog`].

pub mod accounting;
pub mod allocator;
mod blocking;
pub mod btrfs;
mod cgroup;
mod client;
pub mod copy_on_write;
pub mod deadline;
pub mod descriptors;
pub mod disk_usage;
mod error;
mod id_range;
pub mod loop_device;
pub mod mount_options;
mod mounts;
pub mod nfs;
pub mod project_quota;
pub mod protocol;
mod sealed;
pub mod shim;
pub mod spec;
mod stack;
mod state_dir;
mod timed_call;
pub mod tree;
pub mod watchdog;

pub use blocking::block_in_place;
pub use client::leased::leased_processes_are_there;
pub use client::runtime::{Runtime, RuntimeOptions};
pub use client::sandbox::Sandbox;
pub use client::session::{Events, Session, SessionControl, SessionInput, SessionOutput};
pub use error::{Result, RuntimeError};
pub use timed_call::{TimedCallError, call_with_timeout, call_with_timeout_blocking};
