//! The program. Its code is a library, which is compiled while other crates still are; a program
//! would have to wait for all of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay::main()
}
