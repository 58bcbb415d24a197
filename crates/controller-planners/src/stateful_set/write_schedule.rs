//! The order of a plan's writes: the writes that may be sent next, given the outcomes of the earlier writes.
//!
//! First the preparation, in order. Then the pods: one by one, or in batches of 1, 2, 4, … at once, where the writes
//! for one pod stay in order; after a refused write no further batch starts. Then the edits of claims, all at once; no
//! write waits for their outcome. Then the status in any case, because the
//! status reports the present state. Last the cleanup, only if no write was refused. After a crash a new plan is
//! computed.
//!
//! The executor and the model checker share this code, so the model checker explores the real order of writes.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSetStatus;

use super::plan::{PodManagement, StatefulSetAction, StatefulSetPlan};

/// Maximum number of pods in one batch. As kube-controller-manager's largest batch.
const BATCH_MAX: usize = 500;

/// A write of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Write<'p> {
    Action(&'p StatefulSetAction),
    Status(&'p StatefulSetStatus),
}

/// The result of a write, which decides the next writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteOutcome {
    /// The write was executed, or was not necessary.
    Done,
    /// The write was refused, or its outcome is unknown.
    Refused,
}

/// The position of a write in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WritePosition {
    /// In the preparation.
    Prepare(usize),
    /// In the work on a pod.
    Pod {
        /// The index of the pod's work.
        work: usize,
        /// The index of the write.
        step: usize,
    },
    ClaimEdit(usize),
    Status,
    Cleanup(usize),
}

impl StatefulSetPlan {
    /// The write at that position; `None` past the end of its part.
    pub fn write(&self, position: WritePosition) -> Option<Write<'_>> {
        let action = match position {
            WritePosition::Prepare(step) => self.prepare.get(step),
            WritePosition::Pod { work, step } => self.pods.get(work)?.actions.get(step),
            WritePosition::ClaimEdit(edit) => self.claim_edits.get(edit),
            WritePosition::Status => return self.status.as_ref().map(Write::Status),
            WritePosition::Cleanup(step) => self.cleanup.get(step),
        };
        action.map(Write::Action)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Prepare,
    /// The end of the batch, and its intended size.
    Pods {
        end: usize,
        size: usize,
    },
    ClaimEdits,
    Status,
    Cleanup,
    Over,
}

/// The progress of the execution of a plan. A schedule belongs to one plan, which is passed to each call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WriteSchedule {
    part: Part,
    /// The writes that may be sent.
    ready: BTreeSet<WritePosition>,
    /// The sent writes without an outcome.
    sent: BTreeSet<WritePosition>,
    refused: bool,
}

impl WriteSchedule {
    /// The schedule at the start of a plan.
    pub fn of(plan: &StatefulSetPlan) -> Self {
        let mut schedule = Self {
            part: Part::Prepare,
            ready: BTreeSet::new(),
            sent: BTreeSet::new(),
            refused: false,
        };
        schedule.open_at(plan, WritePosition::Prepare(0));
        schedule.settle(plan);
        schedule
    }

    /// Whether no write is left and no write is without an outcome.
    pub fn is_over(&self) -> bool {
        self.part == Part::Over
    }

    /// Whether any write was refused.
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// The writes that may be sent now, in any order or concurrently.
    pub fn ready(&self) -> impl Iterator<Item = WritePosition> {
        self.ready.iter().copied()
    }

    /// Records that a write was sent.
    pub fn sent(&mut self, position: WritePosition) {
        if self.ready.remove(&position) {
            self.sent.insert(position);
        }
    }

