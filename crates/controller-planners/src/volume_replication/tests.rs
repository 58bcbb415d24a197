use std::collections::{BTreeMap, BTreeSet};

use resource_kinds::storage::volume_replication::{
    Parameters, Recovery, ReplicationStage, VolumeReplication,
};

use super::{
    Call, CommonSnapshot, CopyResult, Observed, ReplicationAnswers, ReplicationStep, Role, Users,
    VolumeCopies, condition_message, is_replica_lost, plan,
};
use crate::volume_move::NodePresence;

fn record() -> VolumeReplication {
    VolumeReplication {
        replica: Some("two".to_owned()),
        last: Some(50_000),
        ..VolumeReplication::new("one", PARAMETERS)
    }
}

const PARAMETERS: Parameters = Parameters {
    interval: 10,
    replacement: 600,
};

/// The nodes `two`, `three` and `four`; the nodes in `silent` are not ready.
fn nodes(silent: &[&str]) -> &'static BTreeMap<String, NodePresence> {
    let state = |node: &str| match silent.contains(&node) {
        true => NodePresence::Silent,
        false => NodePresence::Ready,
    };
    let all = ["two", "three", "four"].map(|node| (node.to_owned(), state(node)));
    Box::leak(Box::new(BTreeMap::from(all)))
}

fn observed<'a>(record: &'a VolumeReplication, responses: &'a ReplicationAnswers) -> Observed<'a> {
    Observed {
        record,
        primary: NodePresence::Ready,
        is_proven_dead: false,
        users: Users {
            on_primary: true,
            waiting: false,
        },
        replica: NodePresence::Ready,
        is_replica_lost: false,
        others: nodes(&[]),
        candidate: Some("three"),
        is_released: false,
        now: 61_000,
        responses,
    }
}

fn holdings(sent: &[i64], copies: &[i64]) -> VolumeCopies {
    VolumeCopies {
        epoch: 1,
        has_volume: copies.is_empty(),
        path: "/p".to_owned(),
        sent: sent.iter().copied().collect(),
        copies: copies.iter().copied().collect(),
        common: None,
        diverged: BTreeSet::new(),
    }
}

