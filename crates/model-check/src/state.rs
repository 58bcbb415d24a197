//! The state of a world, reduced to the distinctions that the planner makes.
//!
//! Names are ordinals and template numbers; UIDs, versions and generations are small numbers that are compared only for
//! equality. [`ModelState::canonical`] renumbers them, so that histories that lead to an equal situation lead to an
//! equal state.

use std::sync::Arc;

use controller_planners::stateful_set::StatefulSetPlan;
use controller_planners::stateful_set::write_schedule::{WritePosition, WriteSchedule};

use crate::identities::{Ids, Renumbering};

/// A plan without the contents of its writes, which decides their order.
pub type Shape = Arc<StatefulSetPlan>;

/// Ordinals that a world may use.
pub const ORDINALS: usize = 4;
/// Templates that a world may use.
pub const TEMPLATES: usize = 3;

/// An identity: a UID, a version or a generation.
pub type Id = u8;

/// The kind of an [`Id`]'s object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Set,
    /// A version of a set.
    SetVersion,
    /// A generation of a set.
    Generation,
    Pod,
    Claim,
    /// A version of a claim.
    ClaimVersion,
    Revision,
}

/// The number of kinds.
pub const KINDS: usize = 7;

/// The answer of a set's policy to a rollout that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// No further pod gets the revision.
    Hold,
    /// The pods return to the revision before.
    Rollback,
}

/// The checks of the guard of a set's policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checks {
    /// A healthy pod passes this check, beside its readiness.
    pub health: bool,
    /// While a healthy pod has not passed this check, no other healthy pod is deleted.
    pub recovery: bool,
}

/// The fields of a set that a user can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The number of desired pods.
    pub replicas: u8,
    /// The lowest ordinal.
    pub start: u8,
    /// The desired template.
    pub template: u8,
    /// Partition of the rolling update.
    pub partition: u8,
    /// `whenScaled: Delete`.
    pub delete_when_scaled: bool,
    /// `whenDeleted: Delete`.
    pub delete_when_deleted: bool,
    /// The healthy pods that the guard of the set's policy demands; 0 without a policy.
    pub min_healthy: u8,
    /// Whether the policy of the set demands that all pods end before the first new one starts.
    pub recreate: bool,
    /// The answer of the policy to a rollout that fails; `None` if no rollout is judged.
    pub on_failure: Option<Answer>,
    /// The checks of the guard.
    pub checks: Checks,
    /// The size of the claim template; 0 in worlds without edits of claims.
    pub claim_size: u8,
    /// The value of the label of the claim template; 0 without a label.
    pub claim_label: u8,
}

impl Spec {
    /// The specified fate of an existing pod's claim.
    pub fn fate(&self, ordinal: usize) -> ClaimFate {
        if self.delete_when_scaled && !self.desires(ordinal) {
            ClaimFate::Deleted
        } else {
            ClaimFate::Retained
        }
    }

    /// Whether a pod of that ordinal is desired.
    pub fn desires(&self, ordinal: usize) -> bool {
        let start = usize::from(self.start);
        (start..start + usize::from(self.replicas)).contains(&ordinal)
    }
}

/// A status; its text is stored elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The generation that the status was counted for.
    pub observed: Id,
    /// The index of its text.
    pub text: u16,
}

/// The kind of deletion of a set. A background deletion removes the set at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deletion {
    /// The set is removed after its dependents have been released.
    Orphan,
    /// The set is removed after the deletion of its dependents.
    Foreground,
}

/// The fate of a claim after the deletion of its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClaimFate {
    /// The claim is retained: its ordinal is desired or the policy is Retain, and a controller has executed a plan for
    /// this specification while the pod existed.
    Retained,
    /// The fate is open, because it depends on the order of events.
    #[default]
    Open,
    /// The claim is deleted: its ordinal was scaled down under `whenScaled: Delete`, and a controller has executed a
    /// plan for this specification while the pod existed.
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    pub uid: Id,
    /// The identity of the version.
    pub version: Id,
    /// The identity of the specification.
    pub generation: Id,
    /// The specification.
    pub spec: Spec,
    pub status: Option<Status>,
    /// Whether the set is being deleted, and how.
    pub deleting: Option<Deletion>,
}

