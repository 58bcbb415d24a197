//! Sets with a policy.

use crate::state::{Answer, Checks};
use crate::world::{Edit, Fault, World, budget, plain, templates};

/// Rollouts that a policy judges: template 1 is bad, and pods of the others may be slow.
pub(super) fn verdicts() -> Vec<World> {
    let judged = |world: World, answer: Answer| {
        world.settled(2).with(|world| {
            world.bad_templates = &[1];
            world.spec.on_failure = Some(answer);
        })
    };
    vec![
        judged(
            plain("verdict-hold", "a rollout that fails is held"),
            Answer::Hold,
        )
        .edits(templates(&[0, 1, 2]))
        .faults(&[Fault::Slow, Fault::Delete, Fault::Unready])
        .budget(budget(2, 1, 0, 0, 0)),
        judged(
            plain("verdict-rollback", "a rollout that fails is taken back"),
            Answer::Rollback,
        )
        .edits(templates(&[0, 1, 2]))
        .faults(&[Fault::Slow, Fault::Delete])
        .budget(budget(2, 1, 0, 0, 1)),
        judged(
            plain("verdict-lagging", "the same with watches behind"),
            Answer::Rollback,
        )
        .edits(templates(&[1, 2]))
        .faults(&[Fault::Slow])
        .budget(budget(2, 1, 0, 1, 0)),
        judged(
            plain("verdict-takeover", "the same with a second controller"),
            Answer::Rollback,
        )
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Slow])
        .budget(budget(2, 1, 1, 0, 0)),
        judged(
            plain(
                "verdict-parallel",
                "all at once, a guard that holds healthy pods, and verdicts that a user removes",
            ),
            Answer::Rollback,
        )
        .parallel()
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Slow, Fault::Pardon])
        .budget(budget(2, 1, 0, 0, 0))
        .with(|world| {
            world.spec.replicas = 3;
            (world.max_unavailable, world.spec.min_healthy) = (Some(2), 1);
        }),
        judged(
            plain("verdict-policy", "the policy changes its answer"),
            Answer::Hold,
        )
        .edits(vec![
            Edit::Template(1),
            Edit::Template(0),
            Edit::OnFailure(None),
            Edit::OnFailure(Some(Answer::Rollback)),
        ])
        .faults(&[Fault::Delete])
        .budget(budget(3, 1, 0, 0, 0)),
        judged(
            plain(
                "verdict-partition",
                "pods below the partition stay, on the way back as well",
            ),
            Answer::Rollback,
        )
        .edits(vec![
            Edit::Template(1),
            Edit::Template(0),
            Edit::Partition(0),
        ])
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 0, 0, 0))
        .with(|world| (world.spec.replicas, world.spec.partition) = (3, 1)),
        judged(
            plain("verdict-recreate", "all pods end, on the way back as well"),
            Answer::Rollback,
        )
        .parallel()
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Slow, Fault::Delete])
        .budget(budget(2, 1, 0, 0, 0))
        .with(|world| world.spec.recreate = true),
    ]
}

