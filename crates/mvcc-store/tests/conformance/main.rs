//! The rules of [`mvcc_store::Store`], checked against each engine.
//!
//! `suite` does not depend on an engine: a new engine adds one test here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leases;
mod suite;
mod watches;

use std::{future::ready, sync::Arc, time::Duration};

use mvcc_store::{
    Store,
    embedded::{EmbeddedOptions, EmbeddedStore, Limits},
};

/// Short enough that tests need not wait long for progress marks.
fn limits() -> Limits {
    Limits {
        progress_interval: Duration::from_millis(20),
        watcher_commits_max: suite::WATCHER_COMMITS_MAX,
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_in_memory() {
    suite::run(|| {
        let store: Arc<dyn Store> = EmbeddedStore::in_memory_with(&limits());
        ready((store, ()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_on_disk() {
    let root = tempfile::tempdir().unwrap();
    let mut next = 0;
    suite::run(|| {
        next += 1;
        let dir = root.path().join(next.to_string());
        let options = EmbeddedOptions {
            limits: limits(),
            ..EmbeddedOptions::new(dir)
        };
        let store: Arc<dyn Store> = EmbeddedStore::open(options).unwrap();
        ready((store, ()))
    })
    .await;
}
