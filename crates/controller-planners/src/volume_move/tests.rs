use super::*;

fn record(stage: MoveStage) -> VolumeMove {
    VolumeMove::request("a1", "one", "two").in_stage(stage)
}

struct Case {
    record: VolumeMove,
    transfer: DataTransfer,
    is_bound: bool,
    users: Vec<User>,
    source: NodePresence,
    destination: NodePresence,
    responses: MoveAnswers,
}

fn case(stage: MoveStage) -> Case {
    Case {
        record: record(stage),
        transfer: DataTransfer::Files,
        is_bound: true,
        users: Vec::new(),
        source: NodePresence::Ready,
        destination: NodePresence::Ready,
        responses: MoveAnswers::default(),
    }
}

impl Case {
    fn plan(&self) -> VolumeMoveStep {
        plan(&Observed {
            record: &self.record,
            transfer: self.transfer,
            is_bound: self.is_bound,
            users: &self.users,
            source: self.source,
            destination: self.destination,
            responses: &self.responses,
        })
    }
}

fn stage_and_message(step: VolumeMoveStep) -> (MoveStage, String) {
    match step {
        VolumeMoveStep::Write(record) => (record.stage, record.message.unwrap_or_default()),
        other => panic!("no write: {other:?}"),
    }
}

fn user(node: &str) -> User {
    User {
        name: "web-0".to_owned(),
        uid: "u1".parse().unwrap(),
        node: node.to_owned(),
        is_controlled: true,
        is_deleted: false,
    }
}

#[test]
fn the_room_is_looked_at_before_a_pod_has_to_end() {
    let mut case = case(MoveStage::Requested);
    assert_eq!(
        case.plan(),
        VolumeMoveStep::Call(Call::Inspect(MoveEnd::Source))
    );
    let inspected = |used, free| {
        Some(Inspection {
            used,
            free,
            limit: None,
            has_first_copy: false,
        })
    };
    case.responses.source = inspected(Some(1 << 30), 0);
    assert_eq!(
        case.plan(),
        VolumeMoveStep::Call(Call::Inspect(MoveEnd::Destination))
    );
    case.responses.destination = inspected(None, 1 << 30);
    let (stage, message) = stage_and_message(case.plan());
    assert_eq!(stage, MoveStage::Abandoned);
    assert!(message.contains("too little space"), "{message}");
    case.responses.destination = inspected(None, 2 << 30);
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Stopping);
    case.responses.source = inspected(None, 0);
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Abandoned);
}

#[test]
fn a_pod_on_a_node_is_waited_for() {
    let mut case = case(MoveStage::Stopping);
    case.users = vec![user("one")];
    assert!(matches!(case.plan(), VolumeMoveStep::Wait(text) if text.contains("web-0")));
    case.users.clear();
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Copying);
}

#[test]
fn a_move_is_abandoned_before_it_is_placed_and_not_after() {
    let before = [
        MoveStage::Requested,
        MoveStage::Preparing,
        MoveStage::Stopping,
        MoveStage::Copying,
        MoveStage::Arrived,
    ];
    let breaks: [fn(&mut Case); 4] = [
        |case| case.record.cancelled = true,
        |case| case.is_bound = false,
        |case| case.source = NodePresence::Absent,
        |case| case.destination = NodePresence::Absent,
    ];
    for change in breaks {
        for stage in before {
            let mut case = case(stage);
            change(&mut case);
            assert_eq!(stage_and_message(case.plan()).0, MoveStage::Abandoned);
        }
        let mut case = case(MoveStage::Placed);
        change(&mut case);
        let goes_on = matches!(
            case.plan(),
            VolumeMoveStep::Call(Call::Place) | VolumeMoveStep::Wait(_)
        );
        assert!(goes_on, "{:?}", case.plan());
    }
}

