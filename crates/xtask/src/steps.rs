//! The steps of `cargo xtask test`, in the order in which a failure is cheapest to find.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{setup, tidy};

/// Runs everything, or everything that needs no root and no installed tools.
pub fn test(root: &Path, without_end_to_end: bool) -> Result<()> {
    step("format", || cargo(root, &["fmt", "--all", "--check"]))?;
    step("tidy", || tidy::run(root))?;
    step("lints", || {
        let clippy = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ];
        cargo(root, &clippy)
    })?;
    if without_end_to_end {
        step("tests", || {
            run_tests(root, &["--workspace", "--exclude", "end-to-end"])
        })?;
        println!("xtask: the end-to-end tests were left out, as asked");
        return Ok(());
    }
    step("setup", || setup::run(root))?;
    step("tests", || {
        run_tests(root, &["--workspace", "--exclude", "end-to-end"])
    })?;
    step("release build", || {
        cargo(root, &["build", "--release", "--package", "mainstay"])
    })?;
    step("end to end", || {
        run_tests(root, &["--package", "end-to-end"])
    })
}

/// Runs tests with nextest where it is installed, else with cargo's own runner.
fn run_tests(root: &Path, selection: &[&str]) -> Result<()> {
    if has_nextest() {
        cargo(
            root,
            &[&["nextest", "run", "--no-fail-fast"], selection].concat(),
        )
    } else {
        let serial = ["--", "--test-threads=1"];
        cargo(
            root,
            &[&["test", "--no-fail-fast"], selection, &serial].concat(),
        )
    }
}

fn has_nextest() -> bool {
    Command::new("cargo")
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn step(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("xtask: {name} …");
    let started = Instant::now();
    body().with_context(|| format!("step '{name}' failed"))?;
    println!("xtask: {name} passed in {:.0?}", started.elapsed());
    Ok(())
}

/// Runs cargo in the workspace and fails if it does.
pub fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .current_dir(root)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
