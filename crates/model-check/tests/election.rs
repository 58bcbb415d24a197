//! The world of two servers that elect a leader, and the injected mistakes that must be detected in it.

use model_check::election::{Mistake, explore};

#[test]
fn two_servers_never_lead_at_once() {
    let report = explore(None, 2);
    println!("{} states, depth {}", report.states, report.depth);
    assert_eq!(report.violation, None);
}

#[test]
fn each_mistake_is_detected() {
    for mistake in [
        Mistake::CountedFromResponse,
        Mistake::WrittenUnconditionally,
        Mistake::CountedFromStart,
    ] {
        let report = explore(Some(mistake), 2);
        println!(
            "{mistake:?}: {} states, {:?}",
            report.states, report.violation
        );
        let violation = report.violation.unwrap_or_default();
        assert!(
            violation.starts_with("two servers lead"),
            "{mistake:?}: {violation}"
        );
    }
}
