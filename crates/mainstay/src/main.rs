//! The program. Its code is a library, which is compiled while other crates still are; a program
//! would have to wait for all of them.

use std::process::ExitCode;

use host_kernel::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    mainstay::main()
}
