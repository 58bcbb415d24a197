//! `cargo xtask model-check`: explores worlds and prints the results.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use model_check::check::{Report, check_within};
use model_check::election;
use model_check::fence::{self, World};
use model_check::seeded::Seeded;
use model_check::state::Budget;
use model_check::worlds;

/// Explores every interleaving of small worlds with the StatefulSet planner.
#[derive(Parser)]
struct Arguments {
    /// Explore only this world.
    #[arg(long)]
    world: Option<String>,
    /// Explore the large worlds too.
    #[arg(long)]
    deep: bool,
    /// Only list the worlds.
    #[arg(long)]
    list: bool,
    /// Maximum number of changes by users, instead of the world's number.
    #[arg(long)]
    edits: Option<u8>,
    /// Maximum number of faults, instead of the world's number.
    #[arg(long)]
    faults: Option<u8>,
    /// Maximum number of controllers that take over, instead of the world's number.
    #[arg(long)]
    takeovers: Option<u8>,
    /// Maximum number of times that a watch falls behind, instead of the world's number; 255 is no bound.
    #[arg(long)]
    lags: Option<u8>,
    /// Maximum number of lost responses, instead of the world's number.
    #[arg(long = "lost-answers")]
    lost_responses: Option<u8>,
    /// Stop the exploration of a world after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Number of threads that explore; with one thread, a violation is reported with a shortest path.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

impl Arguments {
    fn budget(&self, default: Budget) -> Budget {
        Budget {
            edits: self.edits.unwrap_or(default.edits),
            faults: self.faults.unwrap_or(default.faults),
            takeovers: self.takeovers.unwrap_or(default.takeovers),
            lost_responses: self.lost_responses.unwrap_or(default.lost_responses),
            lags: self.lags.unwrap_or(default.lags),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut worlds = worlds::all();
    match &arguments.world {
        Some(name) => worlds.retain(|world| world.name == name),
        None => worlds.retain(|world| arguments.deep || !world.deep),
    }
    let fence_worlds = World::ALL.into_iter().filter(|world| {
        let name = arguments.world.as_deref();
        name.is_none_or(|name| name == world.name())
    });
    let fence_worlds: Vec<World> = fence_worlds.collect();
    let has_election = arguments
        .world
        .as_deref()
        .is_none_or(|name| name == election::NAME);
    if worlds.is_empty() && fence_worlds.is_empty() && !has_election {
        eprintln!("there is no such world; see --list");
        return ExitCode::FAILURE;
    }
    let mut is_passed = true;
    if arguments.list {
        for world in worlds {
            println!("{:<24} {}", world.name, world.about);
        }
        for world in fence_worlds {
            println!("{:<24} {}", world.name(), world.about());
        }
        if has_election {
            println!("{:<24} {}", election::NAME, election::ABOUT);
        }
        return ExitCode::SUCCESS;
    }
    println!("{}", header());
    let fence_worlds = fence_worlds.into_iter().map(|world| {
        let exploration = fence::explore(world, None, arguments.threads);
        (world.name(), exploration)
    });
    let election = has_election.then(|| {
        let exploration = election::explore(None, arguments.threads);
        (election::NAME, exploration)
    });
    for (name, report) in fence_worlds.chain(election) {
        let (states, depth) = (report.states, report.depth);
        println!("{name:<24} {states:>10} {depth:>6}");
        if let Some(violation) = &report.violation {
            is_passed = false;
            println!("\nbroken: {violation}");
        }
    }
    for mut world in worlds {
        let name = world.name;
        world.budget = arguments.budget(world.budget);
        let limit = arguments.seconds.map(Duration::from_secs);
        let report = check_within(world, Seeded::default(), arguments.threads, limit);
        println!("{}", row(name, &report));
        if let Some(violation) = &report.violation {
            is_passed = false;
            println!("\nbroken: {}\n{}", violation.rule, violation.story);
        }
    }
    if is_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn header() -> String {
    format!(
        "{:<24} {:>10} {:>6} {:>8} {:>10} {:>9} {:>9} {:>7} {:>8}",
        "world", "states", "depth", "plans", "writes", "exists", "conflict", "rounds", "time"
    )
}

fn row(name: &str, report: &Report) -> String {
    let counts = &report.counts;
    format!(
        "{name:<24} {:>10} {:>6} {:>8} {:>10} {:>9} {:>9} {:>7} {:>7.1}s{}",
        report.states,
        report.depth,
        report.plans,
        counts.done,
        counts.already_exists,
        counts.conflict,
        counts.rounds_max,
        report.time.as_secs_f64(),
        if report.complete { "" } else { " (given up)" }
    )
}
