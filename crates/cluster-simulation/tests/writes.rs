//! The number of API writes, and of the controllers' work, in the life of a pod of a StatefulSet: it is created and
//! becomes ready, is replaced by an update, and is deleted. In simulated time, so the numbers are equal in each run.
//! The bounds are a quarter above the counted numbers, because a change elsewhere may move a write to another window. A
//! higher number means an additional write for each pod.

use std::time::Duration;

use cluster_simulation::lifetimes::{Sets, count_writes, readiness_to_slice};
use cluster_simulation::tally::Tally;

/// Small sets, and one large set with equally many pods.
const SMALL: Sets = Sets {
    number: 20,
    replicas: 3,
};
const LARGE: Sets = Sets {
    number: 1,
    replicas: 60,
};

/// The kinds whose writes are collected for a window, with their maximum numbers: for 20 x 3 pods, where a window
/// contains two or three changes of a set (for Endpoints: all changes of a step), and for 1 x 60 pods, where the number
/// depends on the duration, not on the pods.
const COLLECTED: [(&str, u64, u64); 3] = [
    ("endpoints", 147, 9),
    ("endpointslices", 225, 35),
    ("statefulsets/status", 125, 30),
];

/// The kinds whose writes are not collected: a pod is started twice (created, bound, two statuses), and deleted twice,
/// by a controller and then by its node. Events are those of the scheduler, and those of the set for each pod; many
/// events of one set are combined.
const SINGLE: [(&str, u64, u64); 4] = [
    ("pods", 390, 390),
    ("pods/binding", 120, 120),
    ("pods/status", 290, 290),
    ("events", 430, 215),
];

/// Keys that controllers process, with the maximum numbers. A pod that becomes ready and a pod that is removed cause
/// one plan of the set each; the other plans are for statuses. In the window after a write, changes of pods queue no
/// Service. The garbage collector does not process an object with a live owner.
const WORK: [(&str, u64, u64); 3] = [
    ("statefulset", 540, 430),
    ("endpoint_slice", 590, 80),
    ("garbage_collector_attempt_to_delete", 250, 90),
];

fn counted(sets: Sets) -> Tally {
    let tally = count_writes(sets).expect("a life without faults");
    println!("{sets:?}: {tally:#?}");
    tally
}

#[test]
fn a_pods_life_costs_no_more_writes_than_before() {
    let (small, large) = (counted(SMALL), counted(LARGE));
    for (kind, of_small, of_large) in COLLECTED.into_iter().chain(SINGLE) {
        let (few, many) = (small.accepted_of(&[kind]), large.accepted_of(&[kind]));
        assert!(few <= of_small, "{kind}: {few} of {SMALL:?}");
        assert!(many <= of_large, "{kind}: {many} of {LARGE:?}");
    }
    for (queue, of_small, of_large) in WORK {
        let (few, many) = (small.worked[queue], large.worked[queue]);
        assert!(few <= of_small, "{queue}: {few} of {SMALL:?}");
        assert!(many <= of_large, "{queue}: {many} of {LARGE:?}");
        // A pod of a large set costs no more than a pod of a small set.
        assert!(many <= few, "{queue}: {many} > {few}");
    }
    for (kind, ..) in COLLECTED {
        let (few, many) = (small.accepted_of(&[kind]), large.accepted_of(&[kind]));
        assert!(many <= few, "{kind}: {many} > {few}");
    }
    for tally in [&small, &large] {
        // Each plan includes the writes of the plan before, so no write is repeated.
        assert!(tally.conflicts.is_empty(), "{tally:?}");
    }
}

/// The first change after a quiet time waits for no window: between the readiness and the slice there are only requests
/// and watches, of a millisecond each. DNS and the proxy add the time of their debounces, which their tests check.
#[test]
fn readiness_is_in_the_slice_at_once() {
    let time = readiness_to_slice().expect("a life without faults");
    assert!(time <= Duration::from_millis(6), "{time:?}");
}
