//! Starts cargo in the workspace.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Settings of programs in Go: kubectl, helm, etcd, the registry. Most of them run for less than a second, and need a
/// fifth less processor time without garbage collection. `GOMEMLIMIT` is the size of memory at which collection starts
/// nevertheless.
const GO_SETTINGS: [(&str, &str); 2] = [("GOGC", "off"), ("GOMEMLIMIT", "128MiB")];

/// The compiler of tests is that of clippy, which also lints what it compiles, so that the tests are not checked a second
/// time for the lints alone. Warnings are errors. It does not optimise MIR: no released program is compiled with it
/// (decision 084).
const LINTING_COMPILER: [(&str, &str); 2] = [
    ("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"),
    ("CLIPPY_ARGS", "-Dwarnings"),
];

/// The first words of each nextest command.
pub const NEXTEST: &[&str] = &["nextest", "run", "--no-fail-fast"];

/// Runs cargo. Fails if cargo fails.
pub fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    run_to_end(command(root), arguments)
}

/// Runs cargo for tests. Fails if cargo fails.
pub fn run_for_tests(root: &Path, arguments: &[&str]) -> Result<()> {
    run_to_end(for_tests(root), arguments)
}

/// A cargo command for all tests that do not only compute, with the checks of a debug build.
pub fn for_tests(root: &Path) -> Command {
    let mut cargo = command(root);
    cargo.envs(LINTING_COMPILER);
    cargo
}

/// A cargo command for tests that only compute, with a lower priority than that of the tests that run concurrently. With a
/// niceness of 10 some got so little processor time that they reached their time limit.
pub fn in_background(root: &Path) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "5"]).arg(program());
    in_clean_environment(nice, root)
}

/// The standard output of a cargo command; the words of the command have one space between them.
pub fn output(root: &Path, words: &str) -> Result<String> {
    let output = command(root)
        .args(words.split(' '))
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("cargo {words} ended with {}: {reason}", output.status);
    }
    String::from_utf8(output.stdout).context("read the output of cargo")
}

/// Runs a cargo command. Fails if the command fails.
pub fn run_to_end(mut command: Command, arguments: &[&str]) -> Result<()> {
    let status = command.args(arguments).status().context("start cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// The number of output lines that the error of a failed program repeats.
const LAST_LINES: usize = 60;

/// Runs cargo; the error of a failure ends with the last lines of the output: steps run concurrently, and the
/// reason must be at the end of the whole output.
pub fn run_to_end_with_last_lines(mut command: Command, arguments: &[&str]) -> Result<()> {
    let (output, input) = std::io::pipe().context("make a pipe")?;
    command
        .args(arguments)
        .stdout(input.try_clone().context("copy the pipe")?)
        .stderr(input);
    let mut running = command.spawn().context("start cargo")?;
    // Closes this process's write end, so that the pipe ends with the child.
    drop(command);
    let mut last = VecDeque::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the output of cargo")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        println!("{line}");
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = running.wait().context("wait for cargo")?;
    if !status.success() {
        let last_lines: Vec<String> = last.into();
        bail!(
            "cargo {} ended with {status}; its last lines:\n{}",
            arguments.join(" "),
            last_lines.join("\n")
        );
    }
    Ok(())
}

/// A cargo command with a clean environment: cargo sets variables for the package of this program, which
/// would change build scripts (`ring`) and rebuild their dependents at each switch between xtask and cargo.
pub fn command(root: &Path) -> Command {
    in_clean_environment(Command::new(program()), root)
}

fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn in_clean_environment(mut command: Command, root: &Path) -> Command {
    command.current_dir(root).envs(GO_SETTINGS);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_the_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether cargo sets the variable for the package of a running program (The Cargo Book, environment
/// variables that Cargo sets for crates).
fn is_of_the_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_program_has_the_last_lines_of_its_output() {
        let lines = "seq 1 100; echo mistake >&2; exit 3";
        let failing = run_to_end_with_last_lines(Command::new("sh"), &["-c", lines]);
        let message = failing.unwrap_err().to_string();
        assert!(message.contains("ended with exit status: 3"), "{message}");
        assert!(message.ends_with("\n99\n100\nmistake"), "{message}");
        assert!(!message.contains("\n41\n"), "{message}");
        run_to_end_with_last_lines(Command::new("true"), &[]).unwrap();
    }

    #[test]
    fn cargo_is_started_as_if_by_hand() {
        // Tests are run with these variables, too.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let cargo = command(Path::new("/"));
        let removed = |name: &str| {
            cargo
                .get_envs()
                .any(|(key, value)| key == name && value.is_none())
        };
        assert!(removed("CARGO_MANIFEST_DIR"));
        assert!(removed("CARGO_PKG_NAME"));
        assert!(!removed("CARGO_HOME"));
        assert!(!removed("PATH"));
    }
}
