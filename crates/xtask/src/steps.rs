//! The steps of `cargo xtask test`, in the order in which a failure is cheapest to find.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::fuzz::{self, Fuzz};
use crate::{cargo, setup, tables, tidy};

/// The time of each fuzz target in a run of all tests.
const FUZZ_SECONDS: u64 = 5;

/// Runs everything, or everything that needs no root and no installed tools.
pub fn test(root: &Path, without_end_to_end: bool) -> Result<()> {
    step("format", || cargo::run(root, &["fmt", "--all", "--check"]))?;
    step("tidy", || tidy::run(root))?;
    step("tables", || tables::check_if_published(root))?;
    step("lints", || {
        let clippy = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ];
        cargo::run(root, &clippy)
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
        let programs = ["--package", "mainstay", "--package", "load-generator"];
        cargo::run(root, &[&["build", "--release"][..], &programs].concat())?;
        check_size(&setup::target(root).join("release/mainstay"))
    })?;
    step("end to end", || run_end_to_end_tests(root))
}

/// The largest size of the release binary. It is to shrink: the goal is 35 MB.
const PROGRAM_BYTES_MAX: u64 = 54_000_000;

fn check_size(program: &Path) -> Result<()> {
    let metadata =
        fs::metadata(program).with_context(|| format!("look at {}", program.display()))?;
    judge_size(metadata.len())
}

fn judge_size(bytes: u64) -> Result<()> {
    ensure!(
        bytes <= PROGRAM_BYTES_MAX,
        "the release binary has {bytes} bytes, and may have {PROGRAM_BYTES_MAX}: see docs/contributing/performance.md"
    );
    Ok(())
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
    "volume-provisioner",
];

/// Runs all tests outside of `end-to-end`. A filter selects the tests, not packages: all steps then
/// build the same selection, which decides on the features of libraries, and each library is built
/// once.
fn run_inner_tests(root: &Path) -> Result<()> {
    if !has_nextest(root) {
        return run_serially(root, &["--workspace", "--exclude", "end-to-end"]);
    }
    let filter = format!("not package(end-to-end) and {}", no_programs());
    run_with_nextest(root, &["--workspace", "--filterset", &filter])?;
    for (_, test) in PROGRAMS {
        cargo::run(root, &["test", "--workspace", "--test", test])?;
    }
    Ok(())
}

/// Runs the tests that need neither root nor installed tools.
fn run_plain_tests(root: &Path) -> Result<()> {
    let mut selection = vec!["--workspace", "--exclude", "end-to-end"];
    selection.extend(KERNEL.iter().flat_map(|package| ["--exclude", package]));
    if has_nextest(root) {
        let filter = no_programs();
        run_with_nextest(root, &[&selection[..], &["--filterset", &filter]].concat())?;
        let plain = PROGRAMS
            .iter()
            .filter(|(package, _)| !KERNEL.contains(package));
        for (package, test) in plain {
            cargo::run(root, &["test", "--package", package, "--test", test])?;
        }
    } else {
        run_serially(root, &selection)?;
    }
    let units: Vec<&str> = KERNEL
        .iter()
        .flat_map(|package| ["--package", package])
        .collect();
    cargo::run(root, &[&["test", "--lib"], units.as_slice()].concat())
}

/// Runs the end-to-end tests, two for each processor: each starts a whole server, and waits most of
/// the time.
fn run_end_to_end_tests(root: &Path) -> Result<()> {
    if !has_nextest(root) {
        return run_serially(root, &["--package", "end-to-end"]);
    }
    let processors = available_parallelism().map_or(1, NonZero::get);
    let threads = format!("--test-threads={}", 2 * processors);
    let filter = ["--filterset", "package(end-to-end)"];
    run_with_nextest(root, &[&["--workspace", &threads], &filter[..]].concat())
}

/// Runs the selected tests with nextest, which does not support tests with their own harness.
fn run_with_nextest(root: &Path, selection: &[&str]) -> Result<()> {
    let nextest = ["nextest", "run", "--no-fail-fast"];
    cargo::run(root, &[&nextest, selection].concat())
}

/// Runs the selected tests, programs among them, with cargo's own runner.
fn run_serially(root: &Path, selection: &[&str]) -> Result<()> {
    let (test, serial) = (["test", "--no-fail-fast"], ["--", "--test-threads=1"]);
    cargo::run(root, &[&test, selection, &serial].concat())
}

/// Nextest's expression for everything but the tests that are programs of their own.
fn no_programs() -> String {
    let names: Vec<String> = PROGRAMS
        .iter()
        .map(|(_, test)| format!("not binary(={test})"))
        .collect();
    names.join(" and ")
}

fn has_nextest(root: &Path) -> bool {
    cargo::command(root)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_grew_fails() {
        judge_size(PROGRAM_BYTES_MAX).unwrap();
        let grown = judge_size(PROGRAM_BYTES_MAX + 1).unwrap_err().to_string();
        assert!(grown.contains("may have 54000000"), "{grown}");
    }
}