// docs/storage.md: copies are differences, one in each interval.
#[test]
fn the_difference_to_the_last_copy_is_sent_when_the_interval_is_over() {
    let record = record();
    let mut responses = ReplicationAnswers::default();
    let mut input = observed(&record, &responses);
    input.now = 55_000;
    assert_eq!(plan(&input), ReplicationStep::Rest(5_000));
    input.now = 61_000;
    assert_eq!(
        plan(&input),
        ReplicationStep::Call(Call::Inspect(Role::Replica))
    );
    responses.replica = Some(holdings(&[], &[40_000, 50_000]));
    responses.primary = Some(holdings(&[50_000], &[]));
    let snapshots = BTreeSet::from([50_000]);
    let keep = Call::Keep(Role::Replica, snapshots);
    assert_eq!(
        plan(&observed(&record, &responses)),
        ReplicationStep::Call(keep)
    );
    responses.reduced.insert(Role::Replica);
    let copy = Call::Copy {
        time: 61_000,
        base: Some(50_000),
    };
    assert_eq!(
        plan(&observed(&record, &responses)),
        ReplicationStep::Call(copy)
    );
    responses.copied = Some(CopyResult::Complete(61_000));
    let ReplicationStep::Write(next) = plan(&observed(&record, &responses)) else {
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
    let responses = ReplicationAnswers {
        primary: Some(holdings(&[50_000], &[])),
        replica: Some(VolumeCopies {
            epoch: 1,
            ..VolumeCopies::default()
        }),
        reduced: BTreeSet::from([Role::Primary]),
        ..ReplicationAnswers::default()
    };
    let copy = Call::Copy {
        time: 61_000,
        base: None,
    };
    assert_eq!(
        plan(&observed(&record, &responses)),
        ReplicationStep::Call(copy)
    );
}

#[test]
fn a_node_is_chosen_where_there_is_none() {
    let responses = ReplicationAnswers::default();
    let without = VolumeReplication {
        replica: None,
        last: None,
        ..record()
    };
    let ReplicationStep::Write(next) = plan(&observed(&without, &responses)) else {
        panic!("no write");
    };
    assert_eq!(next.replica.as_deref(), Some("three"));
    let mut input = observed(&without, &responses);
    input.candidate = None;
    assert!(matches!(plan(&input), ReplicationStep::Wait(_)));
}

// docs/storage.md: an absent replica stays the replica until another node has a copy.
#[test]
fn a_replica_that_stays_away_keeps_its_place_until_another_node_has_a_copy() {
    let record = record();
    let mut responses = ReplicationAnswers::default();
    let away = |lost, presence, primary| {
        let mut input = observed(&record, &responses);
        (input.replica, input.primary) = (presence, primary);
        input.others = nodes(&["two"]);
        input.is_replica_lost = lost;
        plan(&input)
    };
    let ReplicationStep::Write(chosen) = away(true, NodePresence::Silent, NodePresence::Ready)
    else {
        panic!("no successor");
    };
    assert_eq!(chosen.successor.as_deref(), Some("three"));
    assert_eq!((chosen.replica.as_deref(), chosen.epoch), (Some("two"), 1));
    assert_eq!(
        away(false, NodePresence::Absent, NodePresence::Ready),
        ReplicationStep::Write(chosen.clone())
    );
    // The replica is not replaced yet, and not while its copies may be the only data.
    assert!(!matches!(
        away(false, NodePresence::Silent, NodePresence::Ready),
        ReplicationStep::Write(_)
    ));
    assert!(!matches!(
        away(true, NodePresence::Silent, NodePresence::Silent),
        ReplicationStep::Write(_)
    ));
    // The successor gets a copy at once, and then becomes the replica.
    responses.replica = Some(VolumeCopies {
        epoch: 1,
        ..VolumeCopies::default()
    });
    responses.primary = Some(VolumeCopies {
        has_volume: true,
        ..holdings(&[50_000], &[])
    });
    let mut input = observed(&chosen, &responses);
    (input.replica, input.others, input.now) = (NodePresence::Silent, nodes(&["two"]), 55_000);
    let copy = Call::Copy {
        time: 55_000,
        base: None,
    };
    assert_eq!(copy.node(&chosen), Some("one"));
    assert_eq!(Call::Demote(None).node(&chosen), Some("three"));
    assert_eq!(Call::Seal.node(&chosen), Some("two"));
    assert_eq!(plan(&input), ReplicationStep::Call(copy));
    responses.copied = Some(CopyResult::Complete(55_000));
    let mut input = observed(&chosen, &responses);
    (input.replica, input.others) = (NodePresence::Silent, nodes(&["two"]));
    let ReplicationStep::Write(replaced) = plan(&input) else {
        panic!("not replaced");
    };
    assert_eq!((replaced.epoch, replaced.last), (2, Some(55_000)));
    assert_eq!(replaced.replica.as_deref(), Some("three"));
    assert_eq!(
        (replaced.successor.as_deref(), &*replaced.former),
        (None, &["two".to_owned()][..])
    );
    assert!(condition_message(&replaced).contains("node \"two\" removes its former copies"));
    // The former replica returns first.
    responses.copied = None;
    let ReplicationStep::Write(unchanged) = plan(&observed(&chosen, &responses)) else {
        panic!("not given up");
    };
    assert_eq!(
        (unchanged.replica.as_deref(), unchanged.last),
        (Some("two"), Some(50_000))
    );
    assert_eq!(
        (unchanged.epoch, &*unchanged.former),
        (2, &["three".to_owned()][..])
    );
}

#[test]
fn another_node_is_tried_if_one_has_no_room() {
    let full = ReplicationAnswers {
        copied: Some(CopyResult::Impossible("no room".to_owned())),
        ..ReplicationAnswers::default()
    };
    let new = VolumeReplication {
        last: None,
        ..record()
    };
    let three = |record: &VolumeReplication, replica| {
        let mut input = observed(record, &full);
        (input.candidate, input.replica, input.now) = (Some("three"), replica, 65_000);
        plan(&input)
    };
    // A replica without a copy is replaced when another node has a copy.
    let ReplicationStep::Write(next) = three(&new, NodePresence::Ready) else {
        panic!("no other node");
    };
    assert_eq!(next.receiver(), Some("three"));
    assert_eq!(next.replica.as_deref(), Some("two"));
    assert!(condition_message(&next).contains("it has none, and node \"three\" gets a copy"));
    let none = ReplicationAnswers::default();
    assert!(matches!(
        plan(&observed(&next, &none)),
        ReplicationStep::Call(_)
    ));
    // A replica with copies stays the replica.
    assert_eq!(
        three(&record(), NodePresence::Ready),
        ReplicationStep::Wait("no room".to_owned())
    );
    // A successor is replaced by the next successor.
    let chosen = VolumeReplication {
        successor: Some("four".to_owned()),
        ..record()
    };
    let mut input = observed(&chosen, &full);
    (input.replica, input.others) = (NodePresence::Silent, nodes(&["two"]));
    input.candidate = None;
    assert_eq!(plan(&input), ReplicationStep::Wait("no room".to_owned()));
    input.candidate = Some("three");
    let ReplicationStep::Write(next) = plan(&input) else {
        panic!("not given up");
    };
    assert_eq!((next.successor.as_deref(), next.epoch), (None, 2));
    assert_eq!(next.former, ["four"]);
    assert_eq!(next.message.as_deref(), Some("no room"));
}

#[test]
fn a_node_is_lost_after_the_time_of_its_class() {
    let record = record();
    assert!(!is_replica_lost(&record, None, 900_000));
    assert!(!is_replica_lost(&record, Some(300_001), 900_000));
    assert!(is_replica_lost(&record, Some(300_000), 900_000));
}

#[test]
fn a_node_that_returns_too_late_removes_its_copies() {
    let record = VolumeReplication {
        replica: Some("three".to_owned()),
        former: vec!["two".to_owned()],
        ..record()
    };
    let mut responses = ReplicationAnswers::default();
    let rest = |others, responses: &ReplicationAnswers| {
        let mut input = observed(&record, responses);
        (input.others, input.now) = (others, 55_000);
        plan(&input)
    };
    assert_eq!(
        rest(nodes(&["two"]), &responses),
        ReplicationStep::Rest(5_000)
    );
    let retire = Call::Retire("two".to_owned());
    assert_eq!(rest(nodes(&[]), &responses), ReplicationStep::Call(retire));
    // A former primary keeps its state.
    let copies = VolumeCopies {
        diverged: ["diverged-1-v".to_owned()].into(),
        ..VolumeCopies::default()
    };
    responses.retired.insert("two".to_owned(), None);
    assert_eq!(rest(nodes(&[]), &responses), ReplicationStep::Rest(5_000));
    responses.retired.insert("two".to_owned(), Some(copies));
    let ReplicationStep::Write(next) = rest(nodes(&[]), &responses) else {
        panic!("no write");
    };
    assert!(next.former.is_empty());
    assert_eq!(next.diverged[0].node, "two");
}

#[test]
fn a_former_primary_goes_on_from_the_recovery_point() {
    let record = VolumeReplication {
        epoch: 2,
        last: None,
        recovery: Some(Recovery {
            from: "two".to_owned(),
            time: 50_000,
        }),
        ..record()
    };
    let common = CommonSnapshot {
        time: 50_000,
        here: "a".to_owned(),
        there: "b".to_owned(),
    };
    let mut responses = ReplicationAnswers {
        primary: Some(VolumeCopies {
            has_volume: true,
            common: Some(common.clone()),
            ..holdings(&[50_000], &[])
        }),
        replica: Some(VolumeCopies {
            has_volume: true,
            ..holdings(&[50_000], &[])
        }),
        ..ReplicationAnswers::default()
    };
    let demote = Call::Demote(Some(common));
    assert_eq!(
        plan(&observed(&record, &responses)),
        ReplicationStep::Call(demote)
    );
    responses.replica = Some(VolumeCopies {
        epoch: 2,
        has_volume: false,
        ..holdings(&[], &[50_000])
    });
    let copy = |base| ReplicationStep::Call(Call::Copy { time: 61_000, base });
    assert_eq!(plan(&observed(&record, &responses)), copy(Some(50_000)));
    // The snapshots were not identical, so the copy is whole.
    responses.replica = Some(VolumeCopies {
        epoch: 2,
        ..VolumeCopies::default()
    });
    responses.reduced = BTreeSet::from([Role::Primary]);
    assert_eq!(plan(&observed(&record, &responses)), copy(None));
    // If the clock was set back, a copy still does not get the name of the recovery point.
    let mut input = observed(&record, &responses);
    input.now = 40_000;
    let later = Call::Copy {
        time: 50_001,
        base: None,
    };
    assert_eq!(plan(&input), ReplicationStep::Call(later));
}

#[test]
fn a_replica_is_promoted_only_with_a_proof_and_for_a_pod_that_waits() {
    let record = record();
    let responses = ReplicationAnswers::default();
    let lost = |change: &dyn Fn(&mut Observed<'_>)| {
        let mut input = observed(&record, &responses);
        input.primary = NodePresence::Silent;
        input.is_proven_dead = true;
        input.users = Users {
            on_primary: false,
            waiting: true,
        };
        change(&mut input);
        matches!(plan(&input), ReplicationStep::Write(next) if next.stage == ReplicationStage::Promoting && next.epoch == 2)
    };
    assert!(lost(&|_| {}));
    assert!(!lost(&|input| input.is_proven_dead = false));
    assert!(!lost(&|input| input.users.on_primary = true));
    assert!(!lost(&|input| input.users.waiting = false));
    assert!(!lost(&|input| input.replica = NodePresence::Silent));
    assert!(!lost(&|input| input.is_released = true));
}

#[test]
fn the_volume_follows_the_newest_complete_copy() {
    let promoting = VolumeReplication {
        epoch: 2,
        stage: ReplicationStage::Promoting,
        ..record()
    };
    let mut responses = ReplicationAnswers::default();
    let dead = |responses: &ReplicationAnswers| {
        let mut input = observed(&promoting, responses);
        input.primary = NodePresence::Silent;
        input.is_proven_dead = true;
        input.users.on_primary = false;
        plan(&input)
    };
    assert_eq!(dead(&responses), ReplicationStep::Call(Call::Seal));
    responses.sealed = Some(holdings(&[], &[50_000, 60_000]));
    let ReplicationStep::Relocate(next, path) = dead(&responses) else {
        panic!("not placed");
    };
    assert_eq!((next.primary.as_str(), path.as_str()), ("two", "/p"));
    assert_eq!(next.replica.as_deref(), Some("one"));
    assert_eq!(next.recovery.as_ref().map(|one| one.time), Some(60_000));
    assert!(condition_message(&next).contains("recovery point 1970-01-01T00:01:00Z"));
    // The node that returned still has its volume.
    let ReplicationStep::Write(back) = plan(&observed(&promoting, &responses)) else {
        panic!("no write");
    };
    assert_eq!((back.stage, back.epoch), (ReplicationStage::Replicating, 2));
    assert_eq!(back.primary, "one");
    // A copy that is older than the reported copy is never promoted.
    responses.sealed = Some(holdings(&[], &[40_000]));
    assert!(matches!(dead(&responses), ReplicationStep::Write(back) if back.last.is_none()));
}

#[test]
fn copies_go_before_the_volume() {
    let record = VolumeReplication {
        former: vec!["three".to_owned()],
        ..record()
    };
    let mut responses = ReplicationAnswers::default();
    let released = |responses: &ReplicationAnswers, others: &BTreeMap<String, NodePresence>| {
        let mut input = observed(&record, responses);
        (input.is_released, input.others) = (true, others);
        plan(&input)
    };
    let forget = |node: &str| ReplicationStep::Call(Call::Forget(node.to_owned()));
    assert_eq!(released(&responses, nodes(&[])), forget("three"));
    assert!(matches!(
        released(&responses, nodes(&["three"])),
        ReplicationStep::Wait(_)
    ));
    responses.forgotten.insert("three".to_owned());
    assert_eq!(released(&responses, nodes(&[])), forget("two"));
    let none = BTreeMap::new();
    let is_ended = |step| matches!(step, ReplicationStep::Write(next) if next.stage == ReplicationStage::Ended);
    // Deleted nodes have no copies any more.
    assert!(is_ended(released(&responses, &none)));
    responses.forgotten.insert("two".to_owned());
    assert!(is_ended(released(&responses, nodes(&[]))));
}
