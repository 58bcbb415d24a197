use std::collections::BTreeSet;

use resource_kinds::storage::volume_replication::{Stage, VolumeReplication};

use super::{
    Answers, Call, Copied, Holdings, Observed, Role, Step, Users, condition_message, plan,
};
use crate::volume_move::Presence;

fn record() -> VolumeReplication {
    VolumeReplication {
        replica: Some("two".to_owned()),
        last: Some(50_000),
        ..VolumeReplication::new("one", 10)
    }
}

fn observed<'a>(record: &'a VolumeReplication, answers: &'a Answers) -> Observed<'a> {
    Observed {
        record,
        primary: Presence::Ready,
        is_proven_dead: false,
        users: Users {
            on_primary: true,
            waiting: false,
        },
        replica: Presence::Ready,
        candidate: Some("three"),
        is_released: false,
        now: 61_000,
        answers,
    }
}

fn holdings(sent: &[i64], copies: &[i64]) -> Holdings {
    Holdings {
        epoch: 1,
        has_volume: copies.is_empty(),
        path: "/p".to_owned(),
        sent: sent.iter().copied().collect(),
        copies: copies.iter().copied().collect(),
        diverged: BTreeSet::new(),
    }
}

// DESIGN §16
#[test]
fn the_difference_to_the_last_copy_is_sent_when_the_interval_is_over() {
    let record = record();
    let mut answers = Answers::default();
    let mut seen = observed(&record, &answers);
    seen.now = 55_000;
    assert_eq!(plan(&seen), Step::Rest(5_000));
    seen.now = 61_000;
    assert_eq!(plan(&seen), Step::Call(Call::Inspect(Role::Replica)));
    answers.replica = Some(holdings(&[], &[40_000, 50_000]));
    answers.primary = Some(holdings(&[50_000], &[]));
    let kept = BTreeSet::from([50_000]);
    let keep = Call::Keep(Role::Replica, kept);
    assert_eq!(plan(&observed(&record, &answers)), Step::Call(keep));
    answers.kept.insert(Role::Replica);
    let copy = Call::Copy {
        time: 61_000,
        base: Some(50_000),
    };
    assert_eq!(plan(&observed(&record, &answers)), Step::Call(copy));
    answers.copied = Some(Copied::Complete(61_000));
    let Step::Write(next) = plan(&observed(&record, &answers)) else {
        panic!("no write");
    };
    assert_eq!(next.last, Some(61_000));
}

#[test]
fn a_copy_is_whole_where_the_nodes_have_none_in_common() {
    let record = VolumeReplication {
        last: None,
        ..record()
    };
    let answers = Answers {
        primary: Some(holdings(&[50_000], &[])),
        replica: Some(Holdings {
            epoch: 1,
            ..Holdings::default()
        }),
        kept: BTreeSet::from([Role::Primary]),
        ..Answers::default()
    };
    let copy = Call::Copy {
        time: 61_000,
        base: None,
    };
    assert_eq!(plan(&observed(&record, &answers)), Step::Call(copy));
}

#[test]
fn a_node_is_chosen_where_there_is_none() {
    let answers = Answers::default();
    let without = VolumeReplication {
        replica: None,
        last: None,
        ..record()
    };
    let Step::Write(next) = plan(&observed(&without, &answers)) else {
        panic!("no write");
    };
    assert_eq!(next.replica.as_deref(), Some("three"));
    let mut seen = observed(&without, &answers);
    seen.candidate = None;
    assert!(matches!(plan(&seen), Step::Wait(_)));
    // A node that was deleted is replaced, and its copies do not count.
    let record = record();
    let mut seen = observed(&record, &answers);
    seen.replica = Presence::Gone;
    let Step::Write(next) = plan(&seen) else {
        panic!("no write");
    };
    assert_eq!((next.replica.as_deref(), next.last), (Some("three"), None));
}

#[test]
fn a_replica_is_promoted_only_with_a_proof_and_for_a_pod_that_waits() {
    let record = record();
    let answers = Answers::default();
    let lost = |change: &dyn Fn(&mut Observed<'_>)| {
        let mut seen = observed(&record, &answers);
        seen.primary = Presence::Silent;
        seen.is_proven_dead = true;
        seen.users = Users {
            on_primary: false,
            waiting: true,
        };
        change(&mut seen);
        matches!(plan(&seen), Step::Write(next) if next.stage == Stage::Promoting && next.epoch == 2)
    };
    assert!(lost(&|_| {}));
    assert!(!lost(&|seen| seen.is_proven_dead = false));
    assert!(!lost(&|seen| seen.users.on_primary = true));
    assert!(!lost(&|seen| seen.users.waiting = false));
    assert!(!lost(&|seen| seen.replica = Presence::Silent));
    assert!(!lost(&|seen| seen.is_released = true));
}

#[test]
fn the_volume_follows_the_newest_complete_copy() {
    let promoting = VolumeReplication {
        epoch: 2,
        stage: Stage::Promoting,
        ..record()
    };
    let mut answers = Answers::default();
    let dead = |answers: &Answers| {
        let mut seen = observed(&promoting, answers);
        seen.primary = Presence::Silent;
        seen.is_proven_dead = true;
        seen.users.on_primary = false;
        plan(&seen)
    };
    assert_eq!(dead(&answers), Step::Call(Call::Seal));
    answers.sealed = Some(holdings(&[], &[50_000, 60_000]));
    let Step::Place(next, path) = dead(&answers) else {
        panic!("not placed");
    };
    assert_eq!((next.primary.as_str(), path.as_str()), ("two", "/p"));
    assert_eq!(next.replica.as_deref(), Some("one"));
    assert_eq!(next.recovery.as_ref().map(|one| one.time), Some(60_000));
    assert!(condition_message(&next).contains("recovery point 1970-01-01T00:01:00Z"));
    // The node that returned has its volume still.
    let Step::Write(back) = plan(&observed(&promoting, &answers)) else {
        panic!("no write");
    };
    assert_eq!((back.stage, back.epoch), (Stage::Replicating, 2));
    assert_eq!(back.primary, "one");
    // An older copy than the one that was shown is never promoted.
    answers.sealed = Some(holdings(&[], &[40_000]));
    assert!(matches!(dead(&answers), Step::Write(back) if back.last.is_none()));
}

#[test]
fn copies_go_before_the_volume() {
    let record = record();
    let mut answers = Answers::default();
    let mut seen = observed(&record, &answers);
    seen.is_released = true;
    assert_eq!(plan(&seen), Step::Call(Call::Forget));
    seen.replica = Presence::Silent;
    assert!(matches!(plan(&seen), Step::Wait(_)));
    seen.replica = Presence::Gone;
    assert!(matches!(plan(&seen), Step::Write(next) if next.stage == Stage::Ended));
    answers.forgotten = true;
    let mut seen = observed(&record, &answers);
    seen.is_released = true;
    assert!(matches!(plan(&seen), Step::Write(next) if next.stage == Stage::Ended));
}
