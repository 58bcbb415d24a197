//! The output of a command on the terminal: lines, and a block of lines at the bottom. All text passes one
//! filter, so that no text from the cluster can control the terminal.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod output;
pub mod plain;
pub mod terminal;
