//! The steps of `cargo xtask test`, in the order in which a failure is cheapest to find.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::fuzz::{self, Fuzz};
use crate::{setup, tidy};

/// How long each decoder is fed in a run of all tests.
const FUZZ_SECONDS: u64 = 5;

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
        step("tests", || run_plain_tests(root))?;
        step("fuzz", || fuzz::run(root, &Fuzz::all(FUZZ_SECONDS)))?;
        println!("xtask: the tests that need root and installed tools were left out, as asked");
        return Ok(());
    }
    step("setup", || setup::run(root))?;
    step("tests", || run_inner_tests(root))?;
    step("fuzz", || fuzz::run(root, &Fuzz::all(FUZZ_SECONDS)))?;
    step("release build", || {
        cargo(root, &["build", "--release", "--package", "mainstay"])
    })?;
    step("end to end", || run_end_to_end_tests(root))
}

/// Tests that are programs of their own, without the usual harness: they are run one by one. Tidy checks that none is missing here.
pub const PROGRAMS: &[(&str, &str)] = &[("mvcc-store", "crash"), ("node-agent", "agent")];

/// Crates whose integration tests, like those of `end-to-end`, need root, the kernel's network and
/// mounts, or installed tools.
const KERNEL: &[&str] = &[
    "container-runtime",
    "dns-server",
    "node-agent",
    "pod-network",
    "service-proxy",
];

/// Runs all tests outside of `end-to-end`.
fn run_inner_tests(root: &Path) -> Result<()> {
    run_tests(root, &["--workspace", "--exclude", "end-to-end"], PROGRAMS)
}

/// Runs what needs neither root nor installed tools.
fn run_plain_tests(root: &Path) -> Result<()> {
    let mut selection = vec!["--workspace", "--exclude", "end-to-end"];
    selection.extend(KERNEL.iter().flat_map(|package| ["--exclude", package]));
    let plain = |(package, _): &&(&str, &str)| !KERNEL.contains(package);
    let programs: Vec<_> = PROGRAMS.iter().filter(plain).copied().collect();
    run_tests(root, &selection, &programs)?;
    let units: Vec<&str> = KERNEL
        .iter()
        .flat_map(|package| ["--package", package])
        .collect();
    cargo(root, &[&["test", "--lib"], units.as_slice()].concat())
}

/// Runs the selected tests with nextest where it is installed, which knows nothing of the programs;
/// else with cargo's own runner, which runs these too.
fn run_tests(root: &Path, selection: &[&str], programs: &[(&str, &str)]) -> Result<()> {
    if !has_nextest() {
        let serial = ["--", "--test-threads=1"];
        return cargo(
            root,
            &[&["test", "--no-fail-fast"], selection, &serial].concat(),
        );
    }
    let filter = no_programs();
    let nextest = ["nextest", "run", "--no-fail-fast", "--filterset", &filter];
    cargo(root, &[&nextest[..], selection].concat())?;
    for (package, test) in programs {
        cargo(root, &["test", "--package", package, "--test", test])?;
    }
    Ok(())
}

/// Nextest's expression for everything but the tests that are programs of their own.
fn no_programs() -> String {
    let names: Vec<String> = PROGRAMS
        .iter()
        .map(|(_, test)| format!("not binary(={test})"))
        .collect();
    names.join(" and ")
}

/// Runs the end-to-end tests, few at a time: each starts a whole server.
fn run_end_to_end_tests(root: &Path) -> Result<()> {
    let package = ["--package", "end-to-end"];
    if has_nextest() {
        let nextest = ["nextest", "run", "--no-fail-fast", "--test-threads=2"];
        return cargo(root, &[&nextest[..], &package].concat());
    }
    let serial = ["--", "--test-threads=1"];
    cargo(
        root,
        &[&["test", "--no-fail-fast"], &package[..], &serial].concat(),
    )
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
