//! Every interleaving of a move, and of the move back, with the calls of a node, pods that start from old objects, a
//! user who cancels, lost responses, a crash during a call, first copies that a restarted node removes, and calls that
//! arrive late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use controller_planners::volume_move::*;
use resource_kinds::storage::volume_move::{MoveStage, VolumeMove};

/// The number of writes of pods that are explored.
const WRITES: u8 = 2;

/// The directories of the volume on a node; each has the number of the last write in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Disk {
    /// The directory with the name that pods mount.
    real: Option<u8>,
    /// The directories with the name of a move.
    moving: BTreeMap<u8, u8>,
    /// Complete copies.
    arrived: BTreeMap<u8, u8>,
    /// First copies: snapshots on the source, complete copies on the destination.
    first: BTreeMap<u8, u8>,
    /// The moves that have ended on this node.
    ended: BTreeSet<u8>,
    /// Whether a pod has the directory open, whatever the directory's name is.
    pod: bool,
}

/// A call that arrives late.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Late {
    /// A call of this move.
    Call(u8, Call),
    /// The rest of a stream that was read earlier.
    Stream(u8, Stream),
}

/// A stream that was read on the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stream {
    /// The first snapshot.
    First(u8),
    /// The difference to the first snapshot, which had the older data.
    Increment(u8, u8),
    /// All data.
    Whole(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    transfer: DataTransfer,
    record: VolumeMove,
    responses: MoveAnswers,
    disks: [Disk; 2],
    /// The last write of a pod.
    latest: u8,
    late: BTreeSet<Late>,
}

/// The number of a move; odd moves go to the second node.
fn number(record: &VolumeMove) -> u8 {
    record.id.parse().unwrap()
}

fn index(id: u8, side: MoveEnd) -> usize {
    usize::from((id % 2 == 1) == (side == MoveEnd::Destination))
}

fn request(id: u8) -> VolumeMove {
    let name = |side| ["one", "two"][index(id, side)];
    VolumeMove::request(
        &id.to_string(),
        name(MoveEnd::Source),
        name(MoveEnd::Destination),
    )
}

impl Disk {
    fn detach(&mut self, id: u8) -> Detachment {
        if self.ended.contains(&id) {
            return Detachment::Ended;
        }
        if !self.moving.contains_key(&id) {
            let Some(data) = self.real.take() else {
                return Detachment::Missing;
            };
            self.moving.insert(id, data);
        }
        if self.pod {
            self.real = self.moving.remove(&id);
            return Detachment::InUse("a pod".to_owned());
        }
        Detachment::Detached
    }

    fn abandon(&mut self, id: u8) {
        self.ended.insert(id);
        self.arrived.remove(&id);
        self.first.remove(&id);
        if let Some(data) = self.moving.remove(&id) {
            assert_eq!(self.real, None, "two directories");
            self.real = Some(data);
        }
    }

    /// The stream of a copy, as the source sends it.
    fn send(&mut self, id: u8, extent: CopyExtent) -> Option<Stream> {
        if self.ended.contains(&id) {
            return None;
        }
        let detached = self.moving.get(&id).filter(|_| !self.pod).copied();
        match extent {
            CopyExtent::First => {
                let data = self.first.get(&id).copied().or(self.real)?;
                self.first.insert(id, data);
                Some(Stream::First(data))
            }
            CopyExtent::Increment => Some(Stream::Increment(*self.first.get(&id)?, detached?)),
            CopyExtent::Whole => detached.map(Stream::Whole),
        }
    }

    fn receive(&mut self, id: u8, stream: Stream) {
        if self.ended.contains(&id) || self.real.is_some() || self.arrived.contains_key(&id) {
            return;
        }
        match stream {
            Stream::First(data) => {
                self.first.entry(id).or_insert(data);
            }
            Stream::Increment(former, data) => {
                if self.first.get(&id) == Some(&former) {
                    self.arrived.insert(id, data);
                } else {
                    // The increment belongs to another first copy.
                    self.first.remove(&id);
                }
            }
            Stream::Whole(data) => {
                self.arrived.insert(id, data);
            }
        }
    }

    /// Whether the destination has the copy.
    fn has_copy(&self, id: u8, extent: CopyExtent) -> bool {
        let is_first = extent == CopyExtent::First && self.first.contains_key(&id);
        is_first || self.arrived.contains_key(&id)
    }
}

impl World {
    fn start(transfer: DataTransfer) -> Self {
        let mut disks = [Disk::default(), Disk::default()];
        disks[0].real = Some(0);
        Self {
            transfer,
            record: request(1),
            responses: MoveAnswers::default(),
            disks,
            latest: 0,
            late: BTreeSet::new(),
        }
    }

    fn disk(&mut self, id: u8, side: MoveEnd) -> &mut Disk {
        &mut self.disks[index(id, side)]
    }

