//! A world of two nodes with a replicated volume, explored to the end: late calls, lost answers, nodes that
//! are lost and return at any step, and leaders that act on what they saw before.

use std::collections::{BTreeMap, BTreeSet};

use resource_kinds::storage::volume_replication::{Stage, VolumeReplication};

use super::{Answers, Call, Copied, Holdings, Observed, Role, Step, Users, plan};
use crate::volume_move::Presence;

const NODES: [&str; 2] = ["one", "two"];
/// Writes of pods.
const WRITES: u8 = 3;
/// Copies that are begun.
const COPIES: i64 = 3;
/// Promotions that are looked at.
const EPOCHS: u32 = 3;

/// A deliberate mistake, which the model has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mistake {
    None,
    /// The volume is promoted without a proof.
    NoProof,
    /// Agents start pods on what the record was.
    StaleAgents,
    /// Nodes take steps of any epoch.
    AnyEpoch,
    /// A former primary's state is removed.
    NoDivergence,
    /// The proof of before the record is enough.
    EarlyProof,
    /// Any copy is promoted, also one that is older than the record says.
    AnyCopy,
}

/// The writes of one history: each is followed by the later ones.
type History = Vec<u8>;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    epoch: u32,
    role: Option<bool>,
    volume: Option<History>,
    sent: BTreeMap<i64, History>,
    copies: BTreeMap<i64, History>,
    diverged: BTreeSet<History>,
    /// A pod runs with the volume.
    pod: bool,
    /// It does not answer, and its lease is not renewed.
    is_lost: bool,
    /// Its lease was taken, and its pods are dead.
    is_fenced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    mistake: Mistake,
    record: VolumeReplication,
    answers: Answers,
    nodes: [Node; 2],
    /// The contents of each shown copy.
    shown: BTreeMap<i64, History>,
    writes: u8,
    now: i64,
    /// A call that arrives at any later time, with the epoch and the nodes of its record.
    late: Option<(VolumeReplication, Call)>,
    /// The receiving half of a copy that was read before.
    stream: Option<(u32, usize, i64, History)>,
    /// A pod whose agent read the record before, on this node.
    starting: Option<usize>,
    /// A leader saw the proof, and acts on it later.
    saw_proof: bool,
}

fn index(name: &str) -> usize {
    usize::from(name == NODES[1])
}

impl Node {
    fn admits(&self, mistake: Mistake, epoch: u32, role: Role) -> bool {
        let is_primary = role == Role::Primary;
        let same_role = self.role.is_none_or(|known| known == is_primary);
        mistake == Mistake::AnyEpoch || epoch > self.epoch || (epoch == self.epoch && same_role)
    }

    fn admit(&mut self, mistake: Mistake, epoch: u32, role: Role) -> bool {
        let admitted = self.admits(mistake, epoch, role);
        if admitted {
            self.epoch = epoch;
            self.role = Some(role == Role::Primary);
        }
        admitted
    }

    fn holdings(&self) -> Holdings {
        Holdings {
            epoch: self.epoch,
            has_volume: self.volume.is_some(),
            path: "/p".to_owned(),
            sent: self.sent.keys().copied().collect(),
            copies: self.copies.keys().copied().collect(),
            diverged: (0..self.diverged.len()).map(|at| at.to_string()).collect(),
        }
    }

    fn receive(&mut self, mistake: Mistake, epoch: u32, time: i64, history: &History) {
        if self.admit(mistake, epoch, Role::Replica) && self.volume.is_none() {
            self.copies.entry(time).or_insert_with(|| history.clone());
        }
    }
}

impl World {
    fn start(mistake: Mistake) -> Self {
        let mut nodes = [Node::default(), Node::default()];
        nodes[0].volume = Some(Vec::new());
        Self {
            mistake,
            record: VolumeReplication {
                replica: Some("two".to_owned()),
                interval_seconds: 0,
                ..VolumeReplication::new("one", 0)
            },
            answers: Answers::default(),
            nodes,
            shown: BTreeMap::new(),
            writes: 0,
            now: 1,
            late: None,
            stream: None,
            starting: None,
            saw_proof: false,
        }
    }

    fn presence(&self, name: &str) -> Presence {
        match self.nodes[index(name)].is_lost {
            true => Presence::Silent,
            false => Presence::Ready,
        }
    }

    /// Whether the leader goes by what it saw before. A write of the record that is as it was read then
    /// succeeds.
    fn acts_late(&self) -> bool {
        let may = self.record.stage == Stage::Replicating || self.mistake == Mistake::EarlyProof;
        may && self.saw_proof
    }

