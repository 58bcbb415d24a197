//! Manifests of users: reads them from files, directories and standard input, and applies them with
//! server-side apply, or as `kubectl apply` does.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod apply;
mod kubectl_apply;
mod manifests;

pub use apply::{Applied, ApplyError, apply, check, display};
pub use kubectl_apply::{WriteMode, WrittenObject, kubectl_apply};
pub use manifests::{Manifest, ReadError, from_standard_input, read_all};
