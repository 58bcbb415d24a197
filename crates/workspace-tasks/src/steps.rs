//! The steps of `cargo xtask test`, the cheapest first.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread::{self, available_parallelism};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::deny::Deny;
use crate::engines::{self, Choice};
use crate::test_programs::TEST_PROGRAMS;
use crate::{cargo, computing, deny, fuzz, setup, tables, tidy};

/// The time of each fuzz target in a run of all tests.
const FUZZ_SECONDS: u64 = 1;

/// Runs all tests, or all tests that need no root and no installed tools.
pub fn test(root: &Path, without_end_to_end: bool) -> Result<()> {
    step("format", || cargo::run(root, &["fmt", "--all", "--check"]))?;
    step("tables", || tables::check_if_published(root))?;
    if has_nextest(root) && !without_end_to_end {
        let mut steps = preparation(root);
        steps.push(Step::new("tidy", || tidy::run(root)));
        steps.push(Step::new("deny", || deny::run(root, &Deny::default())));
        side_by_side(steps)?;
        // The first sync of a test would otherwise wait for the files of the build.
        step("sync", || setup::quiet(&mut Command::new("sync")))?;
        return side_by_side(all_tests(root));
    }
    step("tidy", || tidy::run(root))?;
    step("deny", || deny::run(root, &Deny::default()))?;
    if without_end_to_end {
        step("test build", || build_tests(root))?;
        step("tests", || run_plain_tests(root))?;
        step("fuzz", || fuzz::run_with_tests(root, FUZZ_SECONDS))?;
        println!("xtask: the tests that need root and installed tools were left out, as asked");
        return Ok(());
    }
    step("setup", || setup::run(root))?;
    build(root)?;
    let inner = ["--workspace", "--exclude", "end-to-end"];
    step("tests", || {
        run_serially(root, &[&inner, without_computing().as_slice()].concat())
    })?;
    step("tests that compute", || computing::run_plainly(root))?;
    step("fuzz", || fuzz::run_with_tests(root, FUZZ_SECONDS))?;
    step("end to end", || {
        run_serially(root, &["--package", "end-to-end"])
    })?;
    step("end to end on etcd", || {
        run_on_etcd(root, Choice::Core, &threads(1))
    })
}

/// Runs all end-to-end tests whose servers can use etcd.
pub fn test_on_etcd(root: &Path) -> Result<()> {
    side_by_side(preparation(root))?;
    step("end to end on etcd", || {
        run_on_etcd(root, Choice::All, &threads(8))
    })
}

/// A step that runs concurrently with others.
struct Step<'a> {
    name: &'a str,
    run: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

impl<'a> Step<'a> {
    fn new(name: &'a str, run: impl FnOnce() -> Result<()> + Send + 'a) -> Self {
        let run = Box::new(run);
        Self { name, run }
    }
}

/// Runs the steps concurrently, and waits for the end of each, also after a failure.
fn side_by_side(steps: Vec<Step<'_>>) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = steps
            .into_iter()
            .map(|entry| scope.spawn(|| step(entry.name, entry.run)))
            .collect();
        let results: Vec<Result<()>> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

/// Installs the tools concurrently with the builds, because most of the installation waits for the network.
fn preparation(root: &Path) -> Vec<Step<'_>> {
    vec![
        Step::new("setup", || setup::run(root)),
        Step::new("builds", || build(root)),
    ]
}

/// Builds all tests, and concurrently the release program and the tests that are built like it, because the last crates of
/// each build are compiled alone.
fn build(root: &Path) -> Result<()> {
    let release = || {
        cargo::run(root, &["build", "--release", "--package", "mainstay"])?;
        if has_nextest(root) {
            step("build of the tests that compute", || computing::build(root))?;
        }
        Ok(())
    };
    side_by_side(vec![
        Step::new("test build", || build_tests(root)),
        Step::new("release build", release),
    ])
}

/// Lints and builds all tests, the benchmarks and the programs that tests start, with the checks of a debug build.
fn build_tests(root: &Path) -> Result<()> {
    let build = ["test", "--workspace", "--all-targets", "--no-run"];
    cargo::run_for_tests(root, &build)
}

/// Crates whose integration tests, like those of `end-to-end`, need root, the kernel's network and
/// mounts, or installed tools.
const KERNEL: &[&str] = &[
    "container-runtime",
    "cluster-dns",
    "etcd-store",
    "image-store",
    "node-agent",
    "pod-network",
    "service-proxy",
    "volume-storage",
];

/// Nextest's option for this number of concurrent tests on each processor, for all groups of
/// `.config/nextest.toml` together.
fn threads(per_processor: usize) -> String {
    let processors = available_parallelism().map_or(1, NonZero::get);
    format!("--test-threads={}", per_processor * processors)
}

