//! The reasons why pods have no node, stored until the caches contain them.
//!
//! A pod has one write at a time: of two concurrent writes, the older reason could be stored last.

use std::collections::BTreeMap;

use object_model::ObjectKey;
use pod_placement::PlacementFailure;

/// The reason of the last decision about a pod.
#[derive(Clone, Debug)]
struct Explanation {
    obstacle: PlacementFailure,
    /// Whether a write of this or of an earlier reason is in progress.
    in_progress: bool,
}

/// The reasons why pods have no node, by pod.
#[derive(Debug, Default)]
pub(crate) struct Explanations {
    by_pod: BTreeMap<ObjectKey, Explanation>,
}

impl Explanations {
    /// Replaces the reason of the pod.
    pub fn keep(&mut self, key: ObjectKey, obstacle: PlacementFailure) {
        let in_progress = self.by_pod.get(&key).is_some_and(|entry| entry.in_progress);
        let entry = Explanation {
            obstacle,
            in_progress,
        };
        self.by_pod.insert(key, entry);
    }

    /// Forgets the reason, because the pod is deleted or has a node.
    pub fn drop(&mut self, key: &ObjectKey) {
        self.by_pod.remove(key);
    }

    /// The reason to compare with the cached pod; `None` during a write.
    pub fn next(&self, key: &ObjectKey) -> Option<&PlacementFailure> {
        let entry = self.by_pod.get(key).filter(|entry| !entry.in_progress)?;
        Some(&entry.obstacle)
    }

    /// Marks the start or the end of a write.
    pub fn set_in_progress(&mut self, key: &ObjectKey, in_progress: bool) {
        if let Some(entry) = self.by_pod.get_mut(key) {
            entry.in_progress = in_progress;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(message: &str) -> PlacementFailure {
        PlacementFailure {
            reason: "Unschedulable",
            message: message.to_owned(),
            keeps_nomination: false,
        }
    }

    #[test]
    fn a_reason_waits_for_the_write_of_an_earlier_one() {
        let mut explanations = Explanations::default();
        let key = ObjectKey::new("default", "p");
        let next = |explanations: &Explanations| {
            let next = explanations.next(&key);
            next.map(|obstacle| obstacle.message.clone())
        };
        assert_eq!(next(&explanations), None);
        explanations.keep(key.clone(), obstacle("first"));
        assert_eq!(next(&explanations).as_deref(), Some("first"));
        explanations.set_in_progress(&key, true);
        explanations.keep(key.clone(), obstacle("second"));
        assert_eq!(next(&explanations), None);
        explanations.set_in_progress(&key, false);
        assert_eq!(next(&explanations).as_deref(), Some("second"));
        explanations.drop(&key);
        explanations.set_in_progress(&key, true);
        assert_eq!(next(&explanations), None);
    }
}
