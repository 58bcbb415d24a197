//! A CSI driver for tests, in two sizes.
//!
//! [`NodeDriver`] is the node's half within a test: directories of the machine as volumes. Its state is the
//! mounts, as with real drivers, so that it knows after a restart what it has done.
//!
//! [`Driver`] is a whole driver over a directory that several machines of a test share, in a program of its
//! own with stand-ins for the sidecars (`csi-test-driver --help`). It is strict where the specification is,
//! keeps a journal of all calls, and fails where a file says so.

mod caller;
mod driver;
mod faults;
mod node;
mod registrant;
mod schema;
mod server;
pub mod sidecars;
mod state;

pub use caller::{Caller, Refusal};
pub use driver::{Death, Driver, Role};
pub use faults::order;
pub use node::{Call, Failure, NodeDriver, Settings};
pub use registrant::{Registrant, serve_registration};
pub use server::TestDriver;
pub use state::journal;
