//! Every interleaving of every small world: no rule is violated, and each world becomes idle as specified.
//!
//! A failure prints a path to the violation in words; with one thread it is a shortest path: `cargo xtask model-check
//! --world NAME --threads 1`.

use model_check::check::check;
use model_check::worlds;

#[test]
fn no_world_breaks_a_rule() {
    let mut refused = 0;
    for world in worlds::all().into_iter().filter(|world| !world.deep) {
        let name = world.name;
        let report = check(world, 2);
        if let Some(violation) = report.violation {
            panic!("{name}: {}\n{}", violation.rule, violation.story);
        }
        let counts = report.counts;
        println!("{name}: {} states in {:?}", report.states, report.time);
        assert!(report.states > 500, "{name} is hardly explored");
        assert!(counts.done > 500, "{name}: hardly anything is written");
        refused += counts.already_exists.min(1) + counts.conflict.min(1);
    }
    assert!(
        refused > 20,
        "worlds in which nothing is refused show little"
    );
}
