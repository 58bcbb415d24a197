//! Histories of concurrent operations on a few keys, and the sequential specification that they have to
//! agree with.
//!
//! The search for an order is stateright's `LinearizabilityTester`: its time grows exponentially with the
//! length of a history, so histories are kept short, each on keys of its own.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// The keys of a history.
pub const KEYS: [&str; 2] = ["a", "b"];

/// A key, as the number of one of [`KEYS`].
pub type Key = usize;

/// A value, which no two writes of a history share, with the revision of its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub value: u64,
    pub revision: u64,
}

/// An operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Get(Key),
    /// All keys of the history.
    List,
    Create(Key, u64),
    /// If the key's newest write has the revision.
    Update(Key, u64, u64),
    /// If the key's newest write has the revision.
    Delete(Key, u64),
}

/// The state of a key, as far as a refusal tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    Nothing,
    Something,
    Pair(Pair),
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ret {
    Got(Option<Pair>),
    Listed {
        revision: u64,
        pairs: BTreeMap<Key, Pair>,
    },
    /// The write was carried out, at this revision if the answer names it.
    Done(Option<u64>),
    /// The condition does not hold.
    Refused(Present),
    /// There is no answer, and for certain nothing was written.
    Nothing,
}

impl Ret {
    /// The revisions of keys that the answer tells.
    pub fn tells(&self, op: Op) -> Vec<(Key, u64)> {
        let key = match op {
            Op::Get(key) | Op::Create(key, _) | Op::Update(key, ..) | Op::Delete(key, _) => key,
            Op::List => 0,
        };
        match self {
            Self::Got(Some(pair)) | Self::Refused(Present::Pair(pair)) => {
                vec![(key, pair.revision)]
            }
            Self::Listed { pairs, .. } => {
                let pairs = pairs.iter();
                pairs.map(|(key, pair)| (*key, pair.revision)).collect()
            }
            Self::Done(Some(revision)) if !matches!(op, Op::Delete(..)) => vec![(key, *revision)],
            _ => Vec::new(),
        }
    }
}

/// The revision of a key's newest write.
#[derive(Clone, Copy, Debug)]
enum At {
    Exactly(u64),
    /// A write without an answer: above this one, and not known before somebody reads it.
    Above(u64),
}

/// The specification: a store with one client.
#[derive(Clone, Debug, Default)]
struct Sequential {
    pairs: BTreeMap<Key, (u64, At)>,
    /// The greatest revision of the operations up to now.
    newest: u64,
}

impl Sequential {
    /// Whether the newest write of the key has the revision. One that is not known here was known to nobody
    /// who had an answer before, so no condition names it.
    fn is_at(&self, key: Key, revision: u64) -> bool {
        let stored = self.pairs.get(&key);
        stored.is_some_and(|(_, at)| matches!(at, At::Exactly(revisions) if *revisions == revision))
    }

    /// Whether a read may find this.
    fn has(&mut self, key: Key, pair: Option<Pair>) -> bool {
        let (Some((value, at)), Some(pair)) = (self.pairs.get_mut(&key), pair) else {
            return self.pairs.contains_key(&key) == pair.is_some();
        };
        let fits = match *at {
            At::Exactly(revision) => revision == pair.revision,
            At::Above(revision) => pair.revision > revision,
        };
        *at = At::Exactly(pair.revision);
        self.newest = self.newest.max(pair.revision);
        fits && *value == pair.value
    }

    fn may_refuse(&mut self, key: Key, present: Present) -> bool {
        match present {
            Present::Nothing => !self.pairs.contains_key(&key),
            Present::Something => self.pairs.contains_key(&key),
            Present::Pair(pair) => self.has(key, Some(pair)),
        }
    }

