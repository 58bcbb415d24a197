//! The drain of a node: its pods are evicted, and its volumes move to other nodes. The user's side of both: requests to
//! the API with the rights of the user, and the progress on the terminal.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod draining;
mod error;
mod losses;
mod moving;
mod pods;

pub use draining::VolumeDrain;
pub use error::DrainError;
pub use moving::VolumeMoveRequest;
pub use pods::PodDrain;
