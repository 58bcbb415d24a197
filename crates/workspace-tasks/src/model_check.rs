//! `cargo xtask model-check`: builds the model checker with optimisation and explores worlds.

use std::path::Path;

use anyhow::Result;

use crate::cargo;

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
    let mut arguments = vec!["run", "--quiet", "--release", "--package=model-check", "--"];
    arguments.extend(options.arguments.iter().map(String::as_str));
    cargo::run(root, &arguments)
}
