//! The start of a store on its own files, foreign files, and torn or damaged files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mvcc_store::{
    LeaseId, Operation, Range, Revision, Store, StoreError, Txn, TxnResult, Value,
    embedded::{EmbeddedOptions, EmbeddedStore},
};

type Contents = BTreeMap<Vec<u8>, (Bytes, Revision)>;

fn open(dir: &Path) -> Result<Arc<EmbeddedStore>, StoreError> {
    EmbeddedStore::open(EmbeddedOptions::new(dir))
}

fn open_error(dir: &Path) -> StoreError {
    open(dir).err().expect("opening must fail")
}

async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>, lease: Option<LeaseId>) {
    let value = Value::Plain(value.into());
    let operation = Operation::Put {
        key: key.into(),
        value,
        lease,
    };
    let txn = Txn {
        compare: vec![],
        operations: vec![operation],
    };
    assert!(matches!(
        store.txn(txn).await.unwrap(),
        TxnResult::Committed { .. }
    ));
}

async fn contents(store: &dyn Store) -> Contents {
    let all = Range {
        start: vec![],
        end: Some(vec![0xff]),
        ..Range::default()
    };
    let pairs = store.range(all).await.unwrap().items.into_iter();
    pairs
        .map(|pair| (pair.key.to_vec(), (pair.value, pair.mod_revision)))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn files(dir: &Path, matches: &dyn Fn(&Path) -> bool, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), matches, paths);
        } else if matches(&entry.path()) {
            paths.push(entry.path());
        }
    }
}

fn only_journal(dir: &Path) -> PathBuf {
    let mut journals = Vec::new();
    files(
        dir,
        &|path| path.extension().is_some_and(|extension| extension == "jnl"),
        &mut journals,
    );
    assert_eq!(journals.len(), 1);
    journals.remove(0)
}

/// A store of `count` one-key transactions, with its journal's length after each.
async fn written(dir: &Path, count: usize) -> (Vec<Contents>, Vec<usize>) {
    drop(open(dir).unwrap());
    // Opening a second time drops the preallocated space, so that lengths are those of the data.
    let store = open(dir).unwrap();
    let journal = only_journal(dir);
    let (mut states, mut lengths) = (vec![contents(&*store).await], vec![0]);
    for number in 0..count {
        put(
            &*store,
            &format!("key-{}", number % 4),
            format!("value {number}"),
            None,
        )
        .await;
        states.push(contents(&*store).await);
        lengths.push(fs::metadata(&journal).unwrap().len() as usize);
    }
    drop(store);
    (states, lengths)
}

#[tokio::test]
async fn everything_survives_a_restart_and_revisions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    // Longer than a busy disk takes for three writes.
    let lease = store.lease_grant(Duration::from_secs(5)).await.unwrap();
    put(&*store, "a", "1", None).await;
    put(&*store, "b", "1", Some(lease)).await;
    put(&*store, "a", "2", None).await;
    let before = contents(&*store).await;
    drop(store);

    let store = open(dir.path()).unwrap();
    assert_eq!(store.current_revision(), Revision(4));
    assert_eq!(contents(&*store).await, before);
    // Earlier history is unknown, and the error says so.
    let old = Range {
        start: b"a".to_vec(),
        revision: Some(Revision(3)),
        ..Range::default()
    };
    assert!(matches!(
        store.range(old).await,
        Err(StoreError::Compacted { .. })
    ));
    assert!(matches!(
        store.watch(b"a".to_vec(), Revision(4)).err(),
        Some(StoreError::Compacted { .. })
    ));
    assert!(store.watch(b"a".to_vec(), Revision(5)).is_ok());
    // The lease still holds its key, still runs out, and its number is not given again.
    assert_ne!(
        store.lease_grant(Duration::from_secs(9)).await.unwrap(),
        lease
    );
    while contents(&*store).await.len() == 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.current_revision(), Revision(5));
    store.close();
    assert!(matches!(
        store.txn(Txn::default()).await,
        Err(StoreError::Closed)
    ));
    assert_eq!(open(dir.path()).unwrap().current_revision(), Revision(5));
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    assert!(matches!(open_error(dir.path()), StoreError::InUse(_)));
    store.close();
    open(dir.path()).unwrap();
}

/// A process that was killed may hold the lock a moment longer, through a child that has not yet
/// become another program.
#[test]
fn a_store_that_is_just_being_let_go_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let first = EmbeddedStore::open(EmbeddedOptions::new(dir.path())).unwrap();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        first.close();
        drop(first);
    });
    let second = EmbeddedStore::open(EmbeddedOptions::new(dir.path()));
    closing.join().unwrap();
    assert!(second.is_ok(), "{:?}", second.err());
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let stamp = dir.path().join("data/format");
    assert_eq!(fs::read_to_string(&stamp).unwrap(), "mainstay-store 1\n");
    fs::write(&stamp, "mainstay-store 2\n").unwrap();
    let error = open_error(dir.path());
    let StoreError::NewerFormat { stored, supported } = &error else {
        panic!("{error}")
    };
    assert_eq!((stored.as_str(), supported.as_str()), ("2", "1"));
    for broken in ["", "mainstay-store", "mainstay-store 0\n", "\u{0}\u{0}"] {
        fs::write(&stamp, broken).unwrap();
        assert!(
            matches!(open_error(dir.path()), StoreError::Damaged(_)),
            "{broken:?}"
        );
    }
    fs::remove_file(&stamp).unwrap();
    assert!(matches!(open_error(dir.path()), StoreError::Damaged(_)));
}

