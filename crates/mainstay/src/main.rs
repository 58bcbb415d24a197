//! The program. Its code is a library, because cargo compiles a library as soon as its dependencies have
//! metadata, and a program only after they are complete.

use std::process::ExitCode;

use host_kernel::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    mainstay::main()
}
