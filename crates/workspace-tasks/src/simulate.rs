//! `cargo xtask simulate`: builds the simulation with optimisation and runs worlds.

use std::path::Path;
use std::thread::available_parallelism;

use anyhow::Result;

use crate::computing;

/// The arguments of the simulation.
#[derive(clap::Args)]
pub struct Simulate {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Prints everything that happens (one world at a time)
    #[arg(long)]
    trace: bool,
    /// Runs each seed twice and compares
    #[arg(long)]
    twice: bool,
}

/// Runs the worlds, as many concurrently as there are processors.
pub fn run(root: &Path, options: &Simulate) -> Result<()> {
    let processors = available_parallelism().map_or(1, usize::from);
    let jobs = if options.trace { 1 } else { processors };
    let (from, seeds, jobs) = (
        options.from.to_string(),
        options.seeds.to_string(),
        jobs.to_string(),
    );
    let mut arguments = vec!["--from", &from, "--seeds", &seeds, "--jobs", &jobs];
    let flags = [(options.trace, "--trace"), (options.twice, "--twice")];
    arguments.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag));
    computing::run_program(root, "cluster-simulation", &arguments)
}
