//! Manifests of users: read from files, directories and standard input, and applied on the side of the server as one
//! field manager.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod apply;
mod manifests;

pub use apply::{Applied, apply, check, display};
pub use manifests::{Manifest, from_standard_input, read_all};
