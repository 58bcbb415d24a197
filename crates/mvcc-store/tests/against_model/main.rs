//! Random use of the embedded engine, compared with a model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use mvcc_store::{
    Store,
    embedded::{EmbeddedOptions, EmbeddedStore, Limits},
};
use proptest::prelude::*;
use world::{Engine, Step, step};

/// The embedded engine, in a directory or in memory only.
struct Embedded {
    dir: Option<tempfile::TempDir>,
    open: Option<Arc<EmbeddedStore>>,
}

impl Engine for Embedded {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>> {
        let limits = Limits {
            progress_interval: Duration::from_millis(1),
            ..Limits::default()
        };
        let store = match &self.dir {
            None => EmbeddedStore::in_memory_with(&limits),
            Some(dir) => EmbeddedStore::open(EmbeddedOptions {
                limits,
                ..EmbeddedOptions::new(dir.path())
            })
            .unwrap(),
        };
        self.open = Some(Arc::clone(&store));
        ready(store as Arc<dyn Store>).boxed()
    }

    fn close(&mut self) -> bool {
        match self.open.take_if(|_| self.dir.is_some()) {
            Some(store) => store.close(),
            None => return false,
        }
        true
    }
}

fn check(dir: Option<tempfile::TempDir>, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(world::check(Embedded { dir, open: None }, steps));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn in_memory_it_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        check(None, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn on_disk_it_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        check(Some(tempfile::tempdir().unwrap()), steps);
    }
}
