//! The compiler of the tests: cargo starts this program in place of rustc for each crate of the workspace
//! (`RUSTC_WORKSPACE_WRAPPER`).
//!
//! Libraries and programs are compiled as they are released: the tests and the release programs share them, and the tests
//! test what is released. The tests themselves are compiled with the checks of a debug build, and without optimisation, which
//! would take longer than they run; only models are optimised. A unit test has the code of its crate in it, so that has
//! the checks, too.
//!
//! Clippy examines each crate once. It compiles the tests, the unit tests of each library among them. Clippy's compiler
//! optimises less, so rustc compiles the libraries and programs; clippy examines a program before, because few have unit
//! tests.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Error, Result, bail, ensure};

const CLIPPY: &str = "clippy-driver";

/// The crate whose tests explore millions of states.
const MODELS: &str = "model-check";

/// An option of all tests but those of the models. Of two values of an option rustc takes the last one.
const UNOPTIMISED: &str = "-Copt-level=0";

/// Options of tests and benchmarks.
const OF_TESTS: [&str; 3] = [
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    // A panic has the names of functions.
    "-Cstrip=debuginfo",
];

/// Whether cargo started this program as the compiler: the first argument is the path of rustc.
pub fn is_wanted(arguments: &[OsString]) -> bool {
    let first = arguments.first().map(Path::new);
    first.is_some_and(|path| path.file_stem().is_some_and(|name| name == "rustc"))
}

/// Becomes the compiler.
///
/// # Errors
/// There is no compiler, or clippy finds something in a program.
pub fn become_compiler(arguments: &[OsString]) -> Result<()> {
    let [rustc, of_rustc @ ..] = arguments else {
        bail!("cargo names no compiler");
    };
    let mut compiler = Command::new(rustc);
    compiler.args(of_rustc);
    match Unit::of(of_rustc) {
        Unit::Tests { optimised } => {
            compiler = Command::new(CLIPPY);
            compiler.args(arguments).args(OF_TESTS);
            if !optimised {
                compiler.arg(UNOPTIMISED);
            }
        }
        Unit::Program => {
            let examined = of_rustc.iter().map(|argument| without_code(argument));
            let status = Command::new(CLIPPY).arg(rustc).args(examined).status();
            let status = status.context("start clippy-driver")?;
            ensure!(status.success(), "clippy-driver ended with {status}");
        }
        Unit::Library => {}
    }
    Err(Error::new(compiler.exec()).context("start the compiler"))
}

/// The kinds of crates, which are compiled in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Tests and benchmarks.
    Tests { optimised: bool },
    /// A program that is released.
    Program,
    /// A library that is released, or a question of cargo about the compiler.
    Library,
}

impl Unit {
    fn of(arguments: &[OsString]) -> Self {
        let Some(source) = arguments.iter().map(Path::new).find(|path| is_source(path)) else {
            return Self::Library;
        };
        // Tests without the usual harness have no `--test`.
        let is_below_tests = source
            .iter()
            .any(|name| name == "tests" || name == "benches");
        if is_below_tests || arguments.iter().any(|argument| argument == "--test") {
            let optimised = source.iter().any(|name| name == MODELS);
            return Self::Tests { optimised };
        }
        match arguments
            .windows(2)
            .any(|two| two == ["--crate-type", "bin"])
        {
            true => Self::Program,
            false => Self::Library,
        }
    }
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// An argument for a compiler that generates no code.
fn without_code(argument: &OsStr) -> &OsStr {
    let is_output = argument.as_encoded_bytes().starts_with(b"--emit=");
    match is_output {
        true => OsStr::new("--emit=metadata"),
        false => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn tests_libraries_and_programs_are_distinguished() {
        let of = |text: &str| Unit::of(&arguments(text));
        let models = "--crate-name b crates/model-check/tests/b.rs --test";
        assert_eq!(of(models), Unit::Tests { optimised: true });
        let unoptimised = Unit::Tests { optimised: false };
        for tests in [
            "--crate-name a crates/a/src/lib.rs --emit=link --test",
            "--crate-name a crates/a/src/main.rs --emit=link --test",
            "--crate-name b crates/a/tests/b.rs --test",
            "--crate-name own crates/a/tests/own/main.rs --crate-type bin",
            "--crate-name c crates/a/benches/c.rs --crate-type bin",
        ] {
            assert_eq!(of(tests), unoptimised, "{tests}");
        }
        let program = "--crate-name a crates/a/src/main.rs --crate-type bin --emit=link";
        assert_eq!(of(program), Unit::Program);
        for other in [
            "--crate-name a crates/a/src/lib.rs --crate-type lib",
            "-vV",
            "- --crate-name ___ --print=file-names --crate-type bin --crate-type rlib",
        ] {
            assert_eq!(of(other), Unit::Library, "{other}");
        }
    }

    #[test]
    fn a_program_is_examined_without_code() {
        let emitted = ["--emit=dep-info,link", "--crate-name", "a"].map(OsStr::new);
        let wanted = ["--emit=metadata", "--crate-name", "a"];
        assert_eq!(emitted.map(without_code), wanted);
    }

    #[test]
    fn a_chore_is_not_taken_for_the_compiler() {
        assert!(is_wanted(&arguments("/toolchain/bin/rustc -vV")));
        assert!(is_wanted(&arguments("rustc --crate-name a")));
        assert!(!is_wanted(&arguments("test --without-end-to-end")));
        assert!(!is_wanted(&[]));
    }
}
