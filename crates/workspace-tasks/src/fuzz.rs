//! `cargo xtask fuzz`: runs decoders on mutated valid inputs.

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

/// Runs the requested targets, as many concurrently as there are processors. Arithmetic is checked for
/// overflow, as in each debug build.
pub fn run(root: &Path, options: &Fuzz) -> Result<()> {
    cargo::run(root, &["build", "--quiet", "--package", "fuzzing"])?;
    start(root, "debug/fuzzing", &options.arguments)
}

/// Runs all targets, each for this time; the program was built with the tests.
pub fn run_with_tests(root: &Path, seconds: u64) -> Result<()> {
    let build = [
        "test",
        "--quiet",
        "--workspace",
        "--no-run",
        "--test",
        "corpus",
    ];
    cargo::run_for_tests(root, &build)?;
    let arguments = ["--seconds".to_owned(), seconds.to_string()];
    start(root, "debug/fuzzing", &arguments)
}

fn start(root: &Path, program: &str, arguments: &[String]) -> Result<()> {
    let program = setup::target(root).join(program);
    let status = Command::new(&program)
        .args(arguments)
        .current_dir(root)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    if !status.success() {
        bail!("the fuzzer ended with {status}");
    }
    Ok(())
}
