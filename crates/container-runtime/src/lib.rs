//! Pods in real containers, without a daemon between the node agent and them.
//!
//! Each pod has one small process, its *shim* ([`shim`]). The shim holds the pod's namespaces open, creates
//! and reaps the containers, writes their logs, serves exec and attach over a unix socket, and outlives the
//! agent. [`Runtime`] and [`Sandbox`] are the agent's part. They have no state in memory, so a restarted
//! agent reads the whole state from the state directory.
//!
//! The shim and `stack` contain `unsafe` code. Kernel calls that other crates use, too, are in
//! `host-kernel`.

pub mod accounting;
mod cgroup;
mod client;
mod error;
mod id_range;
mod propagation;
pub mod protocol;
mod sealed;
pub mod shim;
pub mod spec;
mod stack;
mod state_dir;

pub use client::leased::leased_processes_are_there;
pub use client::runtime::{Runtime, RuntimeOptions};
pub use client::sandbox::Sandbox;
pub use client::session::{Events, Session, SessionControl, SessionInput, SessionOutput};
pub use error::{Result, RuntimeError};
