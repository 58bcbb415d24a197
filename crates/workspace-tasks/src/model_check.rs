//! `cargo xtask model-check`: builds the model checker with optimisation and explores worlds.

use std::path::Path;

use anyhow::Result;

use crate::computing;

/// The arguments of the model checker.
#[derive(clap::Args)]
pub struct ModelCheck {
    /// Arguments of the checker: `--world NAME`, `--deep`, `--list`, `--threads N` and others that
    /// `--help` after `--` shows
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Explores the requested worlds.
pub fn run(root: &Path, options: &ModelCheck) -> Result<()> {
    let arguments: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    computing::run_program(root, "model-check", &arguments)
}
