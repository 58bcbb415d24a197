//! The worlds that the checker explores.

mod policies;

use crate::state::Answer;
use crate::world::{
    Edit, Fault, POD_FAULTS, SET_FAULTS, Strategy, World, budget, plain, replicas, templates,
};

/// All worlds.
pub fn all() -> Vec<World> {
    let mut worlds = scaling();
    worlds.extend(rollouts());
    worlds.extend(limited_rollouts());
    worlds.extend(policies::verdicts());
    worlds.extend(policies::guard_checks());
    worlds.extend(policies::groups());
    worlds.extend(claims());
    worlds.extend(policies::claim_edits());
    worlds.extend(nodes_and_owners());
    worlds.extend(two_leaders());
    worlds.extend(deep());
    worlds
}

fn scaling() -> Vec<World> {
    vec![
        plain(
            "scale",
            "up and down in order, pods that fail, a second controller",
        )
        .edits(replicas(&[0, 1, 3]))
        .faults(POD_FAULTS)
        .budget(budget(1, 1, 1, 0, 0)),
        plain(
            "scale-lagging",
            "up and down in order, watches behind, a second controller",
        )
        .edits(replicas(&[1, 3]))
        .budget(budget(1, 0, 1, 1, 0)),
        plain(
            "any-lag",
            "a set of two, each watch as far behind as it likes",
        )
        .edits(replicas(&[1]))
        .budget(budget(1, 0, 0, crate::state::UNLIMITED, 0)),
        plain(
            "scale-parallel",
            "up and down at once, pods that fail, a second controller",
        )
        .parallel()
        .edits(replicas(&[0, 3]))
        .faults(&[Fault::Fail])
        .budget(budget(1, 1, 1, 0, 0)),
        plain(
            "lost-answers",
            "writes that are done and said to have failed",
        )
        .edits(replicas(&[1, 3]))
        .faults(&[Fault::Delete])
        .budget(budget(1, 1, 0, 0, 2)),
        plain("start", "another start ordinal")
            .settled(2)
            .edits(vec![Edit::Start(1), Edit::Start(2), Edit::Start(0)])
            .faults(POD_FAULTS)
            .budget(budget(2, 1, 0, 0, 0)),
    ]
}

fn rollouts() -> Vec<World> {
    vec![
        plain(
            "rollout",
            "a template and back, pods that fail, a second controller",
        )
        .settled(2)
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 1, 0, 0)),
        plain("rollout-lagging", "a template and back, watches behind")
            .settled(2)
            .edits(templates(&[0, 1]))
            .budget(budget(2, 0, 0, 2, 0)),
        plain(
            "bad-template",
            "a template that never gets ready, put right or taken back",
        )
        .settled(3)
        .edits(templates(&[0, 1, 2]))
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 0, 0, 0))
        .with(|world| world.bad_templates = &[1]),
        plain("bad-template-lagging", "the same with watches behind")
            .settled(2)
            .edits(templates(&[0, 1, 2]))
            .budget(budget(2, 0, 0, 1, 0))
            .with(|world| world.bad_templates = &[1]),
        plain("bad-from-the-start", "the first template never gets ready")
            .edits(templates(&[0, 1]))
            .faults(POD_FAULTS)
            .budget(budget(2, 1, 0, 0, 0))
            .with(|world| world.bad_templates = &[0]),
        plain(
            "bad-parallel",
            "a template that never gets ready, all at once",
        )
        .settled(2)
        .parallel()
        .edits(templates(&[0, 1, 2]))
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 0, 0, 0))
        .with(|world| world.bad_templates = &[1]),
        plain(
            "partition",
            "a rollout that stops at a partition that moves",
        )
        .settled(3)
        .edits(vec![
            Edit::Template(1),
            Edit::Partition(0),
            Edit::Partition(2),
        ])
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 0, 0, 0))
        .with(|world| world.spec.partition = 1),
        plain("without-block", "RollingUpdate without its block")
            .settled(2)
            .edits(templates(&[0, 1]))
            .faults(&[Fault::Delete, Fault::Unready])
            .budget(budget(2, 1, 0, 0, 0))
            .with(|world| world.strategy = Strategy::RollingUpdateWithoutBlock),
    ]
}

