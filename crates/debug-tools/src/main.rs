//! The tools as a separate program, which the tests run: under a tool's name, or as `debug-tools NAME
//! ARGUMENTS…`.

use std::env::args_os;
use std::process::ExitCode;

fn main() -> ExitCode {
    let status = debug_tools::run(args_os()).or_else(|| debug_tools::run(args_os().skip(1)));
    status.unwrap_or(ExitCode::from(127))
}
