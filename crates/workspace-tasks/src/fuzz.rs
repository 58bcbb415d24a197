//! `cargo xtask fuzz`: runs decoders on mutated valid inputs.

use std::path::Path;

use anyhow::Result;

use crate::cargo;
use crate::setup;

/// The fuzzer, in the directory of the build.
const PROGRAM: &str = "debug/fuzzing";

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
    let arguments: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    setup::run_built(root, PROGRAM, &arguments)
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
    setup::run_built(root, PROGRAM, &["--seconds", &seconds.to_string()])
}