/// Rollouts with a strategy or a limit that slows them down.
fn limited_rollouts() -> Vec<World> {
    vec![
        plain("on-delete", "outdated pods are somebody's to delete")
            .settled(2)
            .edits(templates(&[0, 1]))
            .faults(&[Fault::Delete])
            .budget(budget(2, 2, 0, 0, 0))
            .with(|world| world.strategy = Strategy::OnDelete),
        plain("max-unavailable", "two may be unavailable, all at once")
            .settled(3)
            .parallel()
            .edits(templates(&[0, 1]))
            .faults(&[Fault::Unready])
            .budget(budget(2, 1, 0, 0, 0))
            .with(|world| world.max_unavailable = Some(2)),
        plain("recreate", "all pods end before the first new one starts")
            .settled(2)
            .parallel()
            .edits(templates(&[0, 1]))
            .faults(&[Fault::Unready, Fault::Delete])
            .budget(budget(2, 2, 0, 0, 1))
            .with(|world| world.spec.recreate = true),
        plain("recreate-ordered", "the same, one pod after the other")
            .settled(2)
            .edits(templates(&[0, 1]))
            .faults(&[Fault::Unready, Fault::Delete])
            .budget(budget(2, 2, 0, 0, 0))
            .with(|world| world.spec.recreate = true),
        plain("guard", "a quorum stays, whoever evicts")
            .settled(3)
            .parallel()
            .edits(templates(&[0, 1]))
            .faults(&[Fault::Unready, Fault::Evict])
            .budget(budget(1, 2, 0, 1, 0))
            .with(|world| (world.max_unavailable, world.spec.min_healthy) = (Some(2), 2)),
        plain(
            "min-ready",
            "pods are available two ticks after they are Ready",
        )
        .settled(2)
        .edits(templates(&[0, 1]))
        .faults(&[Fault::Unready])
        .budget(budget(1, 1, 0, 0, 0))
        .with(|world| world.min_ready = 2),
        plain("no-history", "revisions are forgotten at once")
            .settled(2)
            .edits(templates(&[0, 1, 2]))
            .faults(&[Fault::Delete])
            .budget(budget(2, 1, 0, 0, 0))
            .with(|world| world.history = 0),
    ]
}

fn claims() -> Vec<World> {
    vec![
        plain("claims", "claims are kept; pods and claims deleted by hand")
            .claims(false, false)
            .edits(replicas(&[1, 2]))
            .faults(&[Fault::Delete, Fault::DeleteClaim])
            .budget(budget(1, 1, 1, 0, 0)),
        plain(
            "claims-scaled",
            "claims go with a scale-down, a second controller",
        )
        .settled(2)
        .claims(true, false)
        .edits(replicas(&[1, 2]))
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 1, 0, 0)),
        plain(
            "claims-lagging",
            "claims go with a scale-down, watches behind",
        )
        .settled(2)
        .claims(true, false)
        .edits(replicas(&[1, 2]))
        .faults(&[Fault::Delete])
        .budget(budget(2, 1, 0, 1, 0)),
        plain(
            "claims-policy",
            "the retention policy changes during a scale-down",
        )
        .settled(2)
        .claims(false, true)
        .edits(vec![
            Edit::Replicas(1),
            Edit::Replicas(2),
            Edit::WhenScaled(true),
            Edit::WhenScaled(false),
        ])
        .faults(&[Fault::Delete])
        .budget(budget(3, 1, 0, 0, 0)),
        plain(
            "claims-going",
            "scaled and told to keep or delete claims while their pods are on their way out",
        )
        .settled(2)
        .claims(true, false)
        .edits(vec![
            Edit::Replicas(1),
            Edit::Replicas(2),
            Edit::WhenScaled(true),
            Edit::WhenScaled(false),
        ])
        .faults(&[Fault::Delete, Fault::Unready])
        .budget(budget(3, 1, 0, 0, 0)),
        plain(
            "claims-parallel",
            "claims and pods in batches, some of them deleted by hand",
        )
        .parallel()
        .claims(true, true)
        .edits(replicas(&[1, 3]))
        .faults(&[Fault::DeleteClaim, Fault::Fail])
        .budget(budget(1, 1, 0, 0, 0)),
    ]
}

fn nodes_and_owners() -> Vec<World> {
    vec![
        plain(
            "node-lost",
            "a node is cut off and comes back, during a rollout",
        )
        .settled(2)
        .edits(templates(&[1]))
        .faults(&[Fault::NodeLost, Fault::Delete])
        .budget(budget(1, 2, 0, 0, 0))
        .with(|world| world.nodes = 2),
        plain(
            "node-lost-lagging",
            "a node is cut off, watches behind, a second controller",
        )
        .edits(replicas(&[1]))
        .faults(&[Fault::NodeLost])
        .budget(budget(1, 1, 1, 0, 0))
        .with(|world| world.nodes = 2),
        plain("owners", "pods whose owner is taken away")
            .settled(2)
            .edits(replicas(&[1]))
            .faults(&[Fault::Orphan, Fault::Delete])
            .budget(budget(1, 2, 1, 0, 0)),
        plain(
            "replaced",
            "the set is deleted and made anew, claims go with it",
        )
        .settled(2)
        .claims(false, true)
        .faults(&[Fault::DeleteSet(None), Fault::CreateSet])
        .budget(budget(0, 2, 1, 0, 0)),
        plain(
            "deleted",
            "the set is deleted in three ways and made anew, during a scale-down",
        )
        .settled(2)
        .claims(true, true)
        .edits(replicas(&[1]))
        .faults(SET_FAULTS)
        .budget(budget(1, 2, 0, 0, 0)),
        plain(
            "deleted-lagging",
            "the set is deleted in three ways and made anew, watches behind, claims are kept",
        )
        .settled(2)
        .claims(false, false)
        .faults(SET_FAULTS)
        .budget(budget(0, 2, 1, 1, 0)),
    ]
}

