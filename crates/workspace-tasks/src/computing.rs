//! The tests that only compute: simulated worlds and models. They are built like the released program, because they then need
//! a fifth of the processor time, and the longest test a ninth; and because most of what they need was compiled for the
//! program (decision 085). The tests of decisions compute for a minute without optimisation, and their optimised build takes
//! more than that time.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, setup};

/// Nextest's expression for these tests: those of the group `computing` in `.config/nextest.toml`.
pub const FILTER: &str = "(package(cluster-simulation) or package(model-check)) and kind(test)";

/// The packages with these tests.
pub const PACKAGES: [&str; 2] = ["cluster-simulation", "model-check"];

/// The package of the program. It is selected with each package of [`PACKAGES`], because the selection determines the features
/// of libraries: those of the program are not built again.
const PROGRAM: &str = "mainstay";

/// Builds the tests.
///
/// # Errors
/// The directories of the tests cannot be read, or cargo fails.
pub fn build(root: &Path) -> Result<()> {
    run(|| cargo::command(root), &["test", "--no-run"], root)
}

/// Runs the tests with nextest and a low priority.
///
/// # Errors
/// The directories of the tests cannot be read, or a test fails.
pub fn run_in_background(root: &Path) -> Result<()> {
    run(|| cargo::in_background(root), cargo::NEXTEST, root)
}

/// Runs the tests with cargo's test runner.
///
/// # Errors
/// The directories of the tests cannot be read, or a test fails.
pub fn run_plainly(root: &Path) -> Result<()> {
    run(|| cargo::command(root), &["test", "--no-fail-fast"], root)
}

/// Builds and runs the program of one of [`PACKAGES`].
///
/// # Errors
/// Cargo or the program fails.
pub fn run_program(root: &Path, package: &str, arguments: &[&str]) -> Result<()> {
    let selection = ["--package", PROGRAM, "--package", package, "--bin", package];
    let build = [&["build", "--quiet", "--release"], &selection[..]].concat();
    cargo::run(root, &build)?;
    setup::run_built(root, &format!("release/{package}"), arguments)
}

/// Runs cargo for the tests of each package; after a failure also for the packages that follow.
fn run(cargo: impl Fn() -> Command, words: &[&str], root: &Path) -> Result<()> {
    let run = |package: &&str| {
        let directory = root.join("crates").join(package).join("tests");
        let names = test_names(&directory)?;
        let selection = ["--release", "--package", PROGRAM, "--package", package];
        let tests = names.iter().flat_map(|name| ["--test", name]);
        let options: Vec<&str> = selection.into_iter().chain(tests).collect();
        cargo::run_to_end(cargo(), &[words, &options].concat())
    };
    let results: Vec<Result<()>> = PACKAGES.iter().map(run).collect();
    results.into_iter().collect()
}

/// The names of the tests in a package's directory of tests: files, and directories with a `main.rs` (The Cargo Book, target
/// auto-discovery).
fn test_names(directory: &Path) -> Result<Vec<String>> {
    let context = || format!("read {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let is_test = path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").is_file();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        names.extend(stem.filter(|_| is_test).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_that_compute_are_a_group() {
        let groups = include_str!("../../../.config/nextest.toml");
        let group = format!("filter = '{FILTER}'\ntest-group = 'computing'");
        assert!(groups.contains(&group), "{groups}");
        for package in PACKAGES {
            assert!(FILTER.contains(&format!("package({package})")), "{package}");
        }
    }

    #[test]
    fn each_file_and_directory_with_a_main_is_a_test() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("worlds.rs"), "").unwrap();
        fs::write(path.join("notes.md"), "").unwrap();
        for (name, file) in [("volumes", "main.rs"), ("support", "mod.rs")] {
            fs::create_dir(path.join(name)).unwrap();
            fs::write(path.join(name).join(file), "").unwrap();
        }
        assert_eq!(test_names(path).unwrap(), ["volumes", "worlds"]);
        assert!(test_names(&path.join("absent")).is_err());
    }
}