    fn is_proven_dead(&self) -> bool {
        let primary = &self.nodes[index(&self.record.primary)];
        match self.mistake {
            Mistake::NoProof => primary.is_lost,
            _ => primary.is_fenced || self.acts_late(),
        }
    }

    fn plan(&self) -> Step {
        let primary = index(&self.record.primary);
        let mut record = self.record.clone();
        if self.mistake == Mistake::AnyCopy {
            record.last = record.last.map(|_| 0);
        }
        plan(&Observed {
            record: &record,
            primary: self.presence(NODES[primary]),
            is_proven_dead: self.is_proven_dead(),
            users: Users {
                // The pod's object is gone once the fence deleted it.
                on_primary: self.nodes[primary].pod
                    && !self.nodes[primary].is_lost
                    && !self.acts_late(),
                waiting: true,
            },
            replica: match &self.record.replica {
                Some(name) => self.presence(name),
                None => Presence::Gone,
            },
            candidate: None,
            is_released: false,
            now: self.now,
            answers: &self.answers,
        })
    }

    /// Carries out a call of a record; the answer goes to the leader unless it is late.
    fn carry_out(&mut self, record: &VolumeReplication, call: &Call, is_late: bool) {
        let at = match call.role() {
            Role::Primary => index(&record.primary),
            Role::Replica => index(record.replica.as_deref().unwrap_or_default()),
        };
        if self.nodes[at].is_lost {
            return;
        }
        let (mistake, epoch) = (self.mistake, record.epoch);
        let mut answers = self.answers.clone();
        let node = &mut self.nodes[at];
        match call {
            Call::Inspect(Role::Primary) => answers.primary = Some(node.holdings()),
            Call::Inspect(Role::Replica) => answers.replica = Some(node.holdings()),
            Call::Seal => {
                if node.admit(mistake, epoch, Role::Replica) {
                    answers.sealed = Some(node.holdings());
                }
            }
            Call::Demote => {
                if node.admit(mistake, epoch, Role::Replica) {
                    if let Some(history) = node.volume.take() {
                        if mistake != Mistake::NoDivergence {
                            node.diverged.insert(history);
                        }
                        node.sent.clear();
                        node.copies.clear();
                        node.pod = false;
                    }
                    answers.replica = None;
                }
            }
            Call::Copy { time, .. } => {
                let to = 1 - at;
                if let Some(history) = self.read(epoch, at, *time)
                    && !self.nodes[to].is_lost
                {
                    self.nodes[to].receive(mistake, epoch, *time, &history);
                    if self.nodes[to].copies.contains_key(time) {
                        answers.copied = Some(Copied::Complete(*time));
                    }
                }
            }
            Call::Keep(role, kept) => {
                if node.admit(mistake, epoch, *role) {
                    let all = match role {
                        Role::Primary => &mut node.sent,
                        Role::Replica => &mut node.copies,
                    };
                    all.retain(|time, _| kept.contains(time));
                    answers.kept.insert(*role);
                }
            }
            Call::Promote { time } => {
                let is_done = (node.epoch, node.role) == (epoch, Some(true));
                if !is_done && node.admits(mistake, epoch, Role::Replica) {
                    if node.volume.is_none() {
                        node.volume = node.copies.get(time).cloned();
                    }
                    if node.volume.is_some() {
                        (node.epoch, node.role) = (epoch, Some(true));
                        node.copies.clear();
                    }
                }
                answers.promoted = (node.epoch, node.role) == (epoch, Some(true));
            }
            Call::Forget => {}
        }
        if !is_late {
            self.answers = answers;
        }
    }

    /// The snapshot of a time on a node.
    fn read(&mut self, epoch: u32, at: usize, time: i64) -> Option<History> {
        let mistake = self.mistake;
        let node = &mut self.nodes[at];
        if !node.admit(mistake, epoch, Role::Primary) {
            return None;
        }
        let taken = node.sent.get(&time).or(node.volume.as_ref()).cloned()?;
        node.sent.insert(time, taken.clone());
        Some(taken)
    }

