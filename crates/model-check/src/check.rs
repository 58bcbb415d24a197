//! Explores a world completely, or up to the first violation of a rule.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::counters::Counts;
use crate::model::StatefulSetModel;
use crate::seeded::Seeded;
use crate::story::story;
use crate::world::World;

/// The result of exploring a world.
#[derive(Clone, Debug)]
pub struct Report {
    /// The number of different states.
    pub states: usize,
    /// The length of the longest shortest path to a state.
    pub depth: usize,
    /// The number of different observed states that were planned.
    pub plans: usize,
    /// The counts of replies.
    pub counts: Counts,
    /// Whether the exploration is complete, or ended with a violation.
    pub complete: bool,
    /// The elapsed time.
    pub time: Duration,
    /// The first violation of a rule.
    pub violation: Option<Violation>,
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: &'static str,
    /// A path to the violation, in words; with one thread a shortest path.
    pub story: String,
}

/// Explores a world with the real planner.
pub fn check(world: World, threads: usize) -> Report {
    check_within(world, Seeded::default(), threads, None)
}

/// Explores a world with injected mistakes.
pub fn check_seeded(world: World, seeded: Seeded, threads: usize) -> Report {
    check_within(world, seeded, threads, None)
}

/// Explores a world, for at most that time.
pub fn check_within(
    world: World,
    seeded: Seeded,
    threads: usize,
    limit: Option<Duration>,
) -> Report {
    let begun = Instant::now();
    let builder = StatefulSetModel::seeded(world, seeded)
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures);
    let builder = match limit {
        Some(limit) => builder.timeout(limit),
        None => builder,
    };
    let checker = builder.spawn_bfs().join();
    let model = checker.model();
    let violation = checker.discoveries().into_iter().next();
    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        plans: model.plans.count(),
        counts: model.counters.snapshot(),
        time: begun.elapsed(),
        complete: limit.is_none_or(|limit| begun.elapsed() < limit),
        violation: violation.map(|(rule, path)| Violation {
            rule,
            story: story(model, &path.into_vec()),
        }),
    }
}
