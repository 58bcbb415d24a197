//! Random use of an engine, compared with the plainest thing that could be right: a list of every
//! state there ever was.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use mvcc_store::{
    Compare, EventKind, KeyValue, Omittable, Operation, Range, Revision, Store, StoreError, Txn,
    TxnResult, Value, WatchEvents, WatchStream,
};
use proptest::prelude::*;

/// A key as the model knows it: value, create revision, mod revision.
type Pair = (Bytes, u64, u64);
type State = BTreeMap<Vec<u8>, Pair>;
/// A change: revision, key, the pair after and before.
type Change = (u64, Vec<u8>, Option<Pair>, Option<Pair>);

/// A step of the use.
#[derive(Clone, Debug)]
pub enum Step {
    Txn {
        compare: Vec<(u8, usize, u64)>,
        operations: BTreeMap<usize, Option<u8>>,
    },
    Range {
        start: usize,
        end: Option<usize>,
        back: Option<u64>,
        limit: Option<usize>,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Compact {
        back: u64,
    },
    Reopen,
}

/// Few keys, some of them prefixes of others, so that everything collides often.
const KEYS: [&str; 8] = ["a", "a/", "a/b", "a/b/c", "a0", "b", "b/\u{0}", "z"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "a/b", "q"];

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let compare = prop::collection::vec((0..3_u8, 0..KEYS.len(), 0..4_u64), 0..3);
    let operation = prop_oneof![2 => any::<u8>().prop_map(Some), 1 => Just(None)];
    let operations = prop::collection::btree_map(0..KEYS.len(), operation, 0..4);
    let range = (
        0..KEYS.len(),
        prop::option::of(0..KEYS.len()),
        prop::option::of(0..8_u64),
        prop::option::of(0..5_usize),
    );
    prop_oneof![
        12 => (compare, operations)
            .prop_map(|(compare, operations)| Step::Txn { compare, operations }),
        6 => range.prop_map(|(start, end, back, limit)| Step::Range { start, end, back, limit }),
        2 => (0..PREFIXES.len(), 0..10_u64)
            .prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0..8_u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
    ]
}

struct Model {
    /// The number of revisions before the first state: other uses of the same store.
    base: u64,
    /// The states at the revisions after `base`. The first is empty.
    states: Vec<State>,
    /// The oldest readable revision; zero if nothing was compacted.
    floor: u64,
}

impl Model {
    fn revision(&self) -> u64 {
        self.base + self.states.len() as u64
    }

    fn state(&self, revision: u64) -> State {
        // There was no state before the first revision.
        let index = revision.checked_sub(self.base + 1);
        index.map_or(State::new(), |index| {
            self.states[usize::try_from(index).unwrap()].clone()
        })
    }

    fn newest(&self) -> &State {
        self.states.last().unwrap()
    }

    fn changes(&self, prefix: &str, from: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for revision in from.max(self.base + 2)..=self.revision() {
            let (before, after) = (self.state(revision - 1), self.state(revision));
            let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys
                .into_iter()
                .filter(|key| key.starts_with(prefix.as_bytes()))
            {
                if before.get(key) != after.get(key) {
                    let (is, was) = (after.get(key).cloned(), before.get(key).cloned());
                    changes.push((revision, key.clone(), is, was));
                }
            }
        }
        changes
    }
}

struct OpenWatch {
    stream: WatchStream,
    prefix: &'static str,
    from: u64,
}

/// The engine under test.
pub trait Engine {
    /// Opens the store: each time with the same keys. Its history starts again.
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// Ends the store; `false` if it cannot be opened again, and stays open.
    fn close(&mut self) -> bool;
}

/// An engine beside the model.
struct World<E> {
    engine: E,
    store: Arc<dyn Store>,
    model: Model,
    watches: Vec<OpenWatch>,
}

fn plain(pair: &KeyValue) -> Pair {
    (
        pair.value.clone(),
        pair.create_revision.0,
        pair.mod_revision.0,
    )
}

