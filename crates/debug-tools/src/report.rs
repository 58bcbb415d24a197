//! The results of tools, and their messages on standard error.

use std::io::{self, Write};
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// The result of a tool: its exit status, or the error.
pub type ToolResult = Result<u8>;

/// The exit status of a program whose output pipe is closed.
pub const BROKEN_PIPE: u8 = 141;

/// The tool that this process runs.
static CALLED: OnceLock<&str> = OnceLock::new();

/// Sets the tool that this process runs; called once.
pub fn set_tool(name: &'static str) {
    CALLED.set(name).ok();
}

/// Writes a line to standard error, after the tool's name.
pub fn complain_as_tool(text: &str) {
    let name = CALLED.get().copied().unwrap_or("mainstay");
    complain(&format!("{name}: {text}"));
}

/// Writes a line to standard error, which may be closed.
pub fn complain(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Applies a function to each of several files, and continues after a failure.
pub fn each(names: &[String], mut work: impl FnMut(&str) -> Result<()>) -> ToolResult {
    let mut status = 0;
    for name in names {
        if let Err(error) = work(name).with_context(|| name.clone()) {
            // The output pipe is closed, so the remaining files are not needed.
            let cause = error.root_cause().downcast_ref::<io::Error>();
            if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
                return Err(error);
            }
            complain_as_tool(&format!("{error:#}"));
            status = 1;
        }
    }
    Ok(status)
}
