//! The shim as a separate program, for the tests of this crate. The program of the project calls this
//! function, too.

use std::process::ExitCode;

fn main() -> ExitCode {
    container_runtime::shim::main(std::env::args_os().skip(1))
}