    fn plan(&self, observes_pods: bool) -> VolumeMoveStep {
        let mut users = Vec::new();
        for (disk, node) in self.disks.iter().zip(["one", "two"]) {
            if disk.pod && observes_pods {
                users.push(User {
                    name: "web-0".to_owned(),
                    uid: node.parse().unwrap(),
                    node: node.to_owned(),
                    is_controlled: true,
                    is_deleted: false,
                });
            }
        }
        plan(&Observed {
            record: &self.record,
            transfer: self.transfer,
            is_bound: true,
            users: &users,
            source: NodePresence::Ready,
            destination: NodePresence::Ready,
            responses: &self.responses,
        })
    }

    /// Executes a call; the response goes to the leader unless the call is late.
    fn carry_out(&mut self, id: u8, call: Call, is_late: bool) {
        let mut results = self.responses.clone();
        match call {
            Call::Inspect(side) => {
                let inspection = Some(Inspection {
                    used: Some(0),
                    free: u64::MAX,
                    limit: None,
                    has_first_copy: self.disk(id, side).first.contains_key(&id),
                });
                match side {
                    MoveEnd::Source => results.source = inspection,
                    MoveEnd::Destination => results.destination = inspection,
                }
            }
            Call::Detach => results.detached = Some(self.disk(id, MoveEnd::Source).detach(id)),
            Call::Copy(extent) => {
                // An existing copy is not created again.
                if !self.disk(id, MoveEnd::Destination).has_copy(id, extent)
                    && let Some(stream) = self.disk(id, MoveEnd::Source).send(id, extent)
                {
                    self.disk(id, MoveEnd::Destination).receive(id, stream);
                }
                if self.disk(id, MoveEnd::Destination).has_copy(id, extent) {
                    results.copied = Some(CopyResult::Complete("/p".to_owned()));
                } else {
                    // The call fails, and the next round repeats it.
                    results = MoveAnswers::default();
                }
            }
            Call::Place => {
                let disk = self.disk(id, MoveEnd::Destination);
                disk.ended.insert(id);
                disk.first.remove(&id);
                if let Some(data) = disk.arrived.remove(&id) {
                    assert_eq!(disk.real, None, "two directories");
                    disk.real = Some(data);
                }
                results.placed = true;
            }
            Call::Discard => {
                let disk = self.disk(id, MoveEnd::Source);
                disk.moving.remove(&id);
                disk.first.remove(&id);
                disk.ended.insert(id);
                results.discarded = true;
            }
            Call::Abandon(side) => {
                self.disk(id, side).abandon(id);
                match side {
                    MoveEnd::Source => results.restored = true,
                    MoveEnd::Destination => results.cleared = true,
                }
            }
        }
        if !is_late {
            self.responses = results;
        }
    }

    fn write(&mut self, record: VolumeMove) {
        self.record = record;
        self.responses = MoveAnswers::default();
    }

    /// The worlds after the leader's next step.
    fn add_leader_steps(&self, step: &VolumeMoveStep, next_worlds: &mut Vec<World>) {
        let mut next = self.clone();
        match step {
            VolumeMoveStep::Done => {
                if self.record.id == "1" && self.record.stage == MoveStage::Moved {
                    next.write(request(2));
                    next_worlds.push(next);
                }
            }
            VolumeMoveStep::Wait(_) => {
                next.responses = MoveAnswers::default();
                next_worlds.push(next);
            }
            VolumeMoveStep::Write(record) => {
                next.write(record.clone());
                next_worlds.push(next);
            }
            VolumeMoveStep::DeletePod(user) => {
                next.disks[usize::from(user.node == "two")].pod = false;
                next_worlds.push(next);
            }
            VolumeMoveStep::Call(call) => self.add_call_outcomes(*call, next_worlds),
        }
    }

    fn add_call_outcomes(&self, call: Call, next_worlds: &mut Vec<World>) {
        let id = number(&self.record);
        let mut done = self.clone();
        done.carry_out(id, call, false);
        // The response is lost.
        let mut without_response = done.clone();
        without_response.responses = MoveAnswers::default();
        next_worlds.extend([done, without_response]);
        if self.late.is_empty() && !matches!(call, Call::Inspect(_)) {
            // A former leader sends the call too, at any later time.
            let mut late = self.clone();
            late.late.insert(Late::Call(id, call));
            next_worlds.push(late);
        }
        if let Call::Copy(extent) = call
            && self.late.is_empty()
        {
            let mut late = self.clone();
            if let Some(stream) = late.disk(id, MoveEnd::Source).send(id, extent) {
                late.late.insert(Late::Stream(id, stream));
                next_worlds.push(late);
            }
        }
        let source = &self.disks[index(id, MoveEnd::Source)];
        if call == Call::Detach
            && let Some(data) = source.real
            && !source.ended.contains(&id)
        {
            // The agent is killed after the rename.
            let mut killed = self.clone();
            let disk = killed.disk(id, MoveEnd::Source);
            disk.real = None;
            disk.moving.insert(id, data);
            next_worlds.push(killed);
        }
    }

