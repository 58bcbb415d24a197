//! `cargo xtask protocols`: writes the code of the gRPC services from their published files. A test of
//! `service-protocols` generates it, and compares it in each run of all tests.

use std::path::Path;

use anyhow::Result;

use crate::cargo;

/// Writes the code that differs.
///
/// # Errors
/// A published file cannot be compiled.
pub fn write(root: &Path) -> Result<()> {
    let mut cargo = cargo::command(root);
    cargo.env("UPDATE_PROTOCOLS", "1");
    let test = ["test", "--quiet", "--package", "service-protocols"];
    cargo::run_to_end(cargo, &[&test[..], &["--test", "published_files"]].concat())
}