    /// Whether the write may be carried out at the revision, which is not known for some.
    fn write(&mut self, op: Op, revision: Option<u64>) -> bool {
        if self.is_refused(op) || revision.is_some_and(|revision| revision <= self.newest) {
            return false;
        }
        let at = revision.map_or(At::Above(self.newest), At::Exactly);
        self.newest = revision.unwrap_or(self.newest);
        match op {
            Op::Create(key, value) | Op::Update(key, value, _) => {
                self.pairs.insert(key, (value, at));
            }
            Op::Delete(key, _) => {
                self.pairs.remove(&key);
            }
            Op::Get(_) | Op::List => return false,
        }
        true
    }

    fn is_refused(&self, op: Op) -> bool {
        match op {
            Op::Get(_) | Op::List => false,
            Op::Create(key, _) => self.pairs.contains_key(&key),
            Op::Update(key, _, revision) | Op::Delete(key, revision) => !self.is_at(key, revision),
        }
    }
}

impl SequentialSpec for Sequential {
    type Op = Op;
    type Ret = Ret;

    /// The effect of an operation that has no answer.
    fn invoke(&mut self, op: &Op) -> Ret {
        self.write(*op, None);
        Ret::Nothing
    }

    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        match (*op, ret) {
            (_, Ret::Nothing) => true,
            (Op::Get(key), Ret::Got(pair)) => self.has(key, *pair),
            (Op::List, Ret::Listed { revision, pairs }) => {
                let is_later = *revision >= self.newest;
                self.newest = self.newest.max(*revision);
                is_later && (0..KEYS.len()).all(|key| self.has(key, pairs.get(&key).copied()))
            }
            (Op::Get(_) | Op::List, _) => false,
            (op, Ret::Done(revision)) => self.write(op, *revision),
            (
                op @ (Op::Create(key, _) | Op::Update(key, ..) | Op::Delete(key, _)),
                Ret::Refused(present),
            ) => self.is_refused(op) && self.may_refuse(key, *present),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Called(Op),
    Answered(Ret),
}

/// The calls and answers of several clients, in the order of their times.
#[derive(Debug, Default)]
pub struct History(Mutex<Vec<(usize, Step)>>);

impl History {
    fn note(&self, client: usize, step: Step) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((client, step));
    }

    /// A client is about to send an operation. Without an answer it may be carried out at any later time, and
    /// the client sends no further one.
    pub fn called(&self, client: usize, op: Op) {
        self.note(client, Step::Called(op));
    }

    /// The client has the answer.
    pub fn answered(&self, client: usize, ret: Ret) {
        self.note(client, Step::Answered(ret));
    }

    /// Searches for an order of the operations, one after the other and each between its call and its answer,
    /// in which one client would have got the same answers.
    ///
    /// *Errors.* The history, if there is none.
    pub fn check(&self) -> Result<(), String> {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tester = LinearizabilityTester::new(Sequential::default());
        for (client, step) in steps.iter().cloned() {
            match step {
                Step::Called(op) => tester.on_invoke(client, op)?,
                Step::Answered(ret) => tester.on_return(client, ret)?,
            };
        }
        if tester.is_consistent() {
            return Ok(());
        }
        let mut text = String::from("no order of these operations explains the answers:\n");
        for (client, step) in steps.iter() {
            writeln!(text, "  client {client}: {step:?}").map_err(|error| error.to_string())?;
        }
        Err(text)
    }
}

/// Random numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// A place in a list of this length.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    /// A stream of its own for a part of a test.
    pub fn part(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }

    /// An operation that writes `value` if it writes; conditions are on revisions that are known.
    pub fn operation(&mut self, value: u64, revisions: &BTreeMap<Key, u64>) -> Op {
        let key = self.place(KEYS.len());
        match (self.below(8), revisions.get(&key)) {
            (0, _) => Op::List,
            (1 | 2, _) => Op::Get(key),
            (3 | 4, None) | (3, _) => Op::Create(key, value),
            (4..=6, Some(revision)) => Op::Update(key, value, *revision),
            (_, Some(revision)) => Op::Delete(key, *revision),
            (_, None) => Op::Get(key),
        }
    }
}

/// The seed of a test: that of `SEED` in the environment, or a new one. It is printed for a test that fails.
pub fn seed() -> u64 {
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    eprintln!("SEED={seed}");
    seed
}
