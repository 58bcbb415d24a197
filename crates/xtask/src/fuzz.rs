//! `cargo xtask fuzz`: feeds decoders with inputs that were made from good ones.

use std::path::Path;

use anyhow::Result;

use crate::steps::cargo;

/// What to run.
#[derive(clap::Args)]
pub struct Fuzz {
    /// What the fuzzer is told: targets (all, if none is named), `--seconds N`, `--list` and others that
    /// `--help` after `--` shows
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Fuzz {
    /// All targets, each for so long.
    pub fn all(seconds: u64) -> Self {
        let arguments = vec!["--seconds".to_owned(), seconds.to_string()];
        Self { arguments }
    }
}

/// Runs the targets one after the other.
pub fn run(root: &Path, wanted: &Fuzz) -> Result<()> {
    let mut arguments = vec!["run", "--quiet", "--package=fuzzing", "--"];
    arguments.extend(wanted.arguments.iter().map(String::as_str));
    cargo(root, &arguments)
}
