//! The world of a lost node, and the mistakes that must be found in it.

use model_check::fence::{Mistake, explore};

#[test]
fn a_pod_of_a_lost_node_never_has_two_bodies() {
    let report = explore(None, 2);
    println!("{} states, depth {}", report.states, report.depth);
    assert_eq!(report.violation, None);
}

#[test]
fn each_mistake_is_found() {
    for mistake in [
        Mistake::CountedFromAnswer,
        Mistake::BeforeAcknowledgement,
        Mistake::PredecessorsClock,
        Mistake::TakenUnconditionally,
        Mistake::RenewedUnconditionally,
        Mistake::WithoutNesting,
        Mistake::ReturnsWithoutProof,
    ] {
        let report = explore(Some(mistake), 2);
        println!(
            "{mistake:?}: {} states, {:?}",
            report.states, report.violation
        );
        let found = report.violation.unwrap_or_default();
        assert!(found.contains("two bodies"), "{mistake:?}: {found}");
    }
}
