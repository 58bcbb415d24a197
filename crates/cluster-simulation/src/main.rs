//! Runs simulated worlds: one line for each failed world, with the command that repeats it.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use cluster_simulation::run::{self, Mutation, Options};
use cluster_simulation::trace::Summary;

#[derive(Parser)]
#[command(about = "Simulates the control plane with nodes, users and faults, from a seed")]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Prints every event
    #[arg(long)]
    trace: bool,
    /// Runs each seed twice and compares
    #[arg(long)]
    twice: bool,
    /// Injects a mistake; succeeds as soon as the checks detect the mistake
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Number of worlds that run concurrently
    #[arg(long, default_value_t = 1)]
    jobs: u64,
}

fn main() -> ExitCode {
    match simulate(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(arguments: &Arguments) -> Result<()> {
    let options = Options {
        prints_events: arguments.trace,
        mutation: arguments.mutation,
    };
    let started = Instant::now();
    let warm = run::WarmProcess::new();
    let mut failed = 0;
    let mut seeds = arguments.from..arguments.from + arguments.seeds;
    let mut running = VecDeque::new();
    loop {
        while running.len() < arguments.jobs.max(1) as usize
            && let Some(seed) = seeds.next()
        {
            let again = arguments.twice.then(|| warm.start(seed, options));
            running.push_back((seed, warm.start(seed, options)?, again.transpose()?));
        }
        let Some((seed, world, again)) = running.pop_front() else {
            break;
        };
        let summary = world.finish()?;
        if let Some(again) = again
            && again.finish()? != summary
        {
            bail!("seed {seed} has two different traces");
        }
        if summary.broken.is_empty() {
            continue;
        }
        failed += 1;
        if arguments.mutation.is_some() {
            println!("seed {seed} finds it: {}", summary.broken[0]);
            return Ok(());
        }
        report(seed, &summary);
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = arguments.seeds as f64 / seconds;
    println!(
        "{} seeds, {failed} failed, {seconds:.0} s, {rate:.1} seeds/s",
        arguments.seeds
    );
    if failed > 0 {
        bail!("{failed} of {} seeds failed", arguments.seeds);
    }
    if arguments.mutation.is_some() {
        bail!("the mistake was not found");
    }
    Ok(())
}

fn report(seed: u64, summary: &Summary) {
    for line in &summary.tail {
        println!("{line}");
    }
    for broken in &summary.broken {
        println!("seed {seed}: {broken}");
    }
    println!("to repeat: cargo xtask simulate --from {seed} --seeds 1 --trace");
}
