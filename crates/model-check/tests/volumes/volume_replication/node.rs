//! The model of a node: its copies, and the steps that it refuses.

use std::collections::{BTreeMap, BTreeSet};

use controller_planners::volume_replication::{CommonSnapshot, Role, VolumeCopies};

use super::{History, Mistake, Stream};

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) epoch: u32,
    pub(super) role: Option<bool>,
    pub(super) volume: Option<History>,
    pub(super) sent: BTreeMap<i64, History>,
    pub(super) copies: BTreeMap<i64, History>,
    /// The recovery point with which the node was promoted, and the contents of the other node's snapshot.
    pub(super) common: Option<(i64, History)>,
    pub(super) diverged: BTreeSet<History>,
    /// Whether a pod with the volume runs on the node.
    pub(super) pod: bool,
    /// Whether the node does not respond, and its lease is not renewed.
    pub(super) is_lost: bool,
    /// Whether the lease of the node is fenced, and its pods are dead.
    pub(super) is_fenced: bool,
}

impl Node {
    pub(super) fn admits(&self, mistake: Mistake, epoch: u32, role: Role) -> bool {
        let is_primary = role == Role::Primary;
        let has_equal_role = self.role.is_none_or(|recorded| recorded == is_primary);
        mistake == Mistake::AnyEpoch
            || epoch > self.epoch
            || (epoch == self.epoch && has_equal_role)
    }

    pub(super) fn admit(&mut self, mistake: Mistake, epoch: u32, role: Role) -> bool {
        let admitted = self.admits(mistake, epoch, role);
        if admitted {
            self.epoch = epoch;
            self.role = Some(role == Role::Primary);
        }
        admitted
    }

    pub(super) fn volume_copies(&self) -> VolumeCopies {
        VolumeCopies {
            epoch: self.epoch,
            has_volume: self.volume.is_some(),
            path: "/p".to_owned(),
            sent: self.sent.keys().copied().collect(),
            copies: self.copies.keys().copied().collect(),
            common: self.common.as_ref().map(|(time, history)| CommonSnapshot {
                time: *time,
                here: String::new(),
                there: format!("{history:?}"),
            }),
            diverged: (0..self.diverged.len()).map(|at| at.to_string()).collect(),
        }
    }

    pub(super) fn receive(&mut self, mistake: Mistake, stream: &Stream) {
        if !self.admit(mistake, stream.epoch, Role::Replica) || self.volume.is_some() {
            return;
        }
        let mut history = History::new();
        let mut skipped = 0;
        if let Some((time, base)) = &stream.base {
            // The identity of the base is that of the sender's snapshot.
            let matches_base =
                |base_copy: &&History| mistake == Mistake::OtherBase || *base_copy == base;
            let Some(base_copy) = self.copies.get(time).filter(matches_base) else {
                self.copies.remove(time);
                return;
            };
            (history, skipped) = (base_copy.clone(), base.len());
        }
        history.extend(&stream.writes[skipped..]);
        assert_eq!(history, stream.writes, "not a copy: {stream:?}");
        self.copies.entry(stream.time).or_insert(history);
    }

    /// Makes the volume a retained state, and removes the snapshots that it has sent, except for the base of a
    /// difference.
    pub(super) fn demote(&mut self, mistake: Mistake, epoch: u32, common: Option<&CommonSnapshot>) {
        if !self.admit(mistake, epoch, Role::Replica) {
            return;
        }
        let Some(history) = self.volume.take() else {
            return;
        };
        let base = common.and_then(|common| {
            let sent = match mistake {
                Mistake::OtherBase => Some(&history),
                _ => self.sent.get(&common.time),
            };
            let matches_base = |sent: &&History| {
                mistake == Mistake::OtherBase || format!("{sent:?}") == common.there
            };
            Some((common.time, sent.filter(matches_base)?.clone()))
        });
        if mistake != Mistake::NoDivergence {
            self.diverged.insert(history);
        }
        self.sent.clear();
        self.common = None;
        self.copies = base.into_iter().collect();
        self.pod = false;
    }
}
