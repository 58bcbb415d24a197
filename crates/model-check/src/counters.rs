//! Counters of replies during the exploration of a world: without refusals a world tests less than expected.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::server::Reply;

/// The number of each reply, and the number of rounds until the world is idle.
#[derive(Debug, Default)]
pub struct Counters {
    done: AtomicU64,
    already_exists: AtomicU64,
    not_found: AtomicU64,
    conflict: AtomicU64,
    rounds_max: AtomicU64,
}

/// The counts at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were executed.
    pub done: u64,
    /// Creations of existing objects.
    pub already_exists: u64,
    /// Writes to missing objects.
    pub not_found: u64,
    /// Writes to another or a changed object.
    pub conflict: u64,
    /// The number of fair rounds that the slowest state needed.
    pub rounds_max: u64,
}

impl Counters {
    /// Counts a reply.
    pub fn count_reply(&self, reply: Reply) {
        let counter = match reply {
            Reply::Done => &self.done,
            Reply::AlreadyExists => &self.already_exists,
            Reply::NotFound => &self.not_found,
            Reply::Conflict | Reply::Held => &self.conflict,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the number of rounds that a state needed.
    pub fn record_rounds(&self, rounds: usize) {
        let rounds = u64::try_from(rounds).unwrap_or(u64::MAX);
        self.rounds_max.fetch_max(rounds, Ordering::Relaxed);
    }

    /// The present counts.
    pub fn snapshot(&self) -> Counts {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            done: value(&self.done),
            already_exists: value(&self.already_exists),
            not_found: value(&self.not_found),
            conflict: value(&self.conflict),
            rounds_max: value(&self.rounds_max),
        }
    }
}
