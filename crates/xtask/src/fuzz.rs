//! `cargo xtask fuzz`: feeds decoders with inputs that were made from good ones.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::setup;

/// The arguments of the fuzzer.
#[derive(clap::Args)]
pub struct Fuzz {
    /// Arguments of the fuzzer: targets (all, if none is named), `--seconds N`, `--list` and others
    /// that `--help` after `--` shows
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

/// Runs the targets, as many at once as there are processors. The program is built as for its test, with the features that
/// libraries have in the tests, so that they are not built again.
pub fn run(root: &Path, wanted: &Fuzz) -> Result<()> {
    let build = ["test", "--quiet", "--workspace", "--no-run"];
    cargo::run_for_tests(root, &[&build[..], &["--test", "corpus"]].concat())?;
    let program = setup::target(root).join("debug/fuzzing");
    let status = Command::new(&program)
        .args(&wanted.arguments)
        .current_dir(root)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    if !status.success() {
        bail!("the fuzzer ended with {status}");
    }
    Ok(())
}
