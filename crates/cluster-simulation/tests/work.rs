//! The work that follows from one event of a pod, in the API server, the controllers and the scheduler: it does not
//! grow with the number of other pods. The bytes of all allocations are counted, so a copy of other pods, or a list of
//! them, is detected. Deleted pods must leave no memory behind. The test is a separate program, because its allocator
//! counts the allocations of the whole process.

use std::alloc::System;

use cluster_simulation::lifetimes::{Sets, count_after_rounds, work_of_changes};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CHANGES: usize = 20;
const FEW: Sets = Sets {
    number: 5,
    replicas: 3,
};
const MANY: Sets = Sets {
    number: 50,
    replicas: 3,
};
/// Maximum number of bytes that each other pod adds to the work of a change, twice the measured number: a list of
/// references to all pods for each change would exceed it.
const BYTES_OF_ANOTHER_POD: usize = 13;

fn allocated_bytes() -> usize {
    MEMORY.stats().bytes_allocated
}

#[test]
fn the_work_for_an_event_of_a_pod_does_not_grow_with_the_number_of_pods() {
    let [few, many] = [FEW, MANY].map(|sets| {
        let bytes = work_of_changes(sets, CHANGES, allocated_bytes);
        let bytes = bytes.expect("a life without faults") / CHANGES;
        println!("{sets:?}: {bytes} bytes for a change");
        bytes
    });
    let others = (MANY.number - FEW.number) * MANY.replicas;
    let bound = few + others * BYTES_OF_ANOTHER_POD;
    assert!(
        many <= bound,
        "{many} bytes among many pods, {few} among few"
    );
}

const ROUND: Sets = Sets {
    number: 20,
    replicas: 3,
};
/// The number is high enough that values that are freed only in batches are freed in each half.
const ROUNDS: usize = 24;
/// Maximum number of bytes that a deleted pod leaves behind, in the program or in the records of the simulation: twice
/// the measured number.
const BYTES_OF_A_DELETED_POD: usize = 120;

fn live_bytes() -> usize {
    let stats = MEMORY.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// findings-2 R41
#[test]
fn deleted_pods_leave_nothing_in_memory() {
    let bytes = count_after_rounds(ROUND, ROUNDS, live_bytes).expect("a life without faults");
    println!("{bytes:?}");
    let (first, second) = bytes.split_at(ROUNDS / 2);
    let [first, second] = [first, second].map(|half| half.iter().copied().max());
    let pods = ROUNDS / 2 * ROUND.number * ROUND.replicas;
    let bound = first.expect("a round") + pods * BYTES_OF_A_DELETED_POD;
    assert!(second.expect("a round") <= bound, "{bytes:?}");
}
