//! The searches in the model.

use std::collections::BTreeSet;

use super::{Mistake, World};

/// Explores all worlds of two nodes, up to a number.
fn explore(mistake: Mistake, limit: usize) -> usize {
    let start = World::start(mistake, 2);
    let mut visited = BTreeSet::from([start.clone()]);
    let mut level = vec![start];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for world in level {
            world.check();
            let next = world.next_worlds().into_iter();
            next_level
                .extend(next.filter(|next| visited.len() < limit && visited.insert(next.clone())));
            world.finish();
        }
        level = next_level;
    }
    visited.len()
}

/// The events that occurred in the walks.
#[derive(Debug, Default)]
struct WalkEvents {
    /// A replica was replaced.
    replaced: usize,
    /// A successor was abandoned.
    abandoned: usize,
    /// A former primary received the difference to the recovery point.
    continued: usize,
    promoted: usize,
}

/// The number of steps of a walk. Most steps are the leader's.
const STEPS: usize = 200;

/// Random walks through worlds of three nodes; the walks are equal in each run.
fn walk(mistake: Mistake, walks: u64) -> WalkEvents {
    let mut events = WalkEvents::default();
    for walk in 1..=walks {
        let mut random = walk.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut world = World::start(mistake, 3);
        for _ in 0..STEPS {
            // The generator of Marsaglia (2003), "Xorshift RNGs".
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut next = Vec::new();
            if !(random >> 32).is_multiple_of(4) {
                world.add_leader_steps(&mut next);
            }
            if next.is_empty() {
                next = world.next_worlds();
            }
            let count = next.len() as u64;
            if count == 0 {
                break;
            }
            let next = next.swap_remove((random % count) as usize);
            events.add(&world, &next);
            world = next;
            world.check();
        }
        world.finish();
    }
    events
}

impl WalkEvents {
    fn add(&mut self, before: &World, after: &World) {
        let (old, new) = (&before.record, &after.record);
        self.replaced += usize::from(old.successor.is_some() && new.replica == old.successor);
        self.abandoned += usize::from(
            old.successor.is_some() && new.successor.is_none() && new.replica == old.replica,
        );
        self.promoted += usize::from(old.primary != new.primary);
        let point = new.recovery.as_ref().map(|recovery| recovery.time);
        let stream = after.stream.as_ref();
        let continues = stream.is_some_and(|stream| {
            let base = stream.base.as_ref().map(|(time, _)| *time);
            base == point && point.is_some()
        });
        self.continued += usize::from(continues && before.stream.is_none());
    }
}

// docs/storage.md: no split brain, the recovery point is the recorded copy, and diverged states are retained.
#[test]
fn no_interleaving_has_two_running_pods_or_loses_a_write() {
    let count = explore(Mistake::None, 80_000);
    assert!(count > 10_000, "{count}");
}

#[test]
fn mistakes_are_detected() {
    for mistake in [
        Mistake::NoProof,
        Mistake::AnyEpoch,
        Mistake::NoDivergence,
        Mistake::EarlyProof,
        Mistake::AnyCopy,
        Mistake::OtherBase,
    ] {
        let result = std::panic::catch_unwind(|| explore(mistake, 80_000));
        assert!(result.is_err(), "{mistake:?} was not detected");
    }
}

/// The second pod starts when the promoted copy is the volume.
#[test]
fn agents_with_an_earlier_record_are_detected() {
    let result = std::panic::catch_unwind(|| walk(Mistake::StaleAgents, 3000));
    assert!(result.is_err());
}

// docs/storage.md: a replica whose node stays away is replaced.
#[test]
fn a_third_node_replaces_a_replica() {
    let events = walk(Mistake::None, 600);
    let all = [
        events.replaced,
        events.abandoned,
        events.continued,
        events.promoted,
    ];
    assert!(all.iter().all(|count| *count > 3), "{events:?}");
}

#[test]
fn a_promotion_by_an_earlier_record_is_detected() {
    let result = std::panic::catch_unwind(|| walk(Mistake::PromoteStaleReplica, 3000));
    assert!(result.is_err());
}