/// All built tests, run concurrently, because most tests mostly wait. Tests that only compute have a low
/// priority; the fuzz targets follow them. All packages are selected, because the selection determines the
/// features of libraries: each library is built once.
fn all_tests(root: &Path) -> Vec<Step<'_>> {
    let mut steps = vec![
        Step::new("tests", || {
            let filter = remaining_tests();
            run_with_nextest(root, &["--workspace", &threads(6), "--filterset", &filter])
        }),
        Step::new("tests that compute", || {
            computing::run_in_background(root)?;
            step("fuzz", || fuzz::run_with_tests(root, FUZZ_SECONDS))
        }),
        Step::new("end to end on etcd", || {
            run_on_etcd(root, Choice::Core, &threads(1))
        }),
    ];
    for (_, test) in TEST_PROGRAMS {
        let run = move || run_test_program(root, test);
        steps.push(Step::new(test, run));
    }
    steps
}

/// Runs end-to-end tests with servers on etcd; `threads` applies if nextest is installed.
fn run_on_etcd(root: &Path, choice: Choice, threads: &str) -> Result<()> {
    let mut command = cargo::for_tests(root);
    if has_nextest(root) {
        // The whole workspace, as in the run of all tests, because the selection determines the features of
        // libraries.
        command.args(cargo::NEXTEST);
        command.args(["--workspace", threads, "--filterset", &choice.filter()]);
    } else {
        command.args(["test", "--no-fail-fast"]);
        command.args(["--package", "end-to-end"]);
        command.args(["--test", "walks", "--", "--test-threads=1"]);
        command.args(choice.arguments());
    }
    engines::on_etcd(command)
}

/// Runs the tests that need neither root nor installed tools.
fn run_plain_tests(root: &Path) -> Result<()> {
    if has_nextest(root) {
        // The whole workspace, as in the run of all tests, because the selection determines the features of
        // libraries.
        run_with_nextest(root, &["--workspace", "--filterset", &plain_tests()])?;
        computing::run_in_background(root)?;
        let is_plain = |(package, _): &&(&str, &str)| !KERNEL.contains(package);
        for (_, test) in TEST_PROGRAMS.iter().filter(is_plain) {
            run_test_program(root, test)?;
        }
        return Ok(());
    }
    let mut selection = vec!["--workspace", "--exclude", "end-to-end"];
    selection.extend(KERNEL.iter().flat_map(|package| ["--exclude", package]));
    selection.extend(without_computing());
    run_serially(root, &selection)?;
    computing::run_plainly(root)?;
    let units: Vec<&str> = KERNEL
        .iter()
        .flat_map(|package| ["--package", package])
        .collect();
    cargo::run_for_tests(root, &[&["test", "--lib"], units.as_slice()].concat())
}

/// Cargo's options that leave out the packages whose tests only compute.
fn without_computing() -> Vec<&'static str> {
    let packages = computing::PACKAGES.iter();
    packages
        .flat_map(|package| ["--exclude", package])
        .collect()
}

/// Nextest's expression for the tests that need neither root nor installed tools: of the crates of [`KERNEL`] only the
/// unit tests.
fn plain_tests() -> String {
    let kernel: Vec<String> = KERNEL
        .iter()
        .map(|package| format!("package({package})"))
        .collect();
    let remaining = remaining_tests();
    format!(
        "{remaining} and not package(end-to-end) and (kind(lib) or not ({}))",
        kernel.join(" or ")
    )
}

/// Runs a test with its own harness.
fn run_test_program(root: &Path, test: &str) -> Result<()> {
    let command = cargo::for_tests(root);
    let arguments = ["test", "--workspace", "--test", test];
    cargo::run_to_end_with_last_lines(command, &arguments)
}

/// Runs the selected tests with nextest, which does not support tests with their own harness.
fn run_with_nextest(root: &Path, selection: &[&str]) -> Result<()> {
    cargo::run_for_tests(root, &[cargo::NEXTEST, selection].concat())
}

/// Runs the selected tests, including those with their own harness, with cargo's test runner.
fn run_serially(root: &Path, selection: &[&str]) -> Result<()> {
    let test = ["test", "--no-fail-fast"];
    let serial = ["--", "--test-threads=1"];
    cargo::run_for_tests(root, &[&test, selection, &serial].concat())
}

/// Nextest's expression for all tests except those that only compute, those with their own harness, and the test of the
/// order of the checkout, which was a previous step.
fn remaining_tests() -> String {
    let names = TEST_PROGRAMS
        .iter()
        .map(|(_, test)| format!("not binary(={test})"));
    let checkout = "not test(=tidy::tests::this_checkout_is_tidy)".to_owned();
    let computing = format!("not ({})", computing::FILTER);
    let excluded = names.chain([checkout, computing]);
    excluded.collect::<Vec<_>>().join(" and ")
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