#[test]
fn silent_nodes_are_waited_for_and_deleted_ones_are_not() {
    let mut case = case(MoveStage::Abandoned);
    case.source = NodePresence::Silent;
    assert!(matches!(case.plan(), VolumeMoveStep::Wait(_)));
    case.source = NodePresence::Absent;
    assert_eq!(
        case.plan(),
        VolumeMoveStep::Call(Call::Abandon(MoveEnd::Destination))
    );
    case.destination = NodePresence::Absent;
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Failed);
}

#[test]
fn a_pod_that_waits_on_the_former_node_is_deleted() {
    let mut case = case(MoveStage::Placed);
    case.responses.placed = true;
    case.responses.discarded = true;
    case.users = vec![user("two"), user("one")];
    assert_eq!(case.plan(), VolumeMoveStep::DeletePod(user("one")));
    case.users[1].is_deleted = true;
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Moved);
    case.users[1].is_deleted = false;
    case.users[1].is_controlled = false;
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Moved);
}

#[test]
fn a_failed_move_keeps_its_reason() {
    let mut case = case(MoveStage::Abandoned);
    case.record = record(MoveStage::Copying).abandoned("no room");
    case.responses.restored = true;
    case.responses.cleared = true;
    let ended = (MoveStage::Failed, "no room".to_owned());
    assert_eq!(stage_and_message(case.plan()), ended);
}

fn streams(stage: MoveStage) -> Case {
    Case {
        transfer: DataTransfer::Streams,
        ..case(stage)
    }
}

fn inspection(has_first_copy: bool) -> Option<Inspection> {
    Some(Inspection {
        used: Some(1 << 30),
        free: 3 << 30,
        limit: Some(2 << 30),
        has_first_copy,
    })
}

#[test]
fn the_room_for_a_first_copy_is_beside_that_of_the_volume() {
    let mut case = streams(MoveStage::Requested);
    case.responses.source = inspection(false);
    case.responses.destination = inspection(false);
    let (stage, message) = stage_and_message(case.plan());
    assert_eq!(stage, MoveStage::Abandoned);
    assert!(message.contains("too little space"), "{message}");
    let destination = case.responses.destination.as_mut().unwrap();
    destination.free += RESERVE;
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Preparing);
}

#[test]
fn pods_run_until_the_first_copy_is_there() {
    let mut case = streams(MoveStage::Preparing);
    case.users = vec![user("one")];
    assert_eq!(
        case.plan(),
        VolumeMoveStep::Call(Call::Copy(CopyExtent::First))
    );
    case.destination = NodePresence::Silent;
    assert!(matches!(case.plan(), VolumeMoveStep::Wait(_)));
    case.responses.copied = Some(CopyResult::Complete("/p".to_owned()));
    let VolumeMoveStep::Write(next) = case.plan() else {
        panic!("no write");
    };
    // The path belongs to the whole copy, and is not recorded for the first copy.
    assert_eq!((next.stage, next.path), (MoveStage::Stopping, None));
    case.responses.copied = Some(CopyResult::Impossible("a device".to_owned()));
    assert_eq!(stage_and_message(case.plan()).0, MoveStage::Abandoned);
}

#[test]
fn a_difference_is_copied_only_if_both_nodes_have_the_first_copy() {
    for (source, destination, extent) in [
        (true, true, CopyExtent::Increment),
        (true, false, CopyExtent::Whole),
        (false, true, CopyExtent::Whole),
    ] {
        let mut case = streams(MoveStage::Copying);
        case.responses.detached = Some(Detachment::Detached);
        assert_eq!(
            case.plan(),
            VolumeMoveStep::Call(Call::Inspect(MoveEnd::Source))
        );
        case.responses.source = inspection(source);
        assert_eq!(
            case.plan(),
            VolumeMoveStep::Call(Call::Inspect(MoveEnd::Destination))
        );
        case.responses.destination = inspection(destination);
        assert_eq!(case.plan(), VolumeMoveStep::Call(Call::Copy(extent)));
    }
}
