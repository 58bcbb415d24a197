//! The worlds: the set, its faults, and their maximum number.

use crate::state::{Budget, Deletion, Spec};

/// The update strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// `RollingUpdate` with its block.
    RollingUpdate,
    /// `RollingUpdate` without the block (statefulset.md 5.10).
    RollingUpdateWithoutBlock,
    OnDelete,
}

/// A change of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Sets the replicas.
    Replicas(u8),
    /// Sets the start ordinal.
    Start(u8),
    /// Sets the template, which may be a former template.
    Template(u8),
    /// Sets the partition.
    Partition(u8),
    /// Sets `whenScaled`; true is Delete.
    WhenScaled(bool),
    /// Sets `whenDeleted`; true is Delete.
    WhenDeleted(bool),
}

impl Edit {
    /// The specification after the change.
    pub fn of(self, spec: Spec) -> Spec {
        let mut spec = spec;
        match self {
            Self::Replicas(replicas) => spec.replicas = replicas,
            Self::Start(start) => spec.start = start,
            Self::Template(template) => spec.template = template,
            Self::Partition(partition) => spec.partition = partition,
            Self::WhenScaled(delete) => spec.delete_when_scaled = delete,
            Self::WhenDeleted(delete) => spec.delete_when_deleted = delete,
        }
        spec
    }
}

/// A fault, or a manual action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A pod fails.
    Fail,
    /// A pod is not Ready any more.
    Unready,
    /// A user deletes a pod.
    Delete,
    /// A user evicts a pod.
    Evict,
    /// A user removes a pod's owner reference.
    Orphan,
    /// A user deletes a claim.
    DeleteClaim,
    /// The first node is disconnected.
    NodeLost,
    /// A user deletes the set; without a kind, in the background.
    DeleteSet(Option<Deletion>),
    /// A user creates the deleted set again.
    CreateSet,
}

/// The initial state of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The set has just been created.
    Fresh,
    /// All pods of the set exist and are Ready.
    Settled,
}

#[derive(Clone, Debug)]
pub struct World {
    /// Name, as on the command line.
    pub name: &'static str,
    /// Its purpose.
    pub about: &'static str,
    /// Whether `OrderedReady`.
    pub ordered: bool,
    pub strategy: Strategy,
    pub max_unavailable: Option<i32>,
    /// `minReadySeconds`, in ticks of the world's clock.
    pub min_ready: u8,
    /// Whether there is a template for claims.
    pub claims: bool,
    /// `revisionHistoryLimit`.
    pub history: i32,
    /// Annotations of the set.
    pub annotations: &'static [(&'static str, &'static str)],
    /// The number of nodes; the first node may be disconnected.
    pub nodes: u8,
    /// Templates whose pods never become Ready.
    pub bad_templates: &'static [u8],
    /// The initial state.
    pub begin: Begin,
    /// The initial specification.
    pub spec: Spec,
    /// The users' edits.
    pub edits: Vec<Edit>,
    pub faults: &'static [Fault],
    /// The maximum numbers of edits and faults.
    pub budget: Budget,
    /// Whether the former controller still leads after a takeover: both controllers plan and write.
    pub two_leaders: bool,
    /// Whether the world is explored only with `--deep`, because it has many states.
    pub deep: bool,
}

impl World {
    /// Whether a scale-down may delete claims in this world.
    pub fn ever_deletes_when_scaled(&self) -> bool {
        self.spec.delete_when_scaled || self.edits.contains(&Edit::WhenScaled(true))
    }

    /// Whether the deletion of the set may delete claims in this world.
    pub fn ever_deletes_when_deleted(&self) -> bool {
        self.spec.delete_when_deleted || self.edits.contains(&Edit::WhenDeleted(true))
    }

    /// The world with that name.
    pub fn named(name: &str) -> Option<Self> {
        all().into_iter().find(|world| world.name == name)
    }
}

/// The simplest world; the other worlds are variations of it.
fn plain(name: &'static str, about: &'static str) -> World {
    World {
        name,
        about,
        ordered: true,
        strategy: Strategy::RollingUpdate,
        max_unavailable: None,
        min_ready: 0,
        claims: false,
        history: 10,
        annotations: &[],
        nodes: 1,
        bad_templates: &[],
        begin: Begin::Fresh,
        spec: Spec {
            replicas: 2,
            start: 0,
            template: 0,
            partition: 0,
            delete_when_scaled: false,
            delete_when_deleted: false,
            min_healthy: 0,
        },
        edits: Vec::new(),
        faults: &[],
        budget: Budget::default(),
        two_leaders: false,
        deep: false,
    }
}

const fn budget(edits: u8, faults: u8, takeovers: u8, lags: u8, lost_responses: u8) -> Budget {
    Budget {
        edits,
        faults,
        takeovers,
        lags,
        lost_responses,
    }
}

const POD_FAULTS: &[Fault] = &[Fault::Fail, Fault::Unready, Fault::Delete];

const SET_FAULTS: &[Fault] = &[
    Fault::DeleteSet(None),
    Fault::DeleteSet(Some(Deletion::Orphan)),
    Fault::DeleteSet(Some(Deletion::Foreground)),
    Fault::CreateSet,
];

fn replicas(numbers: &[u8]) -> Vec<Edit> {
    numbers.iter().copied().map(Edit::Replicas).collect()
}

fn templates(numbers: &[u8]) -> Vec<Edit> {
    numbers.iter().copied().map(Edit::Template).collect()
}

impl World {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn edits(self, edits: Vec<Edit>) -> Self {
        Self { edits, ..self }
    }

    fn faults(self, faults: &'static [Fault]) -> Self {
        Self { faults, ..self }
    }

    fn budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    fn settled(self, replicas: u8) -> Self {
        self.with(|world| {
            world.begin = Begin::Settled;
            world.spec.replicas = replicas;
        })
    }

    fn parallel(self) -> Self {
        self.with(|world| world.ordered = false)
    }

    fn claims(self, delete_when_scaled: bool, delete_when_deleted: bool) -> Self {
        self.with(|world| {
            world.claims = true;
            world.spec.delete_when_scaled = delete_when_scaled;
            world.spec.delete_when_deleted = delete_when_deleted;
        })
    }

    fn deep(self) -> Self {
        Self { deep: true, ..self }
    }
}

/// All worlds.
pub fn all() -> Vec<World> {
    let mut worlds = scaling();
    worlds.extend(rollouts());
    worlds.extend(limited_rollouts());
    worlds.extend(claims());
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
