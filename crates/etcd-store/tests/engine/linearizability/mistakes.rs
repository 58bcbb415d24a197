//! Mistakes on purpose, in the answers of real servers: the checks find each of them, and nothing without one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mvcc_store::Store as _;

use super::{ALL, Clients, Reads, Server, Watcher, perform};
use crate::{
    changes::WatchEntry,
    etcd::Cluster,
    history::{self, History, Op, Random, Ret},
    suite::{commit, put},
    watched,
};

/// An injected mistake: servers answer reads from their copies, and the link of one is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_from_its_copy_is_found() {
    let cluster = Cluster::start(1, None);
    let ahead = Server::start(&cluster, 0, 0).await;
    let behind = Server::start(&cluster, 0, 0).await;
    behind.relay.close(true);
    for (reads, is_found) in [(Reads::OfTheMirror, true), (Reads::Fresh, false)] {
        let prefix = format!("{ALL}{reads:?}/");
        let history = History::default();
        for (server, op) in [
            (&ahead, Op::Create(0, 1)),
            (&ahead, Op::Get(0)),
            (&behind, Op::Get(0)),
            (&behind, Op::List),
        ] {
            history.called(0, op);
            let store = server.store();
            let response = perform(&store, &prefix, op, reads);
            // A read without an answer says nothing wrong.
            let response = tokio::time::timeout(Duration::from_secs(2), response).await;
            history.answered(0, response.unwrap_or(None).unwrap_or(Ret::Nothing));
        }
        let result = history.check();
        assert_eq!(result.is_err(), is_found, "{reads:?}: {result:?}");
    }
}

/// A server acknowledges a write that it does not send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_that_is_lost_is_found() {
    let cluster = Cluster::start(1, None);
    let server = Server::start(&cluster, 0, 0).await;
    let store = server.store();
    let writes = 3;
    for lost in 0..=writes {
        let prefix = format!("{ALL}lost-{lost}/");
        let (history, mut revision) = (History::default(), 0);
        for number in 0..writes {
            let write = match number {
                0 => Op::Create(0, 1),
                1 => Op::Update(0, 2, revision),
                _ => Op::Delete(0, revision),
            };
            for op in [write, Op::Get(0), Op::List] {
                history.called(0, op);
                let response = match number == lost && op == write {
                    true => Ret::Done(Some(store.current_revision().0 + 1)),
                    false => perform(&store, &prefix, op, Reads::Fresh).await.unwrap(),
                };
                if let Ret::Done(Some(at)) = response {
                    revision = at;
                }
                history.answered(0, response);
            }
        }
        let result = history.check();
        assert_eq!(result.is_err(), lost < writes, "{lost}: {result:?}");
    }
}

/// A watch loses, repeats, reorders or changes an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_a_watch_is_found() {
    let mut random = Random(history::seed());
    let cluster = Cluster::start(super::SERVERS, None);
    let clients = Clients::of(&cluster, Reads::Fresh).await;
    let end = Arc::new(AtomicU64::new(u64::MAX));
    let watcher = Watcher {
        clients: Arc::clone(&clients),
        random: random.part(),
        end: Arc::clone(&end),
        seen: Vec::new(),
        at: Some(1),
        moves: 0,
    };
    let watcher = tokio::spawn(watcher.follow());
    for number in 0..5 {
        let prefix = format!("{ALL}{number}/");
        let history = clients.round(&prefix, &mut random).await;
        history.check().unwrap();
        clients.remove(&prefix, &mut random).await;
    }
    let store = clients.servers[0].store();
    let last = commit(&*store, vec![put(&format!("{ALL}last"), "x")]).await;
    end.store(last.0, Ordering::SeqCst);
    // A watch that has seen the last revision already looks at the end again.
    let after = commit(&*store, vec![put(&format!("{ALL}after"), "x")]).await;
    let (observed, _) = watcher.await.unwrap();
    let truth = watched::read(&cluster, after.0).await;
    truth.check(&observed, last.0).unwrap();
    let places =
        (0..observed.len()).filter(|index| matches!(observed[*index], WatchEntry::Changed(..)));
    let places: Vec<usize> = places.collect();
    assert!(places.len() > 5, "{observed:?}");
    for pair in places.windows(2) {
        let [index, next] = [pair[0], pair[1]];
        let mut lost = observed.clone();
        lost.remove(index);
        let mut repeated = observed.clone();
        repeated.insert(next, observed[index].clone());
        let mut reordered = observed.clone();
        reordered.swap(index, next);
        let mut changed = observed.clone();
        if let WatchEntry::Changed(_, changes) = &mut changed[index] {
            changes.pop_first();
        }
        for wrong in [lost, repeated, reordered, changed] {
            assert!(truth.check(&wrong, last.0).is_err(), "{index}: {wrong:?}");
        }
    }
}