/// The progress of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not on a node yet.
    Pending,
    /// Runs.
    Running,
    /// Has failed.
    Ended,
}

/// Whether a pod is Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The pod was not Ready yet.
    Never,
    /// The pod was Ready before.
    Lost,
    /// The pod has been Ready for that many ticks of the clock; counted up to the relevant maximum.
    Ready(u8),
}

/// The result of the recovery check of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// The check has not succeeded.
    Pending,
    Passed,
    /// The pod has the result of another pod of its name, which no server writes.
    Borrowed,
}

/// A pod; its ordinal is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    pub uid: Id,
    /// The set that owns the pod.
    pub owner: Option<Id>,
    /// The template from which the pod was created.
    pub revision: u8,
    pub phase: Phase,
    pub health: Health,
    /// Whether the pod is not Ready at its deadline. `false` in worlds without verdicts.
    pub is_overdue: bool,
    /// Whether the health check of the guard has succeeded.
    pub passes_health: bool,
    pub recovery: Recovery,
    /// Whether an eviction has announced the deletion of the pod a moment ago, and the deletion did not follow.
    pub is_announced: bool,
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// The node of the pod. The planner does not read it.
    pub node: Option<u8>,
}

impl Pod {
    /// Whether the guard of a policy decides about the deletion of the pod.
    pub fn is_healthy(&self, checks: Checks) -> bool {
        matches!(self.health, Health::Ready(_))
            && !self.terminating
            && (self.passes_health || !checks.health)
    }
}

/// A claim; its ordinal is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub uid: Id,
    /// The identity of the version.
    pub version: Id,
    pub owners: Owners,
    /// Whether the claim is being deleted.
    pub terminating: bool,
    pub volume: Volume,
}

/// The fields of a claim that follow its template; all 0 in worlds without edits of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Volume {
    /// The requested size.
    pub request: u8,
    /// The size of the volume; 0 before the claim is bound.
    pub capacity: u8,
    /// The size of the storage if its file system has not grown yet; otherwise 0.
    pub storage: u8,
    /// The size at which the last growth failed; otherwise 0.
    pub failed: u8,
    /// The value of the label.
    pub label: u8,
    /// The value of the template's label at the last edit.
    pub recorded_label: u8,
}

/// The owners of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owners {
    pub set: Option<Id>,
    /// A pod of the claim's ordinal.
    pub pod: Option<Id>,
}

/// A revision; its template is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    pub uid: Id,
    /// The set that owns the revision.
    pub owner: Option<Id>,
    pub number: u8,
    /// The number of the stored verdict about the revision.
    pub rejected: Option<u16>,
}

/// The objects of the API server, or the objects in a controller's caches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Objects {
    pub set: Option<Set>,
    /// Pods by ordinal.
    pub pods: [Option<Pod>; ORDINALS],
    /// Claims by ordinal.
    pub claims: [Option<Claim>; ORDINALS],
    /// Revisions by template.
    pub revisions: [Option<Revision>; TEMPLATES],
    /// The healthy pods of another set that shares the guard.
    pub healthy_others: u8,
}

/// The aim of a deletion of a desired pod, in worlds with verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aim {
    /// The pod is to be made again with this template of the set.
    Update(u8),
    /// The pod is to be made again as before, because this template of the set is rejected.
    Return(u8),
}

/// An edit of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeChange {
    Metadata {
        /// The new value of the label, if it changes.
        label: Option<u8>,
        /// The new record of the template's label, if it changes.
        recorded_label: Option<u8>,
    },
    Request(u8),
}

