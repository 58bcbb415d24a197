//! Histories by hand: the check accepts those that one store with one copy explains, and no others.

use crate::history::{History, Key, Op, Pair, Present, Ret};

/// A call, or the answer to the last call of the client.
type Step = (usize, Result<Op, Ret>);

fn check(steps: &[Step]) -> Result<(), String> {
    let history = History::default();
    for (client, step) in steps {
        match step {
            Ok(op) => history.called(*client, *op),
            Err(ret) => history.answered(*client, ret.clone()),
        }
    }
    history.check()
}

/// An operation of client 0 that nobody else's overlaps.
fn alone(op: Op, ret: Ret) -> [Step; 2] {
    [(0, Ok(op)), (0, Err(ret))]
}

fn got(value: u64, revision: u64) -> Ret {
    Ret::Got(Some(Pair { value, revision }))
}

fn listed(revision: u64, pairs: &[(Key, u64, u64)]) -> Ret {
    let pairs = pairs.iter().map(|(key, value, revision)| {
        let (value, revision) = (*value, *revision);
        (*key, Pair { value, revision })
    });
    let pairs = pairs.collect();
    Ret::Listed { revision, pairs }
}

#[test]
fn answers_of_one_store_are_accepted() {
    let (create, update) = (Op::Create(0, 1), Op::Update(0, 2, 5));
    let refused = |value, revision| Ret::Refused(Present::Pair(Pair { value, revision }));
    let histories = [
        [
            alone(create, Ret::Done(Some(5))),
            alone(update, Ret::Done(Some(7))),
            alone(update, refused(2, 7)),
            alone(Op::List, listed(9, &[(0, 2, 7)])),
            alone(Op::Delete(0, 7), Ret::Done(None)),
            alone(Op::Delete(0, 7), Ret::Refused(Present::Nothing)),
        ]
        .concat(),
        // A read beside a write has the state before or after it.
        [
            vec![(1, Ok(create))],
            alone(Op::Get(0), Ret::Got(None)).into(),
        ]
        .concat(),
        [vec![(1, Ok(create))], alone(Op::Get(0), got(1, 5)).into()].concat(),
        // A write without an answer is carried out later, or never.
        [
            vec![(1, Ok(create))],
            alone(Op::Get(0), Ret::Got(None)).into(),
            alone(Op::Get(0), got(1, 5)).into(),
            alone(update, Ret::Done(Some(6))).into(),
        ]
        .concat(),
        [
            alone(create, Ret::Nothing),
            alone(Op::Get(0), Ret::Got(None)),
        ]
        .concat(),
    ];
    for steps in histories {
        check(&steps).unwrap();
    }
}

#[test]
fn answers_of_no_single_store_are_found() {
    let (create, update) = (Op::Create(0, 1), Op::Update(0, 2, 5));
    let done = || alone(create, Ret::Done(Some(5)));
    let histories = [
        // A stale read, an absent key, and a value that nobody wrote.
        [
            done(),
            alone(update, Ret::Done(Some(6))),
            alone(Op::Get(0), got(1, 5)),
        ]
        .concat(),
        [done(), alone(Op::Get(0), Ret::Got(None))].concat(),
        [done(), alone(Op::Get(0), got(9, 5))].concat(),
        // Another revision than the one that the writer was told.
        [done(), alone(Op::Get(0), got(1, 6))].concat(),
        // A lost write: both conditions held.
        [
            done(),
            alone(update, Ret::Done(Some(6))),
            alone(update, Ret::Done(Some(7))),
        ]
        .concat(),
        [done(), alone(Op::Create(0, 2), Ret::Done(Some(6)))].concat(),
        // A refusal without a reason.
        [done(), alone(update, Ret::Refused(Present::Something))].concat(),
        alone(create, Ret::Refused(Present::Something)).into(),
        // Revisions that go back, in writes and in lists.
        [done(), alone(Op::Create(1, 2), Ret::Done(Some(4)))].concat(),
        [
            alone(Op::List, listed(9, &[])),
            alone(create, Ret::Done(Some(5))),
        ]
        .concat(),
        // Two reads of a write that has no answer: the second one is older.
        [
            vec![(1, Ok(create))],
            alone(Op::Get(0), got(1, 5)).into(),
            alone(Op::Get(0), Ret::Got(None)).into(),
        ]
        .concat(),
        // A write that certainly did nothing is read.
        [alone(create, Ret::Nothing), alone(Op::Get(0), got(1, 5))].concat(),
        // Half of two writes: the later one without the earlier one.
        [
            done(),
            alone(Op::Create(1, 2), Ret::Done(Some(6))),
            alone(Op::List, listed(6, &[(1, 2, 6)])),
        ]
        .concat(),
    ];
    for steps in histories {
        assert!(check(&steps).is_err(), "{steps:?}");
    }
}
