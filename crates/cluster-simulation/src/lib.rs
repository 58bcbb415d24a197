//! The whole control plane in one thread, with simulated nodes, simulated time and one seed.
//!
//! The API server, the controllers and the scheduler are those of the product, over the real store in memory; [`node`]
//! simulates the nodes, [`link`] the network, [`disk`] the disk. In [`servers`], several API servers run over the real
//! engine for etcd, whose members [`etcd`] simulates. In [`away`], the server is away for an hour. A run depends only
//! on its seed, so that a failure can be reproduced.
//!
//! [`world`] is the entry: a run sets up the cluster, runs users and faults, and then waits until the goal is reached.
//! [`checks`] check every write and every instance on a node. [`lifetimes`] counts the writes of StatefulSets in a
//! world without faults, and [`failover`] measures the phases of a failover.

mod audit;
mod away;
mod candidate;
mod checks;
mod control_plane;
mod disk;
mod etcd;
pub mod failover;
mod faults;
mod flawed_store;
mod goal;
mod instances;
pub mod lifetimes;
mod link;
pub mod node;
mod process;
mod random;
mod rest;
pub mod run;
mod servers;
mod system;
pub mod tally;
#[doc(hidden)]
pub mod trace;
mod user;
mod world;

pub use control_plane::{StartError, start_server};
pub use instances::Instances;
