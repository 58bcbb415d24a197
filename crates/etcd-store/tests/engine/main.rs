//! The engine over real etcd servers: the rules of every engine, random use beside the model, and
//! faults.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod changes;
mod copying;
mod etcd;
mod faults;
mod history;
#[path = "../../../mvcc-store/tests/conformance/leases.rs"]
mod leases;
mod linearizability;
mod own_keys;
mod room;
mod servers;
mod specification;
#[path = "../../../mvcc-store/tests/conformance/suite.rs"]
mod suite;
mod watched;
#[path = "../../../mvcc-store/tests/conformance/watches.rs"]
mod watches;
#[path = "../../../mvcc-store/tests/against_model/world.rs"]
mod world;

use std::sync::Arc;

use etcd::{Cluster, limits};
use etcd_store::EtcdOptions;
use futures::{FutureExt as _, future::BoxFuture};
use mvcc_store::Store;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use world::{Engine, Step, step};

/// The numbers of members: with three, what a member has is mostly told to the others first.
const MEMBERS: [usize; 2] = [1, 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_of_every_engine_hold() {
    for members in MEMBERS {
        suite::run(|| async move {
            let cluster = Cluster::start(members, None);
            // One that follows, as often as not.
            let store: Arc<dyn Store> = cluster.store(members - 1).await;
            (store, cluster)
        })
        .await;
    }
}

/// A prefix in an etcd that has others, too.
struct Prefixed {
    options: EtcdOptions,
}

impl Engine for Prefixed {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>> {
        async { etcd::connect(&self.options).await as Arc<dyn Store> }.boxed()
    }

    fn close(&mut self) -> bool {
        true
    }
}

#[test]
fn it_does_what_the_model_does() {
    MEMBERS.into_iter().for_each(does_what_the_model_does);
}

fn does_what_the_model_does(members: usize) {
    let cluster = Cluster::start(members, None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut number = 0;
    let mut check = |steps: Vec<Step>| {
        number += 1;
        let options = EtcdOptions {
            prefix: format!("/store{number}"),
            limits: limits(),
            ..EtcdOptions::new(cluster.urls_from(0))
        };
        runtime.block_on(world::check(Prefixed { options }, steps));
    };
    let mut runner = TestRunner::new(Config {
        cases: 60 / u32::try_from(members).unwrap(),
        ..Config::default()
    });
    // Several prefixes in one etcd: shrinking opens more of them.
    let check = std::cell::RefCell::new(&mut check);
    runner
        .run(&prop::collection::vec(step(), 1..40), |steps| {
            (check.borrow_mut())(steps);
            Ok(())
        })
        .unwrap();
}
