//! Passes mutated valid inputs to every decoder of input from untrusted clients.
//!
//! Input number `i` of a target depends only on the target, the seed and `i`: these three values reproduce a
//! finding. Each target runs in a separate process with bounded memory, so that an endless loop, a stack
//! overflow and an excessive allocation are detected like a panic. Earlier findings are stored in
//! `corpus/<target>` and tried first.

mod mutate;
mod runner;
mod targets;

use std::process::ExitCode;

use cap::Cap;
use clap::Parser;

/// An allocation beyond the bound fails, which aborts the process.
#[global_allocator]
static MEMORY: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

#[derive(Parser)]
#[command(about = "Feeds decoders with inputs that were made from good ones by mutation")]
struct Arguments {
    /// The targets to run; all if none is named
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seed of the inputs; a random one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Runs this one input, and prints it
    #[arg(long, requires = "seed")]
    iteration: Option<u64>,
    /// Lists the targets
    #[arg(long)]
    list: bool,
    /// Where a process of one target notes the number of its input
    #[arg(long, hide = true)]
    note: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    match runner::run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzzing: {error:#}");
            ExitCode::FAILURE
        }
    }
}
