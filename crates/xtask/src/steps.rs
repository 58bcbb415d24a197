//! The steps of `cargo xtask test`, in the order in which a failure is cheapest to find.

use std::fs;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread::{self, ScopedJoinHandle, available_parallelism};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::engines::{self, Choice};
use crate::fuzz::{self, Fuzz};
use crate::test_programs::TEST_PROGRAMS;
use crate::{cargo, setup, tables, tidy};

/// The time of each fuzz target in a run of all tests.
const FUZZ_SECONDS: u64 = 3;

/// Runs everything, or everything that needs no root and no installed tools.
pub fn test(root: &Path, without_end_to_end: bool) -> Result<()> {
    step("format", || cargo::run(root, &["fmt", "--all", "--check"]))?;
    step("tidy", || tidy::run(root))?;
    step("tables", || tables::check_if_published(root))?;
    if without_end_to_end {
        step("lints", || lint(root))?;
        step("tests", || run_plain_tests(root))?;
        step("fuzz", || fuzz::run(root, &Fuzz::all(FUZZ_SECONDS)))?;
        println!("xtask: the tests that need root and installed tools were left out, as asked");
        return Ok(());
    }
    if has_nextest(root) {
        prepare(root)?;
        // The syncs of the tests would wait for what the build has left in memory.
        step("sync", || setup::quiet(&mut Command::new("sync")))?;
        return run_all_tests(root);
    }
    step("setup", || setup::run(root))?;
    step("lints and test build", || build_tests(root))?;
    step("release build", || build_programs(root))?;
    let inner = ["--workspace", "--exclude", "end-to-end"];
    step("tests", || run_serially(root, &inner))?;
    step("fuzz", || fuzz::run(root, &Fuzz::all(FUZZ_SECONDS)))?;
    step("end to end", || {
        run_serially(root, &["--package", "end-to-end"])
    })?;
    step("end to end on etcd", || {
        run_on_etcd(root, Choice::Core, &threads(1))
    })
}

/// Runs all end-to-end tests whose servers can have their store in an etcd.
pub fn test_on_etcd(root: &Path) -> Result<()> {
    prepare(root)?;
    step("end to end on etcd", || {
        run_on_etcd(root, Choice::All, &threads(6))
    })
}

/// Lints all crates without a build.
fn lint(root: &Path) -> Result<()> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    cargo::run(root, &clippy)
}

/// Installs the tools and builds the programs beside the tests: the first waits for the network most of its
/// time, and each of these builds has minutes in which it compiles only one large crate. Profiles have
/// directories and locks of their own.
fn prepare(root: &Path) -> Result<()> {
    thread::scope(|scope| {
        let tools = || step("setup", || setup::run(root));
        let programs = || step("release build", || build_programs(root));
        let tests = || step("lints and test build", || build_tests(root));
        all_ended(vec![
            scope.spawn(tools),
            scope.spawn(programs),
            scope.spawn(tests),
        ])
    })
}

/// Builds and lints all tests, and the benchmarks.
fn build_tests(root: &Path) -> Result<()> {
    let build = ["test", "--workspace", "--all-targets", "--no-run"];
    cargo::run_for_tests(root, &build)
}

/// Builds the release programs that the end-to-end tests start. The driver of the tests needs no feature that the
/// product does not need, so they share their dependencies. The load generator, whose client is another project's, does
/// not: a release build of it compiles most dependencies again. It is tested as the build of the tests makes it.
fn build_programs(root: &Path) -> Result<()> {
    let programs = ["--package", "mainstay", "--package", "csi-test-driver"];
    cargo::run(root, &[&["build", "--release"], &programs[..]].concat())?;
    check_size(&setup::target(root).join("release/mainstay"))
}

/// The largest size of the release binary. It is to shrink: the goal is 35 MB.
const PROGRAM_BYTES_MAX: u64 = 41_500_000;

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

/// Crates whose integration tests, like those of `end-to-end`, need root, the kernel's network and
/// mounts, or installed tools.
const KERNEL: &[&str] = &[
    "container-runtime",
    "dns-server",
    "etcd-store",
    "node-agent",
    "pod-network",
    "service-proxy",
    "volume-provisioner",
];

/// Nextest's option for so many tests at once on each processor, all groups of `.config/nextest.toml` together.
fn threads(per_processor: usize) -> String {
    let processors = available_parallelism().map_or(1, NonZero::get);
    format!("--test-threads={}", per_processor * processors)
}

/// Nextest's expression for the tests that only compute: those of the group of this name in `.config/nextest.toml`.
const COMPUTING: &str =
    "package(simulation) or package(model-check) or (package(planners) and test(/::model::/))";