#[test]
fn an_interrupted_creation_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("data.partial/engine");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("0.jnl"), "not a journal").unwrap();
    drop(open(dir.path()).unwrap());
    assert!(!dir.path().join("data.partial").exists());
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_everything_before_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (states, lengths) = written(&dir.path().join("whole"), 6).await;
    let [start, end] = [lengths[5], lengths[6]];
    let cuts = (start..end).flat_map(|at| [(at, false), (at, true)]);
    for (number, (at, filled)) in cuts.enumerate() {
        let torn = dir.path().join(number.to_string());
        copy(&dir.path().join("whole"), &torn);
        // The note of the newest durable revision is from a clean end, which this is not.
        fs::remove_file(torn.join("data/durable")).unwrap();
        let journal = only_journal(&torn);
        let mut bytes = fs::read(&journal).unwrap();
        // Power loss leaves a file that is short, or of full length with blocks never written.
        bytes.truncate(at);
        bytes.resize(if filled { end + 9000 } else { at }, 0);
        fs::write(&journal, bytes).unwrap();
        let store = open(&torn).unwrap();
        assert_eq!(
            contents(&*store).await,
            states[5],
            "cut at {at}, filled: {filled}"
        );
        assert_eq!(store.current_revision(), Revision(6));
        put(&*store, "after", "1", None).await;
        drop(store);
        assert_eq!(
            contents(&*open(&torn).unwrap()).await.len(),
            states[5].len() + 1
        );
        fs::remove_dir_all(torn).unwrap();
    }
}

#[tokio::test]
async fn blocks_of_the_last_batch_that_never_reached_the_disk_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (states, lengths) = written(dir.path(), 6).await;
    fs::remove_file(dir.path().join("data/durable")).unwrap();
    let journal = only_journal(dir.path());
    let mut bytes = fs::read(&journal).unwrap();
    // The end of the batch is there and its middle is not: the checksum fails.
    bytes[lengths[5] + 40..lengths[5] + 60].fill(0);
    fs::write(&journal, bytes).unwrap();
    assert_eq!(contents(&*open(dir.path()).unwrap()).await, states[5]);
}

#[tokio::test]
async fn a_flipped_bit_never_loses_an_acknowledged_write_silently() {
    let dir = tempfile::tempdir().unwrap();
    let (states, lengths) = written(&dir.path().join("whole"), 6).await;
    let sound = fs::read(only_journal(&dir.path().join("whole"))).unwrap();
    let hurt = dir.path().join("hurt");
    copy(&dir.path().join("whole"), &hurt);
    let journal = only_journal(&hurt);
    let note = hurt.join("data/durable");
    let noted = fs::read(&note).unwrap();
    let mut refused = 0;
    // Damage to the last batch looks like a torn tail; only the recorded revision shows it.
    for (range, note_is_there) in [(0..lengths[5], false), (lengths[5]..lengths[6], true)] {
        for at in range {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&journal, bytes).unwrap();
            match note_is_there {
                true => fs::write(&note, &noted).unwrap(),
                false => drop(fs::remove_file(&note)),
            }
            match open(&hurt) {
                Err(StoreError::Damaged(_)) => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
                // The number of a batch has no checksum; while the order holds, it is harmless.
                Ok(store) => assert_eq!(contents(&*store).await, states[6], "byte {at}"),
            }
        }
    }
    assert!(
        refused > lengths[6] * 4 / 5,
        "{refused} of {} refused",
        lengths[6]
    );
}

/// findings R20: an acknowledged revision is recorded at once, so that damage to it is not taken
/// for a torn write, and its revision is not used again.
#[tokio::test]
async fn damage_to_the_newest_acknowledged_write_of_a_killed_process_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let store = open(&live).unwrap();
    for number in 0..3 {
        put(&*store, "key", format!("value {number}"), None).await;
    }
    // As a process leaves it that is killed.
    copy(&live, &killed);
    let journal = only_journal(&killed);
    let sound = fs::read(&journal).unwrap();
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for back in [1, 20, 40, 60] {
        let mut bytes = sound.clone();
        bytes[end - back] ^= 4;
        fs::write(&journal, &bytes).unwrap();
        let error = open_error(&killed);
        assert!(matches!(error, StoreError::Damaged(_)), "{back}: {error}");
        assert!(error.to_string().contains("up to revision 4"), "{error}");
        assert_eq!(fs::read(&journal).unwrap(), bytes, "nothing was cut off");
    }
    fs::write(&journal, &sound).unwrap();
    assert_eq!(open(&killed).unwrap().current_revision(), Revision(4));
}

#[tokio::test]
async fn a_journal_that_is_gone_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 6).await;
    fs::remove_file(only_journal(dir.path())).unwrap();
    let error = open_error(dir.path());
    assert!(error.to_string().contains("files are missing"), "{error}");
}

/// Enough data for flushed tables and a second journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_stores_survive_and_damaged_tables_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let store = open(&whole).unwrap();
    let value = |number: u32| Bytes::from(number.to_le_bytes().repeat(16 * 1024));
    for group in 0..40 {
        let puts = (0..32).map(|member| {
            let number = group * 32 + member;
            let key = format!("key-{:04}", number % 700);
            let store = Arc::clone(&store);
            async move { put(&*store, &key, value(number), None).await }
        });
        futures::future::join_all(puts).await;
    }
    let before = contents(&*store).await;
    assert_eq!(before.len(), 700);
    drop(store);
    assert!(
        contents(&*open(&whole).unwrap()).await == before,
        "contents differ"
    );

    let is_table = |path: &Path| path.to_string_lossy().contains("keyspaces/1/tables/");
    let mut tables = Vec::new();
    files(&whole, &is_table, &mut tables);
    assert!(!tables.is_empty(), "nothing was flushed");
    let table = tables.remove(tables.len() / 2);
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).unwrap();
    assert!(matches!(open_error(&whole), StoreError::Damaged(_)));
}
