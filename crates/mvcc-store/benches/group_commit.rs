//! Durable creates per second, and how many of them share one sync of the disk.
//!
//! `cargo bench -p mvcc-store --bench group_commit [-- DIRECTORY]`. Measures in one run, round
//! after round, what the bare disk does (append 2 KB, fdatasync) and what the store does (create
//! of a 2 KB value, acknowledged after the sync) with 1, 16 and 64 clients in a closed loop, in
//! the same directory. Prints medians.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mvcc_store::{
    Compare, Omittable, Operation, Store, Txn, TxnResult, Value,
    embedded::{EmbeddedOptions, EmbeddedStore},
};

const CLIENTS: [u64; 3] = [1, 16, 64];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const VALUE_BYTES: usize = 2048;

fn main() {
    // Cargo passes --bench.
    let parent = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let parent = parent.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    std::fs::create_dir_all(&parent).expect("make the directory");
    let dir = tempfile::tempdir_in(&parent).expect("make a temporary directory");
    let mut syncs = Vec::new();
    let mut creates = [(); CLIENTS.len()].map(|()| Vec::new());
    let mut latencies = [(); CLIENTS.len()].map(|()| Vec::new());
    let mut shares = [(); CLIENTS.len()].map(|()| Vec::new());
    for round in 0..ROUNDS {
        syncs.push(bare_disk(dir.path()));
        for (index, clients) in CLIENTS.into_iter().enumerate() {
            let store_dir = dir.path().join(format!("{round}-{clients}"));
            let (rate, share, mut times) = store(&store_dir, clients);
            creates[index].push(rate);
            shares[index].push(share);
            latencies[index].append(&mut times);
            std::fs::remove_dir_all(store_dir).expect("remove the store");
        }
    }
    let syncs = median(&mut syncs);
    println!("medians of {ROUNDS} rounds of {ROUND:?}, {VALUE_BYTES} byte values");
    println!("bare disk: {syncs:.0} appends with fdatasync per second, one at a time");
    for (index, clients) in CLIENTS.into_iter().enumerate() {
        let rate = median(&mut creates[index]);
        let times = &mut latencies[index];
        times.sort();
        println!(
            "{clients:>3} clients: {rate:>6.0} durable creates per second, {:>5.1} per sync that \
             the store did, {:>5.1} per sync of the bare disk, p50 {:.2?}, p99 {:.2?}",
            median(&mut shares[index]),
            rate / syncs,
            times[times.len() / 2],
            times[times.len() * 99 / 100],
        );
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bare_disk(dir: &Path) -> f64 {
    let path = dir.join("bare");
    let mut file = File::create(&path).expect("create a file");
    let block = [7; VALUE_BYTES];
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < ROUND {
        file.write_all(&block).expect("append");
        file.sync_data().expect("sync");
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(path).expect("remove the file");
    rate
}

/// Creates per second, creates per sync, and how long each took.
fn store(dir: &Path, clients: u64) -> (f64, f64, Vec<Duration>) {
    let store = EmbeddedStore::open(EmbeddedOptions::new(dir)).expect("open the store");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("start the runtime");
    let started = Instant::now();
    let times = runtime.block_on(async {
        let clients = (0..clients).map(|client| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while started.elapsed() < ROUND {
                    let begun = Instant::now();
                    create(&*store, client, times.len()).await;
                    times.push(begun.elapsed());
                }
                times
            })
        });
        let times = futures::future::join_all(clients).await;
        times
            .into_iter()
            .flat_map(|times| times.expect("the client ran"))
            .collect::<Vec<_>>()
    });
    let count = times.len() as f64;
    let share = count / store.syncs_total() as f64;
    (count / started.elapsed().as_secs_f64(), share, times)
}

async fn create(store: &dyn Store, client: u64, number: usize) {
    let key = format!("/registry/configmaps/namespace-{client}/object-{number}").into_bytes();
    let value = Value::Stamped {
        before: Bytes::from_static(&[b'x'; VALUE_BYTES / 2]),
        after: Bytes::from_static(&[b'y'; VALUE_BYTES / 2]),
        omittable: Omittable::UNKNOWN,
    };
    let txn = Txn {
        compare: vec![Compare::Absent(key.clone())],
        operations: vec![Operation::Put {
            key,
            value,
            lease: None,
        }],
    };
    let result = store.txn(txn).await.expect("the create is durable");
    assert!(matches!(result, TxnResult::Committed { .. }));
}
