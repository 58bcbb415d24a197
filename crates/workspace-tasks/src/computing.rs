//! The tests that only compute: simulated worlds and models. They are built with optimisation, because they then need a fifth of
//! the processor time, and the longest test a ninth. The tests of decisions compute for a minute without optimisation, and
//! their optimised build takes more than twice that time.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo;

/// Nextest's expression for these tests: those of the group `computing` in `.config/nextest.toml`.
pub const FILTER: &str = "(package(cluster-simulation) or package(model-check)) and kind(test)";

/// The packages with these tests.
pub const PACKAGES: [&str; 2] = ["cluster-simulation", "model-check"];

/// Builds the tests.
///
/// # Errors
/// The directories of the tests cannot be read, or cargo fails.
pub fn build(root: &Path) -> Result<()> {
    run(cargo::for_computing(root), &["test", "--no-run"], root)
}

/// Runs the tests with nextest and a low priority.
///
/// # Errors
/// The directories of the tests cannot be read, or a test fails.
pub fn run_in_background(root: &Path) -> Result<()> {
    let nextest = [cargo::NEXTEST, &["--filterset", FILTER]].concat();
    run(cargo::for_computing_in_background(root), &nextest, root)
}

fn run(cargo: Command, words: &[&str], root: &Path) -> Result<()> {
    let selection = selection(root)?;
    let selection: Vec<&str> = selection.iter().map(String::as_str).collect();
    cargo::run_to_end(cargo, &[words, &selection].concat())
}

/// Cargo's options for the tests. All packages are selected, because the selection determines the features of libraries:
/// each library is built once for all tests.
fn selection(root: &Path) -> Result<Vec<String>> {
    let mut options = vec!["--workspace".to_owned()];
    for package in PACKAGES {
        let directory = root.join("crates").join(package).join("tests");
        for name in test_names(&directory)? {
            options.extend(["--test".to_owned(), name]);
        }
    }
    Ok(options)
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