    fn write(&mut self, record: &VolumeReplication) {
        if let Some(last) = record.last
            && record.last != self.record.last
            && let Some(replica) = &record.replica
        {
            let copy = self.nodes[index(replica)].copies.get(&last).cloned();
            self.shown.insert(last, copy.unwrap_or_default());
        }
        let kept = match self.mistake {
            // The planner saw another time than the one that was shown.
            Mistake::AnyCopy if record.last == Some(0) => self.record.last,
            _ => record.last,
        };
        self.record = VolumeReplication {
            last: kept,
            ..record.clone()
        };
        self.answers = Answers::default();
    }

    /// The worlds after the leader's next step.
    fn led(&self, out: &mut Vec<World>) {
        let step = self.plan();
        let mut next = self.clone();
        match step {
            Step::Done => {}
            Step::Wait(_) | Step::Rest(_) => {
                next.answers = Answers::default();
                out.push(next);
            }
            Step::Write(record) => {
                if record.epoch <= EPOCHS {
                    let keeps = self.mistake == Mistake::EarlyProof;
                    next.saw_proof &= keeps && record.stage == Stage::Promoting;
                    next.write(&record);
                    out.push(next);
                }
            }
            Step::Place(record, _) => {
                next.saw_proof = false;
                next.write(&record);
                next.check_recovery();
                out.push(next);
            }
            Step::Call(call) => self.called(&call, out),
        }
    }

    fn called(&self, call: &Call, out: &mut Vec<World>) {
        if let Call::Copy { time, .. } = call {
            if *time > COPIES {
                return;
            }
            if self.stream.is_none() && self.late.is_none() {
                // The receiver gets it at any later time.
                let mut read = self.clone();
                let at = index(&self.record.primary);
                if !read.nodes[at].is_lost
                    && let Some(history) = read.read(self.record.epoch, at, *time)
                {
                    read.stream = Some((self.record.epoch, 1 - at, *time, history));
                    read.answers = Answers::default();
                    read.now = self.now.max(*time + 1);
                    out.push(read);
                }
            }
        }
        let mut done = self.clone();
        done.carry_out(&self.record, call, false);
        if let Call::Copy { time, .. } = call {
            done.now = self.now.max(*time + 1);
        }
        if done == *self {
            // No answer: the next round asks anew.
            done.answers = Answers::default();
        }
        // The answer is lost.
        let mut unheard = done.clone();
        unheard.answers = Answers::default();
        out.extend([done, unheard]);
        if self.late.is_none() && self.stream.is_none() && !matches!(call, Call::Inspect(_)) {
            let mut late = self.clone();
            late.late = Some((self.record.clone(), call.clone()));
            out.push(late);
        }
    }

    fn next(&self) -> Vec<World> {
        let mut out = Vec::new();
        self.led(&mut out);
        if let Some((record, call)) = &self.late {
            let mut next = self.clone();
            next.late = None;
            next.carry_out(record, call, true);
            out.push(next);
        }
        if let Some((epoch, to, time, history)) = &self.stream {
            let mut next = self.clone();
            next.stream = None;
            if !self.nodes[*to].is_lost {
                next.nodes[*to].receive(self.mistake, *epoch, *time, history);
            }
            out.push(next);
        }
        let primary = &self.nodes[index(&self.record.primary)];
        if self.record.stage == Stage::Replicating && primary.is_fenced && !self.saw_proof {
            let mut next = self.clone();
            next.saw_proof = true;
            out.push(next);
        }
        for at in 0..2 {
            self.of_node(at, &mut out);
        }
        out
    }

    /// The changes of a node by itself.
    fn of_node(&self, at: usize, out: &mut Vec<World>) {
        let node = &self.nodes[at];
        let may_start = !node.is_fenced && !node.is_lost && node.volume.is_some() && !node.pod;
        let is_allowed = self.record.refusal(NODES[at]).is_none();
        if may_start && is_allowed {
            let mut next = self.clone();
            next.nodes[at].pod = true;
            out.push(next);
        }
        if self.mistake == Mistake::StaleAgents {
            if is_allowed && self.starting.is_none() {
                let mut next = self.clone();
                next.starting = Some(at);
                out.push(next);
            }
            if may_start && self.starting == Some(at) {
                let mut next = self.clone();
                next.starting = None;
                next.nodes[at].pod = true;
                out.push(next);
            }
        }
        if node.pod && self.writes < WRITES {
            let mut next = self.clone();
            next.writes += 1;
            let write = next.writes;
            next.nodes[at].volume.as_mut().unwrap().push(write);
            out.push(next);
        }
        // A copy that its base turns out not to belong to is removed.
        let takes_copies = self.record.stage == Stage::Replicating;
        if takes_copies && node.copies.len() > 1 {
            let mut next = self.clone();
            next.nodes[at].copies.pop_last();
            out.push(next);
        }
        // One node at a time, so that the other one can go on.
        if !node.is_lost && !self.nodes[1 - at].is_lost {
            let mut next = self.clone();
            next.nodes[at].is_lost = true;
            out.push(next);
        }
        if node.is_lost && !node.is_fenced {
            // Its pods end by themselves before the lease is taken.
            let mut next = self.clone();
            next.nodes[at].pod = false;
            next.nodes[at].is_fenced = true;
            out.push(next);
        }
        if node.is_lost {
            let mut next = self.clone();
            next.nodes[at].is_lost = false;
            next.nodes[at].is_fenced = false;
            out.push(next);
        }
    }

