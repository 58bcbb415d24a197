//! The terminal of a command: lines of output, and lines that stay at its foot. Everything printed goes through one
//! filter, so that no text of others controls the terminal.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod output;
pub mod plain;
pub mod terminal;