    /// Records the outcome of a sent write, and releases the writes that follow it.
    pub fn ended(
        &mut self,
        plan: &StatefulSetPlan,
        position: WritePosition,
        outcome: WriteOutcome,
    ) {
        if !self.sent.remove(&position) {
            return;
        }
        match outcome {
            WriteOutcome::Refused if matches!(position, WritePosition::ClaimEdit(_)) => {}
            WriteOutcome::Refused => self.refused = true,
            WriteOutcome::Done => match position {
                WritePosition::Prepare(step) => {
                    self.open_at(plan, WritePosition::Prepare(step + 1))
                }
                WritePosition::Pod { work, step } => {
                    let step = step + 1;
                    self.open_at(plan, WritePosition::Pod { work, step });
                }
                WritePosition::ClaimEdit(_) | WritePosition::Status => {}
                WritePosition::Cleanup(step) => {
                    self.open_at(plan, WritePosition::Cleanup(step + 1))
                }
            },
        }
        self.settle(plan);
    }

    fn open_at(&mut self, plan: &StatefulSetPlan, position: WritePosition) {
        if plan.write(position).is_some() {
            self.ready.insert(position);
        }
    }

    /// Continues with the next part when all writes of this part have ended.
    fn settle(&mut self, plan: &StatefulSetPlan) {
        while self.ready.is_empty() && self.sent.is_empty() && self.part != Part::Over {
            self.part = self.following(plan);
            match self.part {
                Part::Pods { end, size } => {
                    for work in end - size..end {
                        self.open_at(plan, WritePosition::Pod { work, step: 0 });
                    }
                }
                Part::ClaimEdits => {
                    for edit in 0..plan.claim_edits.len() {
                        self.open_at(plan, WritePosition::ClaimEdit(edit));
                    }
                }
                Part::Status => self.open_at(plan, WritePosition::Status),
                Part::Cleanup => self.open_at(plan, WritePosition::Cleanup(0)),
                Part::Prepare | Part::Over => {}
            }
        }
    }

