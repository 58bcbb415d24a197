//! The program's own commands, as a person types them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `mainstay` with these arguments to its end; nobody answers its questions.
///
/// # Panics
/// When it cannot be started.
pub fn mainstay(arguments: &[&str]) -> Output {
    let output = Command::new(crate::binary())
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.expect("run mainstay")
}

/// Runs `mainstay` and returns what it prints.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn ok(arguments: &[&str]) -> String {
    let output = mainstay(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `mainstay` and returns with what it refuses (exit status 1).
///
/// # Panics
/// When it ends in another way.
#[track_caller]
pub fn refused(arguments: &[&str]) -> String {
    let output = mainstay(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A path as an argument.
///
/// # Panics
/// When it is not UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
