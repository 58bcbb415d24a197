//! Kills a writing process at random, hundreds of times, and looks at what it left behind.
//!
//! The test runs itself as the writer: several tasks that each commit numbered transactions and
//! report every acknowledgement on a pipe. After each kill the store must hold everything that was
//! acknowledged, each transaction completely or not at all, and a revision that never went back.
//! (Power loss is tested in `recovery.rs`, which tears the files.) Then the writer runs once more
//! with a limit on file sizes, as on a full disk: it must get an error, and no acknowledged write
//! may be missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use mvcc_store::{
    Compare, KeyValue, Operation, Range, Revision, Store, StoreError, Txn, TxnResult, Value,
    embedded::{EmbeddedOptions, EmbeddedStore},
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DIR_VARIABLE: &str = "CRASH_TEST_DIR";
/// The writer's last line when the store refuses writes.
const FULL: &str = "full";
const KILLS: u64 = 300;
/// A fresh directory after so many kills, so that opening stays quick and creation is hit too.
const KILLS_PER_DIR: u64 = 10;
const TASKS: u64 = 8;
/// Each task keeps the pairs of its newest transactions and deletes older ones.
const RETAINED: u64 = 5;

fn main() {
    match std::env::var_os(DIR_VARIABLE) {
        Some(dir) => write_until_killed(Path::new(&dir)),
        None => {
            kill_many_times();
            fill_the_disk();
        }
    }
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(EmbeddedOptions::new(dir)).expect("the store opens after a kill")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

// The writer.

fn write_until_killed(dir: &Path) {
    let store = open(dir);
    runtime().block_on(async {
        let tasks = (0..TASKS).map(|task| tokio::spawn(write(Arc::clone(&store), task)));
        for failure in futures::future::join_all(tasks).await {
            assert!(matches!(failure.unwrap(), StoreError::Io(_)));
        }
    });
    println!("{FULL}");
}

/// Writes until the store refuses.
async fn write(store: Arc<EmbeddedStore>, task: u64) -> StoreError {
    let counter = counter_key(task);
    let range = Range {
        start: counter.clone().into_bytes(),
        ..Range::default()
    };
    let mut present = store.range(range).await.unwrap().items.pop();
    let mut number = present.as_ref().map_or(0, number_in);
    loop {
        number += 1;
        let compare = match &present {
            None => Compare::Absent(counter.clone().into()),
            Some(pair) => Compare::ModRevision(counter.clone().into(), pair.mod_revision),
        };
        let mut operations = vec![
            put(&counter, number, 16),
            put(&pair_key(task, number, "a"), number, 100),
            // Across several pages and write calls.
            put(&pair_key(task, number, "b"), number, number * 7919 % 9000),
        ];
        if let Some(old) = number.checked_sub(RETAINED) {
            for half in ["a", "b"] {
                operations.push(Operation::Delete {
                    key: pair_key(task, old, half).into(),
                });
            }
        }
        let txn = Txn {
            compare: vec![compare],
            operations,
        };
        let (revision, results) = match store.txn(txn).await {
            Ok(TxnResult::Committed { revision, results }) => (revision, results),
            Ok(TxnResult::Refused { .. }) => panic!("nobody else writes {counter}"),
            Err(error) => return error,
        };
        // One write call: it is in the pipe whole or not at all.
        let line = format!("{task} {number} {}\n", revision.0);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        present = results.into_iter().find_map(|result| match result {
            mvcc_store::OperationResult::Put(pair) => Some(pair),
            mvcc_store::OperationResult::Delete(_) => None,
        });
    }
}

fn counter_key(task: u64) -> String {
    format!("counter/{task}")
}

fn pair_key(task: u64, number: u64, half: &str) -> String {
    format!("pair/{task}/{number}/{half}")
}

/// The number in decimal, padded to a length that depends on it alone.
fn content(number: u64, len: u64) -> Bytes {
    let mut content = number.to_string().into_bytes();
    content.resize(content.len() + len as usize, b' ');
    content.into()
}

fn put(key: &str, number: u64, len: u64) -> Operation {
    let value = Value::Plain(content(number, len));
    Operation::Put {
        key: key.into(),
        value,
        lease: None,
    }
}

fn number_in(pair: &KeyValue) -> u64 {
    std::str::from_utf8(&pair.value)
        .unwrap()
        .trim_end()
        .parse()
        .unwrap()
}

// The killer.

/// A task's newest acknowledgement: number and revision.
type Acknowledged = BTreeMap<u64, (u64, u64)>;

fn kill_many_times() {
    let started = Instant::now();
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    // Small differences in time are the only randomness that matters here.
    let mut random = StdRng::seed_from_u64(seed);
    let mut acknowledged_total = 0;
    let mut in_doubt_total = 0;
    for _ in 0..KILLS / KILLS_PER_DIR {
        let dir = tempfile::tempdir().unwrap();
        let mut newest = Acknowledged::new();
        let mut revision = Revision(1);
        for _ in 0..KILLS_PER_DIR {
            let lifetime = Duration::from_micros(1_000 + random.random_range(0..70_000));
            acknowledged_total += kill_after(lifetime, dir.path(), &mut newest);
            let store = open(dir.path());
            in_doubt_total += check(&store, &mut newest, revision);
            revision = store.current_revision();
        }
    }
    println!(
        "{KILLS} kills, {acknowledged_total} transactions acknowledged, {in_doubt_total} found \
         that were on disk but not yet acknowledged, in {:.1?}",
        started.elapsed()
    );
    // No bound on speed: a busy machine is slow, and most kills must still find a writer at work.
    assert!(acknowledged_total > KILLS, "the writer hardly ever wrote");
}

/// Runs the writer for a while, kills it, and reads its acknowledgements.
fn kill_after(lifetime: Duration, dir: &Path, newest: &mut Acknowledged) -> u64 {
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = BufReader::new(child.stdout.take().unwrap());
    let reader = thread::spawn(move || pipe.lines().map_while(Result::ok).collect::<Vec<_>>());
    thread::sleep(lifetime);
    assert!(
        child.try_wait().unwrap().is_none(),
        "the writer ended by itself"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let lines = reader.join().unwrap();
    note(&lines, newest);
    lines.len() as u64
}

fn note(lines: &[String], newest: &mut Acknowledged) {
    for line in lines {
        let numbers: Vec<u64> = line
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        let [task, number, revision] = numbers[..] else {
            panic!("torn line {line:?}")
        };
        newest.insert(task, (number, revision));
    }
}

/// Runs the writer with a file size limit of one megabyte; the signal SIGXFSZ is ignored, so that
/// writes fail as on a full disk.
fn fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    // The second opening drops the space that the first one reserved.
    open(dir.path()).close();
    open(dir.path()).close();
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$0\"";
    let output = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(DIR_VARIABLE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the writer failed: {errors}");
    assert_eq!(
        lines.pop().as_deref(),
        Some(FULL),
        "the writer was not told: {errors}"
    );
    let mut newest = Acknowledged::new();
    note(&lines, &mut newest);
    let store = open(dir.path());
    let in_doubt = check(&store, &mut newest, Revision(1));
    println!(
        "full disk: {} acknowledged, {in_doubt} in doubt",
        lines.len()
    );
    assert!(lines.len() > 50);
}

/// Compares the store with the acknowledgements; returns the number of further transactions.
fn check(store: &EmbeddedStore, newest: &mut Acknowledged, before: Revision) -> u64 {
    let all = Range {
        start: vec![],
        end: Some(vec![0xff]),
        ..Range::default()
    };
    let result = runtime().block_on(store.range(all)).unwrap();
    let highest = newest
        .values()
        .map(|(_, revision)| *revision)
        .max()
        .unwrap_or(1);
    assert!(
        result.revision >= before.max(Revision(highest)),
        "the revision went back"
    );
    let result: BTreeMap<String, KeyValue> = result
        .items
        .into_iter()
        .map(|pair| (String::from_utf8(pair.key.to_vec()).unwrap(), pair))
        .collect();
    let mut expected = BTreeSet::new();
    let mut in_doubt = 0;
    for task in 0..TASKS {
        let (acknowledged, revision) = newest.get(&task).copied().unwrap_or((0, 0));
        let Some(counter) = result.get(&counter_key(task)) else {
            assert_eq!(acknowledged, 0, "task {task} lost everything");
            continue;
        };
        let number = number_in(counter);
        // One transaction may have been on its way when the process died.
        let beyond = number
            .checked_sub(acknowledged)
            .expect("acknowledged writes are lost");
        assert!(
            beyond <= 1,
            "task {task} has {number}, was told {acknowledged}"
        );
        assert!(beyond == 1 || counter.mod_revision.0 == revision);
        expected.insert(counter_key(task));
        for stored_number in (number + 1).saturating_sub(RETAINED).max(1)..=number {
            for (half, len) in [("a", 100), ("b", stored_number * 7919 % 9000)] {
                let key = pair_key(task, stored_number, half);
                let pair = result
                    .get(&key)
                    .unwrap_or_else(|| panic!("{key} is missing"));
                assert_eq!(pair.value, content(stored_number, len), "{key}");
                if stored_number == number {
                    assert_eq!(
                        pair.mod_revision, counter.mod_revision,
                        "{key}: half applied"
                    );
                }
                expected.insert(key);
            }
        }
        newest.insert(task, (number, counter.mod_revision.0));
        in_doubt += beyond;
    }
    let extra: Vec<_> = result
        .keys()
        .filter(|key| !expected.contains(*key))
        .collect();
    assert!(extra.is_empty(), "deleted keys are back: {extra:?}");
    in_doubt
}
