//! The terminal of a command: lines of output, and lines that stay at its foot.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod output;
pub mod terminal;
