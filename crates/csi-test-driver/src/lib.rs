//! CSI drivers for tests, and plugins for devices ([`devices`]).
//!
//! [`NodeDriver`] has only the node service and runs in the process of a test: directories of the machine are
//! its volumes. As with real drivers, its state is the mounts, so a restarted driver still knows its work.
//!
//! [`Driver`] is a complete driver over a directory that several machines of a test share, with stand-ins for
//! the sidecars; it is a separate program (`csi-test-driver --help`). The driver enforces the specification,
//! records all calls in a journal, and fails where a test has ordered a fault.

mod caller;
pub mod devices;
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