impl<E: Engine> World<E> {
    async fn new(mut engine: E) -> Self {
        let store = engine.open().await;
        let base = store.current_revision().0 - 1;
        let model = Model {
            base,
            states: vec![State::new()],
            floor: first_floor(base),
        };
        Self {
            engine,
            store,
            model,
            watches: Vec::new(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Txn {
                compare,
                operations,
            } => self.txn(compare, operations).await,
            Step::Range {
                start,
                end,
                back,
                limit,
            } => {
                let end = end.map(|end| KEYS[end]);
                self.range(KEYS[start], end, back, limit).await;
            }
            Step::Watch { prefix, back } => self.watch(PREFIXES[prefix], back),
            Step::Compact { back } => {
                let revision = self.model.revision().saturating_sub(back);
                self.store.compact(Revision(revision)).await.unwrap();
                self.model.floor = self.model.floor.max(revision);
            }
            Step::Reopen => self.reopen().await,
        }
        assert_eq!(self.store.current_revision().0, self.model.revision());
    }

    async fn txn(&mut self, compare: Vec<(u8, usize, u64)>, writes: BTreeMap<usize, Option<u8>>) {
        let now = self.model.newest().clone();
        let mut holds = true;
        let compare = compare.into_iter().map(|(what, key, back)| {
            let (name, key) = (KEYS[key].as_bytes(), KEYS[key].as_bytes().to_vec());
            let newest = now.get(name).map(|pair| pair.2);
            let (result, compare) = match what {
                0 => (newest.is_none(), Compare::Absent(key)),
                1 => (newest.is_some(), Compare::Exists(key)),
                _ => {
                    let old_revision = newest.unwrap_or(9).saturating_sub(back / 2);
                    (
                        newest == Some(old_revision),
                        Compare::ModRevision(key, Revision(old_revision)),
                    )
                }
            };
            holds &= result;
            compare
        });
        let compare: Vec<_> = compare.collect();
        let revision = self.model.revision() + 1;
        let mut after = now.clone();
        let operations = writes.into_iter().map(|(key, value)| {
            let key = KEYS[key].as_bytes().to_vec();
            let Some(value) = value else {
                after.remove(&key);
                return Operation::Delete { key };
            };
            let part = Bytes::from(vec![value]);
            let stamped = [&[value][..], revision.to_string().as_bytes(), &[value]].concat();
            let created = now.get(&key).map_or(revision, |pair| pair.1);
            after.insert(key.clone(), (stamped.into(), created, revision));
            let value = Value::Stamped {
                before: part.clone(),
                after: part,
                omittable: Omittable::UNKNOWN,
            };
            Operation::Put {
                key,
                value,
                lease: None,
            }
        });
        let operations: Vec<_> = operations.collect();
        match self
            .store
            .txn(Txn {
                compare,
                operations,
            })
            .await
            .unwrap()
        {
            TxnResult::Refused { present, .. } => {
                assert!(!holds);
                for pair in present.iter().flatten() {
                    assert_eq!(now.get(&*pair.key), Some(&plain(pair)));
                }
            }
            TxnResult::Committed { .. } => {
                assert!(holds);
                if after != now {
                    self.model.states.push(after);
                }
            }
        }
    }

    async fn range(&self, start: &str, end: Option<&str>, back: Option<u64>, limit: Option<usize>) {
        let revision = back.map_or(self.model.revision(), |back| {
            self.model.revision().saturating_sub(back)
        });
        let range = Range {
            start: start.into(),
            end: end.map(Into::into),
            revision: back.map(|_| Revision(revision)),
            limit,
        };
        let result = match self.store.range(range).await {
            Err(StoreError::Compacted { requested, oldest }) => {
                assert!(
                    requested.0 == revision && oldest.0 == self.model.floor && requested < oldest
                );
                return;
            }
            result => result.unwrap(),
        };
        assert!(revision >= self.model.floor || back.is_none());
        let within = |key: &[u8]| match end {
            None => key == start.as_bytes(),
            Some(end) => start.as_bytes() <= key && key < end.as_bytes(),
        };
        let mut expected = self.model.state(revision);
        expected.retain(|key, _| within(key));
        assert_eq!(
            (result.revision.0, result.count),
            (revision, expected.len())
        );
        let items: Vec<_> = result
            .items
            .iter()
            .map(|pair| (pair.key.to_vec(), plain(pair)))
            .collect();
        let expected = expected.into_iter().take(limit.unwrap_or(usize::MAX));
        assert_eq!(items, expected.collect::<Vec<_>>());
    }

    fn watch(&mut self, prefix: &'static str, back: u64) {
        let from = (self.model.revision() + 1).saturating_sub(back);
        match self.store.watch(prefix.into(), Revision(from)) {
            Ok(stream) => {
                assert!(from > self.model.floor);
                self.watches.push(OpenWatch {
                    stream,
                    prefix,
                    from,
                });
            }
            Err(StoreError::Compacted { oldest, .. }) => {
                assert!(from <= self.model.floor);
                assert_eq!(oldest.0, self.model.floor);
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Reads every watch up to the newest revision and compares all it ever said.
    async fn check_watches(&mut self) {
        let newest = self.model.revision();
        for OpenWatch {
            mut stream,
            prefix,
            from,
        } in std::mem::take(&mut self.watches)
        {
            let (mut received, mut reached) = (Vec::new(), 0);
            let deadline = Instant::now() + Duration::from_secs(240);
            while reached < newest {
                let next = tokio::time::timeout_at(deadline.into(), stream.next()).await;
                match next
                    .expect("the watch stalls")
                    .expect("the watch ended")
                    .unwrap()
                {
                    WatchEvents::Progress(revision) => {
                        assert!(revision.0 >= reached, "progress goes backwards");
                        reached = revision.0;
                    }
                    WatchEvents::Events(events) => {
                        assert!(events.iter().all(|event| event.revision.0 > reached));
                        reached = events[0].revision.0;
                        received.extend(events.into_iter().map(|event| {
                            let is = match &event.kind {
                                EventKind::Put(pair) => Some(plain(pair)),
                                EventKind::Delete => None,
                            };
                            let was = event.previous.as_ref().map(plain);
                            (event.revision.0, event.key.to_vec(), is, was)
                        }));
                    }
                }
            }
            received.sort();
            assert_eq!(received, self.model.changes(prefix, from));
        }
    }

    async fn reopen(&mut self) {
        self.check_watches().await;
        if !self.engine.close() {
            return;
        }
        self.store = self.engine.open().await;
        self.model.floor = match self.model.revision() {
            1 => 0,
            revision => revision,
        };
    }
}

/// The oldest readable revision of a store at its first opening. A new store has no history to compact.
fn first_floor(base: u64) -> u64 {
    if base == 0 { 0 } else { base + 1 }
}

/// Takes all steps with a store that has no keys, and checks each result.
pub async fn check(engine: impl Engine, steps: Vec<Step>) {
    let mut world = World::new(engine).await;
    for step in steps {
        world.take(step).await;
    }
    world.check_watches().await;
}
