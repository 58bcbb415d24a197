//! The program's commands, as a user types them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `mainstay` with these arguments until it exits; standard input is empty.
///
/// # Panics
///
/// The program cannot be started.
pub fn mainstay(arguments: &[&str]) -> Output {
    let output = Command::new(crate::binary())
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.expect("run mainstay")
}

/// Runs `mainstay` and returns its output.
///
/// # Panics
///
/// The program fails.
#[track_caller]
pub fn ok(arguments: &[&str]) -> String {
    let output = mainstay(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `mainstay`, which must refuse the command with exit status 1; returns its error output.
///
/// # Panics
///
/// The program exits in another way.
#[track_caller]
pub fn refused(arguments: &[&str]) -> String {
    let output = mainstay(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A path as an argument.
///
/// # Panics
///
/// The path is not UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