    fn following(&self, plan: &StatefulSetPlan) -> Part {
        let batch = |start: usize, size: usize| {
            let left = plan.pods.len() - start;
            let size = if plan.pod_management == PodManagement::OneByOne {
                1
            } else {
                size
            };
            let size = size.min(BATCH_MAX).min(left);
            Part::Pods {
                end: start + size,
                size,
            }
        };
        match self.part {
            Part::Prepare if self.refused => Part::Status,
            Part::Pods { .. } if self.refused => Part::ClaimEdits,
            Part::Prepare if plan.pods.is_empty() => Part::ClaimEdits,
            Part::Prepare => batch(0, 1),
            Part::Pods { end, .. } if end == plan.pods.len() => Part::ClaimEdits,
            Part::Pods { end, size } => batch(end, size * 2),
            Part::ClaimEdits => Part::Status,
            Part::Status if self.refused => Part::Over,
            Part::Status => Part::Cleanup,
            Part::Cleanup | Part::Over => Part::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::PodWork;
    use super::*;

    /// A plan with that number of pods, two writes each, and one write in each other part.
    fn plan(pods: i64, pod_management: PodManagement) -> StatefulSetPlan {
        let action = |name: String| StatefulSetAction::DeletePod {
            uid: name.parse().unwrap(),
            version: None,
            name,
        };
        let work = |ordinal: i64| PodWork {
            ordinal,
            actions: vec![
                action(format!("claim-{ordinal}")),
                action(format!("pod-{ordinal}")),
            ],
        };
        StatefulSetPlan {
            prepare: vec![StatefulSetAction::ConfirmSet, action("prepare".to_owned())],
            pods: (0..pods).map(work).collect(),
            pod_management,
            claim_edits: Vec::new(),
            status: Some(StatefulSetStatus::default()),
            cleanup: vec![action("cleanup".to_owned())],
            notices: Vec::new(),
            waiting_on: Vec::new(),
            requeue_after: None,
        }
    }

    /// Sends all released writes, round by round; the write `refuse` is refused.
    fn rounds(plan: &StatefulSetPlan, refuse: Option<WritePosition>) -> Vec<String> {
        let mut schedule = WriteSchedule::of(plan);
        let mut rounds = Vec::new();
        while !schedule.is_over() {
            let ready: Vec<WritePosition> = schedule.ready().collect();
            assert!(
                !ready.is_empty(),
                "nothing to do and not over: {schedule:?}"
            );
            let text = |position: &WritePosition| match plan.write(*position) {
                Some(Write::Action(StatefulSetAction::DeletePod { name, .. })) => name.clone(),
                Some(Write::Action(_)) => "confirm".to_owned(),
                Some(Write::Status(_)) => "status".to_owned(),
                None => panic!("{position:?} is not in the plan"),
            };
            rounds.push(ready.iter().map(text).collect::<Vec<_>>().join(" "));
            for position in ready {
                schedule.sent(position);
                assert!(
                    !schedule.ready().any(|other| other == position),
                    "sent once"
                );
                let refused = refuse == Some(position);
                let outcome = if refused {
                    WriteOutcome::Refused
                } else {
                    WriteOutcome::Done
                };
                schedule.ended(plan, position, outcome);
            }
        }
        rounds
    }

    #[test]
    fn one_pod_after_the_other_then_status_then_cleanup() {
        let all = "confirm,prepare,claim-0,pod-0,claim-1,pod-1,status,cleanup";
        assert_eq!(
            rounds(&plan(2, PodManagement::OneByOne), None).join(","),
            all
        );
    }

    /// statefulset.md 3.20: batches double, and the writes for one pod stay in order.
    #[test]
    fn batches_double_and_keep_the_order_about_each_pod() {
        let rounds = rounds(&plan(4, PodManagement::Batches), None);
        let expected = [
            "confirm",
            "prepare",
            "claim-0",
            "pod-0",
            "claim-1 claim-2",
            "pod-1 pod-2",
            "claim-3",
            "pod-3",
            "status",
            "cleanup",
        ];
        assert_eq!(rounds, expected);
    }

    /// statefulset.md 2.4, 3.20: no pod is created without its claims, and after a refusal no further batch starts.
    #[test]
    fn a_refusal_ends_the_work_after_its_batch_but_not_the_status() {
        let refuse = WritePosition::Pod { work: 1, step: 0 };
        let after = |pod_management| rounds(&plan(4, pod_management), Some(refuse)).split_off(4);
        assert_eq!(
            after(PodManagement::Batches),
            ["claim-1 claim-2", "pod-2", "status"]
        );
        assert_eq!(after(PodManagement::OneByOne), ["claim-1", "status"]);
    }

    /// statefulset.md 5.14: the counters are written even if no other write is possible.
    #[test]
    fn a_refused_preparation_leaves_only_the_status() {
        let rounds = rounds(
            &plan(2, PodManagement::Batches),
            Some(WritePosition::Prepare(0)),
        );
        assert_eq!(rounds, ["confirm", "status"]);
    }

    #[test]
    fn a_refused_status_leaves_out_the_cleanup() {
        let rounds = rounds(
            &plan(0, PodManagement::Batches),
            Some(WritePosition::Status),
        );
        assert_eq!(rounds, ["confirm", "prepare", "status"]);
    }

    /// rollouts.md C3: edits of claims come after the pods, also if work on a pod was refused; no other write waits for
    /// their outcome.
    #[test]
    fn edits_of_claims_hold_up_nothing() {
        let edits = (0..2).map(|edit| StatefulSetAction::DeletePod {
            name: format!("edit-{edit}"),
            uid: format!("edit-{edit}").parse().unwrap(),
            version: None,
        });
        let plan = StatefulSetPlan {
            claim_edits: edits.collect(),
            ..plan(2, PodManagement::OneByOne)
        };
        let after = |refuse| rounds(&plan, Some(refuse)).split_off(2);
        let pods = ["claim-0", "pod-0", "claim-1", "pod-1"];
        let rest = ["edit-0 edit-1", "status", "cleanup"];
        assert_eq!(
            after(WritePosition::ClaimEdit(0)),
            [&pods[..], &rest].concat()
        );
        let refused = WritePosition::Pod { work: 0, step: 0 };
        assert_eq!(after(refused), ["claim-0", "edit-0 edit-1", "status"]);
        let refused = WritePosition::Prepare(1);
        assert_eq!(after(refused), ["status"]);
    }
}