/// Runs everything that was built, side by side: most tests wait for most of their time. Those that only compute have
/// a low priority; the fuzz targets follow them. All packages are selected, because the selection decides on the
/// features of libraries: each library is built once.
fn run_all_tests(root: &Path) -> Result<()> {
    let filter = format!("{} and not ({COMPUTING})", remaining_tests());
    let (threads, few) = (threads(6), threads(1));
    let tests = ["--workspace", &threads, "--filterset", &filter];
    let computing = [
        "nextest",
        "run",
        "--no-fail-fast",
        "--workspace",
        "--filterset",
        COMPUTING,
    ];
    thread::scope(|scope| {
        let tests = move || step("tests", || run_with_nextest(root, &tests));
        let computing = move || {
            step("computing tests", || {
                cargo::run_for_tests_beside_others(root, &computing)
            })?;
            step("fuzz", || fuzz::run(root, &Fuzz::all(FUZZ_SECONDS)))
        };
        let on_etcd = || {
            step("end to end on etcd", || {
                run_on_etcd(root, Choice::Core, &few)
            })
        };
        let mut running = vec![
            scope.spawn(tests),
            scope.spawn(computing),
            scope.spawn(on_etcd),
        ];
        for (_, test) in TEST_PROGRAMS {
            let arguments = ["test", "--workspace", "--test", *test];
            running
                .push(scope.spawn(move || step(test, || cargo::run_for_tests(root, &arguments))));
        }
        all_ended(running)
    })
}

/// Waits for the end of each, also after a failure.
fn all_ended(running: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let results: Vec<Result<()>> = running
        .into_iter()
        .map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)))
        .collect();
    results.into_iter().collect()
}

/// Runs end-to-end tests with servers on etcd, `threads` of them at once if nextest is there.
fn run_on_etcd(root: &Path, choice: Choice, threads: &str) -> Result<()> {
    let mut command = cargo::for_tests(root);
    if has_nextest(root) {
        // The whole workspace, as in the run of all tests: the selection decides on the features of libraries.
        command.args(["nextest", "run", "--no-fail-fast", "--workspace", threads]);
        command.args(["--filterset", &choice.filter()]);
    } else {
        command.args(["test", "--no-fail-fast", "--package", "end-to-end"]);
        command.args(["--test", "walks", "--", "--test-threads=1"]);
        command.args(choice.arguments());
    }
    engines::on_etcd(command)
}

/// Runs the tests that need neither root nor installed tools.
fn run_plain_tests(root: &Path) -> Result<()> {
    let mut selection = vec!["--workspace", "--exclude", "end-to-end"];
    selection.extend(KERNEL.iter().flat_map(|package| ["--exclude", package]));
    if has_nextest(root) {
        let filter = remaining_tests();
        run_with_nextest(root, &[&selection[..], &["--filterset", &filter]].concat())?;
        let plain = TEST_PROGRAMS
            .iter()
            .filter(|(package, _)| !KERNEL.contains(package));
        for (package, test) in plain {
            cargo::run_for_tests(root, &["test", "--package", package, "--test", test])?;
        }
    } else {
        run_serially(root, &selection)?;
    }
    let units: Vec<&str> = KERNEL
        .iter()
        .flat_map(|package| ["--package", package])
        .collect();
    cargo::run_for_tests(root, &[&["test", "--lib"], units.as_slice()].concat())
}

/// Runs the selected tests with nextest, which does not support tests with their own harness.
fn run_with_nextest(root: &Path, selection: &[&str]) -> Result<()> {
    let nextest = ["nextest", "run", "--no-fail-fast"];
    cargo::run_for_tests(root, &[&nextest, selection].concat())
}

/// Runs the selected tests, programs among them, with cargo's own runner.
fn run_serially(root: &Path, selection: &[&str]) -> Result<()> {
    let (test, serial) = (["test", "--no-fail-fast"], ["--", "--test-threads=1"]);
    cargo::run_for_tests(root, &[&test, selection, &serial].concat())
}

/// Nextest's expression for everything but the tests that are programs of their own, and the test of the checkout's
/// order, which was a step before.
fn remaining_tests() -> String {
    let names = TEST_PROGRAMS
        .iter()
        .map(|(_, test)| format!("not binary(={test})"));
    let checkout = "not test(=tidy::tests::this_checkout_is_tidy)".to_owned();
    names.chain([checkout]).collect::<Vec<_>>().join(" and ")
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
    let result = body().with_context(|| format!("step '{name}' failed"));
    let verdict = if result.is_ok() { "passed" } else { "failed" };
    println!("xtask: {name} {verdict} in {:.0?}", started.elapsed());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_that_compute_are_a_group() {
        let groups = include_str!("../../../.config/nextest.toml");
        let group = format!("filter = '{COMPUTING}'\ntest-group = 'computing'");
        assert!(groups.contains(&group), "{groups}");
    }

    #[test]
    fn a_binary_that_grew_fails() {
        judge_size(PROGRAM_BYTES_MAX).unwrap();
        let grown = judge_size(PROGRAM_BYTES_MAX + 1).unwrap_err().to_string();
        let limit = format!("may have {PROGRAM_BYTES_MAX}");
        assert!(grown.contains(&limit), "{grown}");
    }
}