/// A pending write, with its preconditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Reads the set.
    ConfirmSet {
        set: Id,
    },
    /// Adopts a revision.
    AdoptRevision {
        template: u8,
        uid: Id,
        set: Id,
    },
    /// Adopts a pod.
    AdoptPod {
        ordinal: u8,
        uid: Id,
        set: Id,
    },
    /// Releases a pod.
    ReleasePod {
        ordinal: u8,
        uid: Id,
    },
    /// Creates a revision for a template.
    CreateRevision {
        template: u8,
        number: u8,
        set: Id,
    },
    /// Gives a revision a new number.
    RenumberRevision {
        template: u8,
        uid: Id,
        number: u8,
    },
    /// Deletes a revision.
    DeleteRevision {
        template: u8,
        uid: Id,
    },
    /// Stores a verdict about a revision.
    RejectRevision {
        template: u8,
        uid: Id,
        verdict: u16,
    },
    /// Creates a claim.
    CreateClaim {
        ordinal: u8,
        set: Option<Id>,
        volume: Volume,
    },
    /// Changes fields of a claim that follow its template.
    EditClaim {
        ordinal: u8,
        uid: Id,
        version: Id,
        edit: VolumeChange,
    },
    /// Replaces the owners of a claim.
    SetClaimOwners {
        ordinal: u8,
        uid: Id,
        version: Id,
        owners: Owners,
    },
    /// Creates a pod.
    CreatePod {
        ordinal: u8,
        revision: u8,
        set: Id,
    },
    LabelPod {
        ordinal: u8,
        uid: Id,
    },
    /// Deletes a pod.
    DeletePod {
        ordinal: u8,
        uid: Id,
        aim: Option<Aim>,
    },
    /// Deletes a pod, unless the guard holds it.
    EvictPod {
        ordinal: u8,
        uid: Id,
        aim: Option<Aim>,
    },
    /// Writes the status.
    WriteStatus {
        set: Id,
        version: Id,
        generation: Id,
        text: u16,
    },
}

/// A plan that is being executed.
#[derive(Clone, Debug)]
pub struct Work {
    /// The writes that have not been sent.
    pub ops: Vec<(WritePosition, Op)>,
    /// The progress of its writes.
    pub schedule: WriteSchedule,
    /// The plan that defines the order of the writes.
    pub shape: Shape,
    /// The fates of claims after the plan, as of the time of the plan. A change of the specification opens the fates.
    pub fates: [ClaimFate; ORDINALS],
}

impl PartialEq for Work {
    fn eq(&self, other: &Self) -> bool {
        (&self.ops, &self.schedule, self.fates) == (&other.ops, &other.schedule, other.fates)
    }
}

impl Eq for Work {}

impl std::hash::Hash for Work {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.ops, &self.schedule, self.fates).hash(state);
    }
}

/// A running instance of a pod on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The ordinal of the pod.
    pub ordinal: u8,
    /// The UID of the pod.
    pub uid: Id,
    /// The node.
    pub node: u8,
}

/// No bound.
pub const UNLIMITED: u8 = u8::MAX;

/// The remaining faults and edits of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The number of changes by users.
    pub edits: u8,
    /// The number of faults of pods, claims and nodes.
    pub faults: u8,
    /// The number of crashes of the controller, and of controllers that take over.
    pub takeovers: u8,
    /// The number of responses that do not reach the controller.
    pub lost_responses: u8,
    /// The number of times that a watch may fall behind; [`UNLIMITED`] is no bound.
    pub lags: u8,
}

/// A state of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelState {
    /// The objects of the API server.
    pub api: Objects,
    /// The objects in the controller's caches; equal to the API's for watches that do not lag.
    pub cached: Objects,
    /// The watches that deliver nothing at present.
    pub lagging: [bool; 4],
    /// The controller's work in progress.
    pub work: Option<Work>,
    /// The work in progress of a replaced controller.
    pub former: Option<Work>,
    /// The objects in the caches of a replaced controller that continues to plan: a leader that has not observed the
    /// change of the leader.
    pub former_cached: Option<Objects>,
    /// The running instances.
    pub instances: Vec<Instance>,
    /// The pods, by ordinal, whose nodes have sent a successful result of the recovery check that has not arrived.
    pub late_results: [Option<Id>; ORDINALS],
    /// Whether the first node is disconnected.
    pub node_lost: bool,
    /// The fates of claims.
    pub fates: [ClaimFate; ORDINALS],
    /// The remaining budget.
    pub budget: Budget,
    /// The rule that the last step violated.
    pub broken: Option<Box<str>>,
    next: [Id; KINDS],
}