fn two_leaders() -> Vec<World> {
    let with_two_leaders = |world: World| World {
        two_leaders: true,
        ..world
    };
    vec![
        with_two_leaders(
            plain(
                "two-leaders",
                "two leaders make pods, one of them is deleted",
            )
            .faults(&[Fault::Delete])
            .budget(budget(0, 1, 1, 0, 0)),
        ),
        with_two_leaders(
            plain("two-leaders-rollout", "two leaders roll a template out")
                .settled(2)
                .edits(templates(&[1]))
                .budget(budget(1, 0, 1, 0, 0)),
        ),
        with_two_leaders(
            plain(
                "two-leaders-verdict",
                "two leaders take a bad template back",
            )
            .settled(1)
            .edits(templates(&[1]))
            .budget(budget(1, 0, 1, 0, 0))
            .with(|world| {
                world.bad_templates = &[1];
                world.spec.on_failure = Some(Answer::Rollback);
            }),
        ),
        with_two_leaders(
            plain(
                "two-leaders-node-lost",
                "two leaders roll a template out while a node is cut off",
            )
            .settled(1)
            .edits(templates(&[1]))
            .faults(&[Fault::NodeLost])
            .budget(budget(1, 1, 1, 0, 0))
            .with(|world| world.nodes = 2),
        ),
    ]
}

/// Larger worlds for long runs.
fn deep() -> Vec<World> {
    vec![
        plain("deep-scale", "three replicas, twice up or down, two faults")
            .edits(replicas(&[0, 1, 2, 3]))
            .faults(POD_FAULTS)
            .budget(budget(1, 2, 1, 0, 0))
            .deep(),
        plain("deep-lagging", "up and down, two lags, a second controller")
            .edits(replicas(&[1, 3]))
            .faults(POD_FAULTS)
            .budget(budget(1, 0, 1, 2, 0))
            .deep(),
        plain(
            "deep-rollout",
            "three pods, three changes, partition, bad template, a fault",
        )
        .settled(3)
        .edits(vec![
            Edit::Template(0),
            Edit::Template(1),
            Edit::Template(2),
            Edit::Partition(1),
            Edit::Partition(0),
        ])
        .faults(POD_FAULTS)
        .budget(budget(3, 1, 0, 0, 0))
        .with(|world| world.bad_templates = &[1])
        .deep(),
        plain(
            "deep-claims",
            "claims go with a scale-down, a lag and a second controller",
        )
        .settled(2)
        .claims(true, true)
        .edits(replicas(&[1, 2, 3]))
        .faults(&[Fault::Delete, Fault::DeleteClaim, Fault::Fail])
        .budget(budget(1, 1, 1, 1, 0))
        .deep(),
        plain(
            "deep-verdict",
            "a rollout that fails while the set is scaled and its template changes",
        )
        .settled(2)
        .edits(vec![
            Edit::Template(0),
            Edit::Template(1),
            Edit::Template(2),
            Edit::Replicas(0),
            Edit::Replicas(1),
            Edit::Replicas(3),
        ])
        .faults(&[Fault::Slow, Fault::Delete, Fault::Unready])
        .budget(budget(3, 1, 0, 0, 0))
        .with(|world| {
            world.bad_templates = &[1];
            world.spec.on_failure = Some(Answer::Rollback);
        })
        .deep(),
        plain(
            "deep-claim-sizes",
            "claims grow and shrink, growths fail, pods are deleted, responses are lost",
        )
        .settled(2)
        .edited_claims()
        .edits(vec![
            Edit::ClaimSize(1),
            Edit::ClaimSize(2),
            Edit::ClaimSize(3),
        ])
        .faults(&[Fault::GrowthFails, Fault::Delete])
        .budget(budget(2, 2, 0, 0, 1))
        .deep(),
        plain(
            "deep-nodes",
            "a node is cut off twice, a rollout, a second controller",
        )
        .settled(2)
        .claims(false, false)
        .edits(vec![Edit::Template(1), Edit::Replicas(1)])
        .faults(&[Fault::NodeLost, Fault::Delete, Fault::Fail])
        .budget(budget(1, 2, 1, 0, 0))
        .with(|world| world.nodes = 2)
        .deep(),
    ]
}
