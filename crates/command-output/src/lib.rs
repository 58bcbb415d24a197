//! The output of a command on the terminal: lines, a block of lines at the bottom, and tables. All text passes one
//! filter, so that no text from the cluster can control the terminal. Errors with the step that failed.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod columns;
pub mod failed_step;
pub mod output;
pub mod plain;
pub mod terminal;
