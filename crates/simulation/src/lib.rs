//! The whole control plane in one thread, with simulated nodes, simulated time and one seed.
//!
//! The API server, the controllers and the scheduler are the real ones, over the real store in
//! memory; [`node`] plays the nodes, [`link`] the network, [`disk`] the disk. What happens follows
//! from the seed alone, so that a failure can be looked at as often as needed.
//!
//! Read [`world`] first: it sets everything up, lets users and faults loose, and at the end waits
//! until all is as it was wanted. [`checks`] look at every write and at every body on a node.

mod bodies;
mod checks;
mod control_plane;
mod disk;
mod faults;
mod goal;
mod link;
pub mod node;
mod random;
pub mod run;
mod system;
#[doc(hidden)]
pub mod trace;
mod user;
mod world;

pub use bodies::Bodies;
pub use control_plane::{StartError, start_server};