    fn next_worlds(&self) -> Vec<World> {
        let mut next_worlds = Vec::new();
        for observes_pods in [true, false] {
            self.add_leader_steps(&self.plan(observes_pods), &mut next_worlds);
        }
        for late in &self.late {
            let mut next = self.clone();
            next.late.remove(late);
            match late {
                Late::Call(id, call) => next.carry_out(*id, *call, true),
                Late::Stream(id, stream) => {
                    next.disk(*id, MoveEnd::Destination).receive(*id, *stream);
                }
            }
            next_worlds.push(next);
        }
        if self.record.stage.is_before_placed() && !self.record.cancelled {
            let mut next = self.clone();
            next.record.cancelled = true;
            next_worlds.push(next);
        }
        for at in 0..2 {
            if !self.disks[at].first.is_empty() {
                // The node starts, and has not read yet that the move is in progress.
                let mut next = self.clone();
                next.disks[at].first.clear();
                next_worlds.push(next);
            }
            let mut next = self.clone();
            let disk = &mut next.disks[at];
            if disk.pod {
                disk.pod = false;
                next_worlds.push(next);
                let mut next = self.clone();
                if next.latest < WRITES {
                    next.latest += 1;
                    let disk = &mut next.disks[at];
                    let moving = disk.moving.values_mut();
                    let open = moving.chain(disk.real.as_mut());
                    open.for_each(|data| *data = next.latest);
                    next_worlds.push(next);
                }
            } else if disk.real.is_some() {
                // The scheduler does not prevent this start, because agents may act on old objects.
                disk.pod = true;
                next_worlds.push(next);
            }
        }
        next_worlds
    }

    fn check(&self) {
        let [one, two] = &self.disks;
        assert!(one.real.is_none() || two.real.is_none(), "two: {self:#?}");
        assert!(!(one.pod && two.pod), "two pods: {self:#?}");
        for disk in [one, two].into_iter().filter(|disk| disk.pod) {
            let open = disk.real.or(disk.moving.values().next().copied());
            assert_eq!(open, Some(self.latest), "old data: {self:#?}");
        }
        let mut writes = [one, two].into_iter().flat_map(|disk| {
            let moving = disk.moving.values().copied();
            let arrived = disk.arrived.values().copied();
            disk.real.into_iter().chain(moving).chain(arrived)
        });
        assert!(writes.any(|data| data == self.latest), "lost: {self:#?}");
        if self.record.stage.is_final() {
            let side = match self.record.stage {
                MoveStage::Moved => MoveEnd::Destination,
                _ => MoveEnd::Source,
            };
            let disk_of_volume = &self.disks[index(number(&self.record), side)];
            assert_eq!(
                disk_of_volume.real,
                Some(self.latest),
                "misplaced: {self:#?}"
            );
        }
    }

    /// Without further faults the move ends, and leaves no data behind.
    fn finish(mut self) {
        self.late.clear();
        for _ in 0..40 {
            for disk in &mut self.disks {
                disk.pod = false;
            }
            let id = number(&self.record);
            match self.plan(true) {
                VolumeMoveStep::Done => break,
                VolumeMoveStep::Wait(_) => self.responses = MoveAnswers::default(),
                VolumeMoveStep::Write(record) => self.write(record),
                VolumeMoveStep::Call(call) => self.carry_out(id, call, false),
                VolumeMoveStep::DeletePod(_) => {}
            }
        }
        assert!(self.record.stage.is_final(), "no end: {self:#?}");
        self.check();
        let is_clean = |disk: &Disk| {
            disk.moving.is_empty() && disk.arrived.is_empty() && disk.first.is_empty()
        };
        assert!(self.disks.iter().all(is_clean), "left over: {self:#?}");
    }
}

// The data is in one usable directory after any crash (statefulset.md 11.3).
#[test]
fn no_interleaving_loses_data_or_has_it_twice() {
    for transfer in [DataTransfer::Files, DataTransfer::Streams] {
        explore(World::start(transfer));
    }
}

fn explore(start: World) {
    let mut visited = BTreeSet::from([start.clone()]);
    let mut frontier = VecDeque::from([start]);
    while let Some(world) = frontier.pop_front() {
        world.check();
        world.clone().finish();
        for next in world.next_worlds() {
            if visited.insert(next.clone()) {
                frontier.push_back(next);
            }
        }
    }
    assert!(visited.len() > 1000, "{}", visited.len());
}
