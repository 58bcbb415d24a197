//! The last heartbeats of nodes, and the time since then.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;

use super::reach;
use super::silence::{Carried, Heartbeat};

/// The last heartbeats of nodes: a renewed lease or another heartbeat time counts as a heartbeat at the time of its
/// observation.
///
/// For each node, the times in the heartbeat and the observer's clock reading at the observation. Readings are those of
/// a monotonic clock with any origin.
#[derive(Clone, Debug)]
pub struct NodeHeartbeats {
    nodes: BTreeMap<String, LastHeartbeat>,
    /// The counts of the observer's former run, until this run has observed the node.
    former: BTreeMap<String, (Vec<Timestamp>, Carried)>,
    checked_at: Option<SignedDuration>,
    gap: SignedDuration,
}

#[derive(Clone, Debug)]
struct LastHeartbeat {
    signs: Vec<Timestamp>,
    at: SignedDuration,
    /// The silence that the former run has counted.
    carried: SignedDuration,
}

impl NodeHeartbeats {
    /// No heartbeats yet. `gap` is the time between two checks after which the observer counts as stopped, usually
    /// [`GAP`](super::GAP).
    pub fn new(gap: SignedDuration) -> Self {
        Self {
            nodes: BTreeMap::new(),
            former: BTreeMap::new(),
            checked_at: None,
            gap,
        }
    }

    /// Records a check, at least every [`PERIOD`](super::PERIOD).
    ///
    /// After a gap the silent nodes are unknown, and their heartbeats may still be unread: the grace period of all
    /// nodes starts again, and the result is true. A clock that was set back counts as a gap.
    pub fn check(&mut self, now: SignedDuration) -> bool {
        let checked_at = self.checked_at.replace(now);
        let is_gap = |checked_at: SignedDuration| {
            let since = now.saturating_sub(checked_at);
            since > self.gap || since < SignedDuration::ZERO
        };
        let anew = checked_at.is_some_and(is_gap);
        if anew {
            self.restart_all(now);
        }
        anew
    }

    /// Records a heartbeat of all nodes at `now`.
    pub fn restart_all(&mut self, now: SignedDuration) {
        self.former.clear();
        for last in self.nodes.values_mut() {
            last.at = now;
            last.carried = SignedDuration::ZERO;
        }
    }

    /// Continues the counts of the observer's former run, by node: each count begins at the heartbeat with these times.
    pub fn continue_from(&mut self, former: BTreeMap<String, (Vec<Timestamp>, Carried)>) {
        self.former = former;
    }

    /// The times in the node's last heartbeat, and the silence since then, for the next run. The silence is never less
    /// than that of the former run.
    pub fn observed(&self, node: &str, now: SignedDuration) -> Option<Heartbeat<'_>> {
        let last = self.nodes.get(node)?;
        Some(Heartbeat {
            signs: &last.signs,
            silent_for: now.saturating_sub(last.at).max(last.carried),
        })
    }

    /// The time since the last heartbeat of the node of that name; `renewed` is the `renewTime` of its lease.
    pub fn silent_for(
        &mut self,
        name: &str,
        node: &Node,
        renewed: Option<Timestamp>,
        now: SignedDuration,
    ) -> SignedDuration {
        let status = node.status.as_ref();
        let conditions = status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten());
        // The condition about reachability is written by a server.
        let by_agent = conditions.filter(|condition| condition.type_ != reach::KUBELET_REACHABLE);
        let beats = by_agent.filter_map(|condition| condition.last_heartbeat_time.as_ref());
        let mut signs: Vec<Timestamp> = beats.map(|time| time.0).chain(renewed).collect();
        signs.sort_unstable();
        signs.dedup();
        // A heartbeat is a time that differs from all earlier times; this controller's own writes have no new time. The
        // time is from the node's clock, which may be set back.
        let is_recorded = |recorded: &[Timestamp]| signs.iter().all(|sign| recorded.contains(sign));
        if let Some(last) = self.nodes.get(name)
            && is_recorded(&last.signs)
        {
            return now.saturating_sub(last.at);
        }
        let former = self.former.remove(name);
        let former = former.filter(|(recorded, _)| is_recorded(recorded));
        let (signs, carried) = former.unwrap_or_else(|| (signs, Carried::default()));
        let last = LastHeartbeat {
            signs,
            at: now.saturating_sub(carried.counts),
            carried: carried.observed,
        };
        self.nodes.insert(name.to_owned(), last);
        carried.counts
    }

    /// Removes the entries of nodes for which `exists` is false.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, _| exists(name));
        self.former.retain(|name, _| exists(name));
    }
}
