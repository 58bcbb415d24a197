//! The output streams.

use std::io::Write;

/// Writes text to standard output. A closed reader is no error.
pub fn show(text: &str) {
    std::io::stdout().write_all(text.as_bytes()).ok();
}

/// Writes a line to standard error.
pub fn warn(text: &str) {
    writeln!(std::io::stderr(), "mainstay-bench: {text}").ok();
}
