//! The world of a lost node, and the injected mistakes that must be detected in it.

use model_check::fence::{Mistake, World, explore};

fn check_world(world: World) {
    let report = explore(world, None, 2);
    println!("{} states, depth {}", report.states, report.depth);
    assert_eq!(report.violation, None);
}

#[test]
fn a_pod_of_a_lost_node_never_has_two_instances() {
    check_world(World::LostNode);
}

#[test]
fn a_pod_of_a_lost_node_whose_object_is_deleted_never_has_two_instances() {
    check_world(World::DeletedNode);
}

#[test]
fn each_mistake_is_detected() {
    let everywhere = [
        Mistake::CountedFromResponse,
        Mistake::BeforeAcknowledgement,
        Mistake::PredecessorsClock,
        Mistake::ContinuedOverRenewal,
        Mistake::FencedUnconditionally,
        Mistake::RenewedUnconditionally,
        Mistake::WithoutNesting,
        Mistake::ReturnsWithoutProof,
    ]
    .map(|mistake| (World::LostNode, mistake));
    let with_deletions = [
        Mistake::CreatedInServedEpoch,
        Mistake::RemovedWhileRenewed,
        Mistake::DeletedLeaseIsProof,
    ]
    .map(|mistake| (World::DeletedNode, mistake));
    for (world, mistake) in everywhere.into_iter().chain(with_deletions) {
        let report = explore(world, Some(mistake), 2);
        println!(
            "{mistake:?}: {} states, {:?}",
            report.states, report.violation
        );
        let violation = report.violation.unwrap_or_default();
        assert!(
            violation.contains("two running instances"),
            "{mistake:?}: {violation}"
        );
    }
}
