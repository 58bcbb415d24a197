//! The number of API writes in the life of a pod of a StatefulSet: it is created and becomes ready,
//! is replaced by an update, and is deleted. In simulated time, so the numbers are always the same.

use simulation::lifetimes::{Sets, count_writes};
use simulation::tally::Tally;

/// Small sets, and one large set; as many pods each.
const SMALL: Sets = Sets {
    number: 20,
    replicas: 3,
};
const LARGE: Sets = Sets {
    number: 1,
    replicas: 60,
};

fn counted(sets: Sets) -> Tally {
    let tally = count_writes(sets).expect("a life without faults");
    println!("{sets:?}: {tally:#?}");
    tally
}

#[test]
fn writes() {
    counted(SMALL);
    counted(LARGE);
}