    /// The promoted copy has all of what was shown, and is the beginning of what the primary had.
    fn check_recovery(&self) {
        let time = self
            .record
            .recovery
            .as_ref()
            .expect("a recovery point")
            .time;
        let new = &self.nodes[index(&self.record.primary)];
        let copy = &new.copies[&time];
        let newest = self.shown.last_key_value();
        if let Some((_, shown)) = newest {
            assert!(copy.starts_with(shown), "older than shown: {self:#?}");
        }
    }

    fn check(&self) {
        let [one, two] = &self.nodes;
        assert!(!(one.pod && two.pod), "two bodies: {self:#?}");
        for node in [one, two].into_iter().filter(|node| node.pod) {
            assert!(
                node.volume.is_some(),
                "a body without its volume: {self:#?}"
            );
        }
        // Each write is somewhere: in a volume, or in a kept state.
        for write in 1..=self.writes {
            let has = |node: &Node| {
                let kept = node.diverged.iter();
                kept.chain(&node.volume)
                    .any(|history| history.contains(&write))
            };
            assert!(has(one) || has(two), "lost write {write}: {self:#?}");
        }
        // A promoted volume is not replaced.
        let primary = &self.nodes[index(&self.record.primary)];
        if self.record.stage != Stage::Promoted {
            assert!(primary.volume.is_some(), "no volume: {self:#?}");
        }
    }

    /// Without further faults the volume has a replica again, and one node has it.
    fn finish(mut self) {
        self.late = None;
        self.stream = None;
        self.starting = None;
        self.saw_proof = false;
        for node in &mut self.nodes {
            node.is_lost = false;
            node.is_fenced = false;
            node.pod = false;
        }
        for _ in 0..60 {
            match self.plan() {
                Step::Done => break,
                Step::Wait(_) | Step::Rest(_) => self.answers = Answers::default(),
                Step::Write(record) => {
                    let is_copied = record.last > self.record.last;
                    self.write(&record);
                    if is_copied {
                        break;
                    }
                }
                Step::Place(record, _) => self.write(&record),
                Step::Call(call) => {
                    let record = self.record.clone();
                    self.carry_out(&record, &call, false);
                }
            }
        }
        assert_eq!(self.record.stage, Stage::Replicating, "{self:#?}");
        assert!(self.record.last.is_some(), "no copy: {self:#?}");
        let volumes = self.nodes.iter().filter(|node| node.volume.is_some());
        assert_eq!(volumes.count(), 1, "{self:#?}");
        self.check();
    }
}

fn explore(mistake: Mistake, limit: usize) -> usize {
    let start = World::start(mistake);
    let mut seen = BTreeSet::from([start.clone()]);
    let mut level = vec![start];
    while !level.is_empty() {
        let mut deeper = Vec::new();
        for world in level {
            world.check();
            let next = world.next().into_iter();
            deeper.extend(next.filter(|next| seen.len() < limit && seen.insert(next.clone())));
            world.finish();
        }
        level = deeper;
    }
    seen.len()
}

// DESIGN §16: no split brain, the recovery point is the stated one, and divergence is kept.
#[test]
fn no_interleaving_has_two_bodies_or_loses_a_write() {
    let count = explore(Mistake::None, 80_000);
    assert!(count > 10_000, "{count}");
}

#[test]
fn mistakes_are_found() {
    for mistake in [
        Mistake::NoProof,
        Mistake::StaleAgents,
        Mistake::AnyEpoch,
        Mistake::NoDivergence,
        Mistake::EarlyProof,
        Mistake::AnyCopy,
    ] {
        let found = std::panic::catch_unwind(|| explore(mistake, 80_000));
        assert!(found.is_err(), "{mistake:?} was not found");
    }
}
