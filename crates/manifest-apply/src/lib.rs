//! Manifests of users: reads them from files, directories and standard input, and applies them with
//! server-side apply.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod apply;
mod manifests;

pub use apply::{Applied, ApplyError, apply, check, display};
pub use manifests::{Manifest, ReadError, from_standard_input, read_all};
