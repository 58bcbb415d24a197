//! A shim alone, for this crate's tests; the product's own binary calls the same function.

use std::process::ExitCode;

fn main() -> ExitCode {
    container_runtime::shim::main(std::env::args_os().skip(1))
}
