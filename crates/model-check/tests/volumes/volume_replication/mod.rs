//! A world of nodes with a replicated volume: late calls, lost responses, nodes that are lost and return at any step,
//! and leaders that act on an earlier observation. Two nodes are explored completely; with a third node, which replaces
//! an absent replica, random walks are taken.

mod node;
mod search;

use std::collections::BTreeMap;

use resource_kinds::storage::volume_replication::{
    Parameters, ReplicationStage, VolumeReplication,
};

use controller_planners::volume_move::NodePresence;
use controller_planners::volume_replication::{
    Call, CopyResult, Observed, ReplicationAnswers, ReplicationStep, Role, Users, plan,
};
use node::Node;

const NODES: [&str; 3] = ["one", "two", "three"];
/// The bounds of a world of two nodes: copies that are started, epochs, and writes of pods.
const TWO_NODE_BOUNDS: (i64, u32, u8) = (3, 3, 3);
/// The bounds of a world with a third node, in which random walks are taken.
const THREE_NODE_BOUNDS: (i64, u32, u8) = (60, 40, 30);

/// An injected mistake, which the model has to detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mistake {
    None,
    /// The volume is promoted without a proof.
    NoProof,
    /// Agents start pods with an earlier record.
    StaleAgents,
    /// Nodes accept steps of any epoch.
    AnyEpoch,
    /// A former primary's state is removed.
    NoDivergence,
    /// A proof that is older than the record is accepted.
    EarlyProof,
    /// Any copy is promoted, including a copy that is older than the recorded copy.
    AnyCopy,
    /// Any snapshot of a former primary is accepted as the recovery point.
    OtherBase,
    /// A leader promotes the replica in its old record, though another node has replaced the replica.
    PromoteStaleReplica,
}

/// The writes of one history, in order.
type History = Vec<u8>;

/// A copy in transfer: the difference to a base, or all data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stream {
    epoch: u32,
    to: usize,
    time: i64,
    /// The snapshot that the copy is the difference to.
    base: Option<(i64, History)>,
    writes: History,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    mistake: Mistake,
    record: VolumeReplication,
    responses: ReplicationAnswers,
    nodes: Vec<Node>,
    /// The contents of each reported copy.
    reported: BTreeMap<i64, History>,
    writes: u8,
    now: i64,
    /// A call that arrives at any later time, with the epoch and the nodes of its record.
    late: Option<(VolumeReplication, Call)>,
    /// The second half of a copy whose first half was read earlier.
    stream: Option<Stream>,
    /// The record before the replica was replaced.
    replaced: Option<VolumeReplication>,
    /// The node of a pod whose agent has read an earlier record.
    starting: Option<usize>,
    /// Whether a leader has read the proof, and acts on it later.
    has_read_proof: bool,
}

fn index(name: &str) -> usize {
    let position = NODES.iter().position(|node| *node == name);
    position.expect("a node of the world")
}

impl World {
    fn start(mistake: Mistake, nodes: usize) -> Self {
        let mut nodes = vec![Node::default(); nodes];
        nodes[0].volume = Some(Vec::new());
        Self {
            mistake,
            record: VolumeReplication {
                replica: Some("two".to_owned()),
                ..VolumeReplication::new(
                    "one",
                    Parameters {
                        interval: 0,
                        replacement: 0,
                    },
                )
            },
            responses: ReplicationAnswers::default(),
            nodes,
            reported: BTreeMap::new(),
            writes: 0,
            now: 1,
            late: None,
            stream: None,
            replaced: None,
            starting: None,
            has_read_proof: false,
        }
    }

    fn bounds(&self) -> (i64, u32, u8) {
        match self.nodes.len() {
            2 => TWO_NODE_BOUNDS,
            _ => THREE_NODE_BOUNDS,
        }
    }