/// Rollouts under a guard with checks of its own.
pub(super) fn guard_checks() -> Vec<World> {
    let guarded = |world: World, checks: Checks| {
        world
            .settled(2)
            .with(|world| (world.spec.min_healthy, world.spec.checks) = (1, checks))
    };
    let recovery = Checks {
        recovery: true,
        ..Checks::default()
    };
    let health = Checks {
        health: true,
        ..Checks::default()
    };
    vec![
        guarded(
            plain(
                "recovered",
                "the next pod waits for the recovery of the others, results are late",
            ),
            recovery,
        )
        .edits(templates(&[0, 1]))
        .faults(&[
            Fault::LateResult,
            Fault::Relapse,
            Fault::Delete,
            Fault::Evict,
        ])
        .budget(budget(2, 2, 0, 0, 0)),
        guarded(
            plain(
                "recovered-parallel",
                "the same in a set that updates two pods at once",
            ),
            recovery,
        )
        .parallel()
        .edits(templates(&[0, 1]))
        .faults(&[Fault::LateResult, Fault::Relapse, Fault::Unready])
        .budget(budget(1, 1, 0, 0, 0))
        .with(|world| (world.spec.replicas, world.max_unavailable) = (3, Some(2))),
        guarded(
            plain(
                "recovered-never",
                "a template whose pods never recover, put right or taken back, watches behind",
            ),
            recovery,
        )
        .edits(templates(&[0, 1, 2]))
        .budget(budget(2, 0, 0, 1, 0))
        .with(|world| world.never_recovered = &[1]),
        guarded(
            plain(
                "health-check",
                "pods are ready and fail the check of the guard, deletions are announced",
            ),
            health,
        )
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Sick, Fault::Evict, Fault::Announce])
        .budget(budget(2, 2, 0, 0, 0))
        .with(|world| world.never_healthy = &[1]),
        guarded(
            plain("health-check-takeover", "the same with a second controller"),
            Checks {
                health: true,
                recovery: true,
            },
        )
        .edits(vec![Edit::Template(1), Edit::Replicas(1)])
        .faults(&[Fault::Sick, Fault::Relapse])
        .budget(budget(1, 1, 1, 0, 0)),
    ]
}

/// Two sets that share a guard.
pub(super) fn groups() -> Vec<World> {
    let shared = |world: World| {
        world.settled(2).with(|world| {
            world.others = 2;
            world.spec.min_healthy = 3;
        })
    };
    vec![
        shared(plain(
            "group",
            "pods of two sets go one after the other, whoever evicts",
        ))
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Evict, Fault::EvictOther, Fault::OtherFails])
        .budget(budget(1, 3, 0, 0, 0)),
        shared(plain(
            "group-lagging",
            "the same at once, with watches behind",
        ))
        .parallel()
        .edits(templates(&[0, 1]))
        .faults(&[Fault::EvictOther, Fault::Unready])
        .budget(budget(1, 1, 0, 1, 0))
        .with(|world| world.max_unavailable = Some(2)),
    ]
}

/// Claims that follow edits of their template.
pub(super) fn claim_edits() -> Vec<World> {
    let sizes = |sizes: &[u8]| sizes.iter().copied().map(Edit::ClaimSize).collect();
    vec![
        plain(
            "claim-sizes",
            "claims grow, growths fail, and the template becomes smaller again",
        )
        .settled(2)
        .edited_claims()
        .edits(sizes(&[1, 2, 3]))
        .faults(&[Fault::GrowthFails])
        .budget(budget(2, 2, 0, 0, 1)),
        plain(
            "claim-sizes-pods",
            "claims grow, and file systems wait for pods",
        )
        .settled(2)
        .edited_claims()
        .edits(sizes(&[2, 3]))
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 0, 0, 0)),
        plain("claim-sizes-lagging", "the same with watches behind")
            .settled(2)
            .edited_claims()
            .edits(sizes(&[1, 2, 3]))
            .faults(&[Fault::GrowthFails])
            .budget(budget(2, 1, 0, 1, 0)),
        plain("claim-sizes-takeover", "the same with a second controller")
            .settled(2)
            .edited_claims()
            .edits(sizes(&[1, 2, 3]))
            .faults(&[Fault::GrowthFails])
            .budget(budget(2, 1, 1, 0, 0)),
        plain(
            "claim-labels",
            "labels and sizes of claims change, and users change labels",
        )
        .settled(2)
        .edited_claims()
        .edits(vec![
            Edit::ClaimLabel(2),
            Edit::ClaimLabel(1),
            Edit::ClaimSize(2),
        ])
        .faults(&[Fault::Relabel])
        .budget(budget(2, 1, 0, 1, 0)),
        plain(
            "claim-edits-rollout",
            "claims grow while a template rolls out and the set is scaled",
        )
        .settled(2)
        .edited_claims()
        .edits(vec![
            Edit::ClaimSize(2),
            Edit::Template(1),
            Edit::Replicas(3),
        ])
        .faults(&[Fault::GrowthFails])
        .budget(budget(2, 1, 0, 0, 0)),
    ]
}