impl ModelState {
    /// An unused identity.
    pub fn fresh(&mut self, kind: Kind) -> Id {
        let next = &mut self.next[kind as usize];
        *next += 1;
        *next - 1
    }

    /// Opens the fate of that ordinal's claim, also in pending plans.
    pub fn open_fate(&mut self, at: usize) {
        self.fates[at] = ClaimFate::Open;
        for work in [&mut self.work, &mut self.former].into_iter().flatten() {
            work.fates[at] = ClaimFate::Open;
        }
    }

    /// Renumbers the identities of a state in order of occurrence.
    pub fn canonical(mut self) -> Self {
        self.deliver();
        self.instances.sort_unstable();
        let mut numbers = Renumbering::default();
        self.ids(&mut |kind, id| numbers.apply(kind, id));
        self.instances.sort_unstable();
        self.next = numbers.next;
        self
    }

    /// Updates the controller's caches, except for lagging watches. The nodes of pods are left out, because the planner
    /// does not use them.
    pub fn deliver(&mut self) {
        let (api, cached) = (&self.api, &mut self.cached);
        let [set, pods, claims, revisions] = self.lagging;
        if !set {
            cached.set = api.set;
        }
        if !pods {
            let without_node = |pod: Pod| Pod { node: None, ..pod };
            cached.pods = api.pods.map(|pod| pod.map(without_node));
            cached.healthy_others = api.healthy_others;
        }
        if !claims {
            cached.claims = api.claims;
        }
        if !revisions {
            cached.revisions = api.revisions;
        }
    }

    /// Updates all caches of the former leader.
    pub fn deliver_to_former(&mut self) {
        let snapshot = Objects {
            pods: self
                .api
                .pods
                .map(|pod| pod.map(|pod| Pod { node: None, ..pod })),
            ..self.api.clone()
        };
        self.former_cached = Some(snapshot);
    }

    /// The number of healthy pods that count for the guard, with those of the other set that shares it.
    pub fn healthy_in_group(&self) -> usize {
        self.healthy_pods().count() + usize::from(self.api.healthy_others)
    }

    /// The healthy pods among the desired ordinals that are not about to be deleted, with their ordinals.
    pub fn healthy_pods(&self) -> impl Iterator<Item = (usize, &Pod)> {
        let spec = self.api.set.map(|set| set.spec);
        let pods = self.api.pods.iter().enumerate();
        let pods = pods.filter_map(|(at, pod)| Some((at, pod.as_ref()?)));
        pods.filter(move |(at, pod)| {
            let is_counted = |spec: Spec| !pod.is_announced && pod.is_healthy(spec.checks);
            spec.is_some_and(|spec| spec.desires(*at) && is_counted(spec))
        })
    }

    /// Whether a claim is protected: a pod that has a node and has not ended uses the claim.
    pub fn is_claim_used(&self, at: usize) -> bool {
        self.api.pods[at].is_some_and(|pod| pod.node.is_some() && pod.phase != Phase::Ended)
    }

    /// The pod of an ordinal, if it has this UID.
    pub fn pod_with(&self, ordinal: u8, uid: Id) -> Option<&Pod> {
        let pod = self.api.pods[usize::from(ordinal)].as_ref();
        pod.filter(|pod| pod.uid == uid)
    }

    /// Records the violation of a rule; the first violation counts.
    pub fn breaks(&mut self, rule: impl Into<Box<str>>) {
        if self.broken.is_none() {
            self.broken = Some(rule.into());
        }
    }
}