    /// A ready node without a role.
    fn candidate(&self) -> Option<&'static str> {
        let former_nodes = self.record.others();
        let mut candidates = NODES[..self.nodes.len()].iter().filter(|node| {
            **node != self.record.primary && self.record.replica.as_deref() != Some(node)
        });
        candidates
            .find(|node| {
                let is_former = former_nodes.contains(**node);
                !self.nodes[index(node)].is_lost && (!is_former || self.record.successor.is_none())
            })
            .copied()
    }

    fn presence(&self, name: &str) -> NodePresence {
        match self.nodes[index(name)].is_lost {
            true => NodePresence::Silent,
            false => NodePresence::Ready,
        }
    }

    /// Whether the leader acts on an earlier observation. Its write of the record succeeds only if the record has not
    /// changed since the read.
    fn acts_late(&self) -> bool {
        let can_act_late = self.record.stage == ReplicationStage::Replicating
            || self.mistake == Mistake::EarlyProof;
        can_act_late && self.has_read_proof
    }

    fn is_proven_dead(&self) -> bool {
        let primary = &self.nodes[index(&self.record.primary)];
        match self.mistake {
            Mistake::NoProof => primary.is_lost,
            _ => primary.is_fenced || self.acts_late(),
        }
    }

    fn plan(&self) -> ReplicationStep {
        let primary = index(&self.record.primary);
        let mut record = self.record.clone();
        if self.mistake == Mistake::AnyCopy {
            record.last = record.last.map(|_| 0);
        }
        let others = record.others().into_iter();
        let others = others.map(|node| (node.to_owned(), self.presence(node)));
        plan(&Observed {
            record: &record,
            primary: self.presence(NODES[primary]),
            is_proven_dead: self.is_proven_dead(),
            users: Users {
                // The pod's object does not exist once the fence deleted it.
                on_primary: self.nodes[primary].pod
                    && !self.nodes[primary].is_lost
                    && !self.acts_late(),
                waiting: true,
            },
            replica: match &self.record.replica {
                Some(name) => self.presence(name),
                None => NodePresence::Absent,
            },
            is_replica_lost: true,
            others: &others.collect(),
            candidate: self.candidate(),
            is_released: false,
            now: self.now,
            responses: &self.responses,
        })
    }

    /// Executes a call of a record; the response goes to the leader unless the call is late.
    fn carry_out(&mut self, record: &VolumeReplication, call: &Call, is_late: bool) {
        let at = index(call.node(record).expect("a node"));
        if self.nodes[at].is_lost {
            return;
        }
        let (mistake, epoch) = (self.mistake, record.epoch);
        let mut responses = self.responses.clone();
        let node = &mut self.nodes[at];
        match call {
            Call::Inspect(Role::Primary) => responses.primary = Some(node.volume_copies()),
            Call::Inspect(Role::Replica) => responses.replica = Some(node.volume_copies()),
            Call::Seal => {
                if node.admit(mistake, epoch, Role::Replica) {
                    responses.sealed = Some(node.volume_copies());
                }
            }
            Call::Demote(common) => {
                node.demote(mistake, epoch, common.as_ref());
                responses.replica = None;
            }
            Call::Copy { time, base } => {
                let stream = self.read(record, *time, *base);
                if let Some(stream) = stream
                    && !self.nodes[stream.to].is_lost
                {
                    let to = &mut self.nodes[stream.to];
                    to.receive(mistake, &stream);
                    if to.copies.contains_key(time) {
                        responses.copied = Some(CopyResult::Complete(*time));
                    }
                }
                if responses.copied.is_none() {
                    // After a failure all facts are read again.
                    responses = ReplicationAnswers::default();
                }
            }
            Call::Keep(role, retained) => {
                if node.admit(mistake, epoch, *role) {
                    let copies = match role {
                        Role::Primary => &mut node.sent,
                        Role::Replica => &mut node.copies,
                    };
                    copies.retain(|time, _| retained.contains(time));
                    if node
                        .common
                        .as_ref()
                        .is_some_and(|(time, _)| !retained.contains(time))
                    {
                        node.common = None;
                    }
                    responses.reduced.insert(*role);
                }
            }
            Call::Promote { time } => {
                let is_done = (node.epoch, node.role) == (epoch, Some(true));
                if !is_done && node.admits(mistake, epoch, Role::Replica) {
                    if node.volume.is_none()
                        && let Some(copy) = node.copies.get(time).cloned()
                    {
                        node.sent = BTreeMap::from([(*time, copy.clone())]);
                        node.common = Some((*time, copy.clone()));
                        node.volume = Some(copy);
                    }
                    if node.volume.is_some() {
                        (node.epoch, node.role) = (epoch, Some(true));
                        node.copies.clear();
                    }
                }
                responses.promoted = (node.epoch, node.role) == (epoch, Some(true));
            }
            Call::Retire(name) => {
                node.demote(mistake, epoch, None);
                if (node.epoch, node.role) == (epoch, Some(false)) {
                    node.copies.clear();
                    node.sent.clear();
                    responses
                        .retired
                        .insert(name.clone(), Some(node.volume_copies()));
                }
            }
            Call::Forget(_) => {}
        }
        if !is_late {
            self.responses = responses;
        }
    }

    /// The primary's half of a copy.
    fn read(&mut self, record: &VolumeReplication, time: i64, base: Option<i64>) -> Option<Stream> {
        let (mistake, epoch) = (self.mistake, record.epoch);
        let node = &mut self.nodes[index(&record.primary)];
        if !node.admit(mistake, epoch, Role::Primary) {
            return None;
        }
        let base = match base {
            None => None,
            Some(base) => Some((base, node.sent.get(&base)?.clone())),
        };
        let writes = node.sent.get(&time).or(node.volume.as_ref()).cloned()?;
        node.sent.insert(time, writes.clone());
        Some(Stream {
            epoch,
            to: index(record.receiver()?),
            time,
            base,
            writes,
        })
    }

    fn write(&mut self, record: &VolumeReplication) {
        if let Some(last) = record.last
            && record.last != self.record.last
            && let Some(replica) = &record.replica
        {
            let copy = self.nodes[index(replica)].copies.get(&last).cloned();
            self.reported.insert(last, copy.unwrap_or_default());
        }
        if record.replica != self.record.replica && record.primary == self.record.primary {
            self.replaced = Some(self.record.clone());
        }
        let read_time = match self.mistake {
            // The planner reads another time than the reported time.
            Mistake::AnyCopy if record.last == Some(0) => self.record.last,
            _ => record.last,
        };
        self.record = VolumeReplication {
            last: read_time,
            ..record.clone()
        };
        self.responses = ReplicationAnswers::default();
    }

    /// The worlds after the leader's next step.
    fn add_leader_steps(&self, next_worlds: &mut Vec<World>) {
        let step = self.plan();
        let mut next = self.clone();
        match step {
            ReplicationStep::Done => {}
            ReplicationStep::Wait(_) | ReplicationStep::Rest(_) => {
                next.responses = ReplicationAnswers::default();
                next_worlds.push(next);
            }
            ReplicationStep::Write(record) => {
                if record.epoch <= self.bounds().1 {
                    let keeps = self.mistake == Mistake::EarlyProof;
                    next.has_read_proof &= keeps && record.stage == ReplicationStage::Promoting;
                    next.write(&record);
                    next_worlds.push(next);
                }
            }
            ReplicationStep::Relocate(record, _) => {
                next.has_read_proof = false;
                next.write(&record);
                next.check_recovery();
                next_worlds.push(next);
            }
            ReplicationStep::Call(call) => self.add_call_outcomes(&call, next_worlds),
        }
    }

    fn add_call_outcomes(&self, call: &Call, next_worlds: &mut Vec<World>) {
        if let Call::Copy { time, base } = call {
            if *time > self.bounds().0 {
                return;
            }
            if self.stream.is_none() && self.late.is_none() {
                // The receiver gets the stream at any later time.
                let mut read = self.clone();
                let at = index(&self.record.primary);
                if !read.nodes[at].is_lost
                    && let Some(stream) = read.read(&self.record, *time, *base)
                {
                    read.stream = Some(stream);
                    read.responses = ReplicationAnswers::default();
                    read.now = self.now.max(*time + 1);
                    next_worlds.push(read);
                }
            }
        }
        let mut done = self.clone();
        done.carry_out(&self.record, call, false);
        if let Call::Copy { time, .. } = call {
            done.now = self.now.max(*time + 1);
        }
        if done == *self {
            // No response: the next round repeats the call.
            done.responses = ReplicationAnswers::default();
        }
        // The response is lost.
        let mut without_response = done.clone();
        without_response.responses = ReplicationAnswers::default();
        next_worlds.extend([done, without_response]);
        if self.late.is_none() && self.stream.is_none() && !matches!(call, Call::Inspect(_)) {
            let mut late = self.clone();
            late.late = Some((self.record.clone(), call.clone()));
            next_worlds.push(late);
        }
    }

    fn next_worlds(&self) -> Vec<World> {
        let mut next_worlds = Vec::new();
        self.add_leader_steps(&mut next_worlds);
        if let Some((record, call)) = &self.late {
            let mut next = self.clone();
            next.late = None;
            next.carry_out(record, call, true);
            next_worlds.push(next);
        }
        if let Some(stream) = &self.stream {
            let mut next = self.clone();
            next.stream = None;
            if !self.nodes[stream.to].is_lost {
                next.nodes[stream.to].receive(self.mistake, stream);
            }
            next_worlds.push(next);
        }
        self.add_stale_promotion(&mut next_worlds);
        let primary = &self.nodes[index(&self.record.primary)];
        if self.record.stage == ReplicationStage::Replicating
            && primary.is_fenced
            && !self.has_read_proof
        {
            let mut next = self.clone();
            next.has_read_proof = true;
            next_worlds.push(next);
        }
        for at in 0..self.nodes.len() {
            self.add_node_steps(at, &mut next_worlds);
        }
        next_worlds
    }

    /// The leader writes with its read from before the replacement of the replica, without a comparison with the
    /// present record.
    fn add_stale_promotion(&self, next_worlds: &mut Vec<World>) {
        let is_dead = self.nodes[index(&self.record.primary)].is_fenced;
        if self.mistake == Mistake::PromoteStaleReplica
            && self.record.stage == ReplicationStage::Replicating
            && is_dead
            && let Some(former) = self.replaced.clone()
            && former.primary == self.record.primary
            && former.can_be_promoted()
        {
            let mut next = self.clone();
            next.replaced = None;
            next.write(&VolumeReplication {
                stage: ReplicationStage::Promoting,
                ..former.replaced(former.replica.as_deref())
            });
            next_worlds.push(next);
        }
    }

    /// The changes that a node makes by itself.
    fn add_node_steps(&self, at: usize, next_worlds: &mut Vec<World>) {
        let node = &self.nodes[at];
        let may_start = !node.is_fenced && !node.is_lost && node.volume.is_some() && !node.pod;
        let is_allowed = self.record.refusal(NODES[at]).is_none();
        if may_start && is_allowed {
            let mut next = self.clone();
            next.nodes[at].pod = true;
            next_worlds.push(next);
        }
        if self.mistake == Mistake::StaleAgents {
            if is_allowed && self.starting.is_none() {
                let mut next = self.clone();
                next.starting = Some(at);
                next_worlds.push(next);
            }
            if may_start && self.starting == Some(at) {
                let mut next = self.clone();
                next.starting = None;
                next.nodes[at].pod = true;
                next_worlds.push(next);
            }
        }
        if node.pod && self.writes < self.bounds().2 {
            let mut next = self.clone();
            next.writes += 1;
            let write = next.writes;
            next.nodes[at].volume.as_mut().unwrap().push(write);
            next_worlds.push(next);
        }
        // A copy whose base turns out to be wrong is removed.
        let receives_copies = self.record.stage == ReplicationStage::Replicating;
        if receives_copies && node.copies.len() > 1 {
            let mut next = self.clone();
            next.nodes[at].copies.pop_last();
            next_worlds.push(next);
        }
        // One node is ready, so that the replication can continue.
        let nodes = self.nodes.iter().enumerate();
        let is_last = !nodes
            .into_iter()
            .any(|(other, node)| other != at && !node.is_lost);
        if !node.is_lost && !is_last {
            let mut next = self.clone();
            next.nodes[at].is_lost = true;
            next_worlds.push(next);
        }
        if node.is_lost && !node.is_fenced {
            // The pods of the node end by themselves before the lease is fenced.
            let mut next = self.clone();
            next.nodes[at].pod = false;
            next.nodes[at].is_fenced = true;
            next_worlds.push(next);
        }
        if node.is_lost {
            let mut next = self.clone();
            next.nodes[at].is_lost = false;
            next.nodes[at].is_fenced = false;
            next_worlds.push(next);
        }
    }

    /// The promoted copy has all reported writes, and is a prefix of the primary's writes.
    fn check_recovery(&self) {
        let time = self
            .record
            .recovery
            .as_ref()
            .expect("a recovery point")
            .time;
        let new = &self.nodes[index(&self.record.primary)];
        let copy = &new.copies[&time];
        let newest = self.reported.last_key_value();
        if let Some((_, reported)) = newest {
            assert!(copy.starts_with(reported), "older than shown: {self:#?}");
        }
    }

    fn check(&self) {
        let running = self.nodes.iter().filter(|node| node.pod);
        assert!(running.clone().count() <= 1, "two running pods: {self:#?}");
        for node in running {
            assert!(
                node.volume.is_some(),
                "a running pod without its volume: {self:#?}"
            );
        }
        // Each write is in a volume, or in a retained state.
        for write in 1..=self.writes {
            let has = |node: &Node| {
                let diverged = node.diverged.iter();
                diverged
                    .chain(&node.volume)
                    .any(|history| history.contains(&write))
            };
            assert!(self.nodes.iter().any(has), "lost write {write}: {self:#?}");
        }
        // A promoted volume is not replaced.
        let primary = &self.nodes[index(&self.record.primary)];
        if self.record.stage != ReplicationStage::Promoted {
            assert!(primary.volume.is_some(), "no volume: {self:#?}");
        }
    }

    /// Without further faults the volume has a replica again, and only one node has the volume.
    fn finish(mut self) {
        self.late = None;
        self.stream = None;
        self.starting = None;
        self.has_read_proof = false;
        for node in &mut self.nodes {
            node.is_lost = false;
            node.is_fenced = false;
            node.pod = false;
        }
        for _ in 0..120 {
            match self.plan() {
                ReplicationStep::Done => break,
                ReplicationStep::Wait(_) | ReplicationStep::Rest(_) => {
                    self.responses = ReplicationAnswers::default()
                }
                ReplicationStep::Write(record) => {
                    let is_copied = record.last > self.record.last;
                    self.write(&record);
                    if is_copied && self.record.former.is_empty() {
                        break;
                    }
                }
                ReplicationStep::Relocate(record, _) => self.write(&record),
                ReplicationStep::Call(call) => {
                    let record = self.record.clone();
                    self.carry_out(&record, &call, false);
                }
            }
        }
        assert_eq!(
            self.record.stage,
            ReplicationStage::Replicating,
            "{self:#?}"
        );
        assert!(self.record.last.is_some(), "no copy: {self:#?}");
        let volumes = self.nodes.iter().filter(|node| node.volume.is_some());
        assert_eq!(volumes.count(), 1, "{self:#?}");
        let copies = self.nodes.iter().filter(|node| !node.copies.is_empty());
        assert!(copies.count() <= 1, "copies are left: {self:#?}");
        self.check();
    }
}
