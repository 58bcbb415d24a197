//! A world: the set, its faults, and their maximum number.

use resource_kinds::annotations::CLAIM_UPDATES;

use crate::state::{Answer, Budget, Checks, Deletion, ModelState, Set, Spec};

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
    /// Sets the policy's answer to a rollout that fails. The policy is an object of its own: the set does not change.
    OnFailure(Option<Answer>),
    /// Sets the size of the claim template.
    ClaimSize(u8),
    /// Sets the label of the claim template.
    ClaimLabel(u8),
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
            Self::OnFailure(answer) => spec.on_failure = answer,
            Self::ClaimSize(size) => spec.claim_size = size,
            Self::ClaimLabel(label) => spec.claim_label = label,
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
    /// A pod that will be Ready is not Ready at its deadline.
    Slow,
    /// A user removes the verdict about a template.
    Pardon,
    /// The health check of the guard fails in a pod.
    Sick,
    /// A pod has not recovered any more: it copies data again.
    Relapse,
    /// A successful result of the recovery check of a pod is late.
    LateResult,
    /// A user evicts a pod, and the announced deletion does not follow.
    Announce,
    /// The growth of a volume fails.
    GrowthFails,
    /// A user changes the label of a claim.
    Relabel,
    /// A user evicts a pod of the other set that shares the guard.
    EvictOther,
    /// A pod of the other set that shares the guard fails.
    OtherFails,
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
    /// The replicas of another set that shares the guard.
    pub others: u8,
    /// Templates whose pods never become Ready.
    pub bad_templates: &'static [u8],
    /// Templates whose pods never pass the health check.
    pub never_healthy: &'static [u8],
    /// Templates whose pods never pass the recovery check.
    pub never_recovered: &'static [u8],
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

    /// Whether claims follow edits of their template in this world.
    pub fn edits_claims(&self) -> bool {
        self.spec.claim_size > 0
    }

    /// Whether rollouts may be judged in this world.
    pub fn judges(&self) -> bool {
        let changes_answer = |edit: &Edit| matches!(edit, Edit::OnFailure(_));
        self.spec.on_failure.is_some() || self.edits.iter().any(changes_answer)
    }

    /// Whether the guard ends a rollout: because the pods of the template never pass a check, or because a pod that
    /// never recovers holds the pods above it, which come first.
    pub fn ends_by_guard(&self, state: &ModelState, set: &Set) -> bool {
        let template = set.spec.template;
        let mut pods = state.api.pods.iter().flatten();
        self.never_healthy.contains(&template)
            || self.never_recovered.contains(&template)
            || pods.any(|pod| self.never_recovered.contains(&pod.revision))
    }

    /// The world with that name.
    pub fn named(name: &str) -> Option<Self> {
        crate::worlds::all()
            .into_iter()
            .find(|world| world.name == name)
    }
}

/// The simplest world; the other worlds are variations of it.
pub(crate) fn plain(name: &'static str, about: &'static str) -> World {
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
        others: 0,
        bad_templates: &[],
        never_healthy: &[],
        never_recovered: &[],
        begin: Begin::Fresh,
        spec: Spec {
            replicas: 2,
            start: 0,
            template: 0,
            partition: 0,
            delete_when_scaled: false,
            delete_when_deleted: false,
            min_healthy: 0,
            recreate: false,
            on_failure: None,
            checks: Checks::default(),
            claim_size: 0,
            claim_label: 0,
        },
        edits: Vec::new(),
        faults: &[],
        budget: Budget::default(),
        two_leaders: false,
        deep: false,
    }
}

pub(crate) const fn budget(
    edits: u8,
    faults: u8,
    takeovers: u8,
    lags: u8,
    lost_responses: u8,
) -> Budget {
    Budget {
        edits,
        faults,
        takeovers,
        lags,
        lost_responses,
    }
}

pub(crate) const POD_FAULTS: &[Fault] = &[Fault::Fail, Fault::Unready, Fault::Delete];

pub(crate) const SET_FAULTS: &[Fault] = &[
    Fault::DeleteSet(None),
    Fault::DeleteSet(Some(Deletion::Orphan)),
    Fault::DeleteSet(Some(Deletion::Foreground)),
    Fault::CreateSet,
];

pub(crate) fn replicas(numbers: &[u8]) -> Vec<Edit> {
    numbers.iter().copied().map(Edit::Replicas).collect()
}

pub(crate) fn templates(numbers: &[u8]) -> Vec<Edit> {
    numbers.iter().copied().map(Edit::Template).collect()
}

impl World {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn edits(self, edits: Vec<Edit>) -> Self {
        Self { edits, ..self }
    }

    pub(crate) fn faults(self, faults: &'static [Fault]) -> Self {
        Self { faults, ..self }
    }

    pub(crate) fn budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    pub(crate) fn settled(self, replicas: u8) -> Self {
        self.with(|world| {
            world.begin = Begin::Settled;
            world.spec.replicas = replicas;
        })
    }

    pub(crate) fn parallel(self) -> Self {
        self.with(|world| world.ordered = false)
    }

    pub(crate) fn claims(self, delete_when_scaled: bool, delete_when_deleted: bool) -> Self {
        self.with(|world| {
            world.claims = true;
            world.spec.delete_when_scaled = delete_when_scaled;
            world.spec.delete_when_deleted = delete_when_deleted;
        })
    }

    /// Claims follow edits of their template.
    pub(crate) fn edited_claims(self) -> Self {
        self.claims(false, false).with(|world| {
            world.annotations = &[(CLAIM_UPDATES, "InPlace")];
            (world.spec.claim_size, world.spec.claim_label) = (1, 1);
        })
    }

    pub(crate) fn deep(self) -> Self {
        Self { deep: true, ..self }
    }
}
