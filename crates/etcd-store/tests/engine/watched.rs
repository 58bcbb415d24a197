//! The changes that etcd itself has, for the check of watches.

use std::collections::BTreeMap;

use crate::{
    changes::{Pairs, Truth, WatchEntry},
    etcd::Cluster,
    own_keys::Raw,
};

/// The states of the keys at all revisions up to one, as etcd itself has them.
pub async fn read(cluster: &Cluster, end: u64) -> Truth {
    let raw = Raw::connect(cluster).await;
    let mut truth = Truth::default();
    for revision in 1..=end {
        let pairs = raw.pairs_at("/mainstay/data/rounds/", revision).await;
        let pairs = pairs.into_iter().map(|(key, stored, mod_revision)| {
            let key = key.trim_start_matches("/mainstay/data/").to_owned();
            (key, value_of(&stored, mod_revision))
        });
        truth.0.insert(revision, pairs.collect());
    }
    truth
}

/// A value in its stored form: a letter, and for a stamped one a length below 128 before its first part.
fn value_of(stored: &[u8], revision: u64) -> String {
    match stored {
        [b's', length, rest @ ..] => {
            let (before, after) = rest.split_at(usize::from(*length));
            format!("{}{revision}{}", utf8(before), utf8(after))
        }
        [b'p', rest @ ..] => utf8(rest),
        other => panic!("{other:?}"),
    }
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn truth() -> Truth {
    let state = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<Pairs>()
    };
    Truth(BTreeMap::from([
        (1, state(&[])),
        (2, state(&[("a", "1")])),
        (3, state(&[("a", "1")])),
        (4, state(&[("a", "2"), ("b", "1")])),
        (5, state(&[("b", "1")])),
        (6, state(&[("a", "3"), ("b", "1")])),
    ]))
}

#[test]
fn a_lost_a_repeated_and_a_reordered_change_are_found() {
    let truth = truth();
    let changes = truth.changes();
    let changed = |revision: u64| WatchEntry::Changed(revision, changes[&revision].clone());
    let listed = |revision: u64| WatchEntry::Listed(revision, truth.0[&revision].clone());
    let right = [
        vec![changed(2), changed(4), changed(5), changed(6)],
        vec![
            listed(3),
            changed(4),
            WatchEntry::Progress(4),
            changed(5),
            changed(6),
        ],
        vec![
            changed(2),
            WatchEntry::Progress(3),
            listed(5),
            changed(6),
            WatchEntry::Progress(9),
        ],
    ];
    for observed in right {
        truth.check(&observed, 6).unwrap();
    }
    let stale = WatchEntry::Listed(6, truth.0[&5].clone());
    let mut half = changes[&4].clone();
    half.remove("b");
    let wrong = [
        // Lost: in the middle, at the end, of a revision with two, before a mark, behind a list.
        vec![changed(2), changed(5), changed(6)],
        vec![changed(2), changed(4), changed(5)],
        vec![
            changed(2),
            WatchEntry::Changed(4, half),
            changed(5),
            changed(6),
        ],
        vec![changed(2), WatchEntry::Progress(4), changed(5), changed(6)],
        vec![stale],
        // Repeated, also after a move to another server.
        vec![changed(2), changed(2), changed(4), changed(5), changed(6)],
        vec![listed(4), changed(4), changed(5), changed(6)],
        // Reordered, and back in time.
        vec![changed(2), changed(5), changed(4), changed(6)],
        vec![
            changed(2),
            changed(4),
            listed(3),
            changed(4),
            changed(5),
            changed(6),
        ],
        // Another value, and a change that never was.
        vec![
            changed(2),
            changed(4),
            changed(5),
            WatchEntry::Changed(6, changes[&2].clone()),
        ],
        vec![
            changed(2),
            WatchEntry::Changed(3, changes[&2].clone()),
            changed(4),
        ],
    ];
    for observed in wrong {
        assert!(truth.check(&observed, 6).is_err(), "{observed:?}");
    }
}
