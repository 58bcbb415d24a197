//! Nominations: pods for which other pods were preempted, stored until the caches contain the result.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_model::ObjectKey;
use resource_kinds::pod_view::PodView;

/// A pod for which other pods were preempted.
#[derive(Clone, Debug)]
pub(crate) struct Nomination {
    pub pod: Arc<PodView>,
    pub node: String,
    /// The deleted or terminating victims.
    pub victims: Vec<Arc<PodView>>,
    pub written: NominationWrites,
}

/// The progress of the writes of a preemption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NominationWrites {
    /// The writes are in progress.
    NotYet,
    /// All writes are finished; the write of the nomination has this revision.
    At(u64),
}

/// The nominated nodes, by pod.
#[derive(Debug, Default)]
pub(crate) struct Nominations {
    by_pod: BTreeMap<ObjectKey, Nomination>,
}

impl Nominations {
    pub fn get(&self, key: &ObjectKey) -> Option<&Nomination> {
        self.by_pod.get(key)
    }

    pub fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.by_pod.keys()
    }

    pub fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut Nomination> {
        self.by_pod.get_mut(key)
    }

    pub fn keep(&mut self, key: ObjectKey, nomination: Nomination) {
        self.by_pod.insert(key, nomination);
    }

    pub fn drop(&mut self, key: &ObjectKey) {
        self.by_pod.remove(key);
    }

    /// The pod's nominated node, from the cache or from a later decision.
    pub fn node_of<'n>(&'n self, key: &ObjectKey, pod: &'n PodView) -> Option<&'n str> {
        let decided = self
            .by_pod
            .get(key)
            .filter(|nomination| nomination.is_news_to(pod));
        let decided = decided.map(|nomination| nomination.node.as_str());
        decided.or(pod.nominated.as_deref())
    }
}

impl Nomination {
    /// Whether the observed pod is older than the write of the nomination.
    fn is_news_to(&self, observed: &PodView) -> bool {
        self.pod.uid == observed.uid
            && match self.written {
                NominationWrites::At(revision) => observed.resource_version.get() < revision,
                NominationWrites::NotYet => true,
            }
    }

    /// Whether a decision about the pod must wait, because the result of its preemption is not visible yet. `current`
    /// finds a pod in the cache.
    pub fn is_under_way(
        &self,
        observed: &PodView,
        current: impl Fn(&PodView) -> Option<Arc<PodView>>,
    ) -> bool {
        let stays = |victim: &Arc<PodView>| current(victim).is_some_and(|pod| !pod.is_deleting());
        self.is_news_to(observed) || self.victims.iter().any(stays)
    }

    /// Whether all victims are deleted.
    pub fn is_free(&self, current: impl Fn(&PodView) -> Option<Arc<PodView>>) -> bool {
        self.written != NominationWrites::NotYet
            && !self.victims.iter().any(|one| current(one).is_some())
    }
}

#[cfg(test)]
mod tests {
    use object_model::ObjectIdentity;

    use super::*;

    fn pod(uid: &str, revision: &str) -> PodView {
        PodView::new(ObjectIdentity {
            key: ObjectKey::new("default", "p"),
            uid: uid.parse().expect("a UID"),
            version: revision.parse().expect("a version"),
        })
    }

    #[test]
    fn what_was_decided_counts_until_it_is_seen() {
        let mut nominations = Nominations::default();
        let key = ObjectKey::new("default", "p");
        let nomination = Nomination {
            pod: Arc::new(pod("p", "3")),
            node: "n".to_owned(),
            victims: vec![Arc::new(pod("v", "2"))],
            written: NominationWrites::NotYet,
        };
        nominations.keep(key.clone(), nomination.clone());
        let old = pod("p", "3");
        assert_eq!(nominations.node_of(&key, &old), Some("n"));
        assert_eq!(nominations.node_of(&key, &pod("another", "4")), None);
        nominations.get_mut(&key).expect("it is kept").written = NominationWrites::At(5);
        assert_eq!(nominations.node_of(&key, &old), Some("n"));
        // The nomination was observed, and withdrawn afterwards.
        assert_eq!(nominations.node_of(&key, &pod("p", "6")), None);
    }

    #[test]
    fn nothing_is_decided_before_the_victims_are_seen_to_go() {
        let nomination = Nomination {
            pod: Arc::new(pod("p", "3")),
            node: "n".to_owned(),
            victims: vec![Arc::new(pod("v", "2"))],
            written: NominationWrites::At(5),
        };
        let there = |_: &PodView| Some(Arc::new(pod("v", "2")));
        let going = |_: &PodView| {
            let mut pod = pod("v", "6");
            pod.deletion = Some(resource_kinds::pod_view::Deletion {
                deadline: jiff::Timestamp::UNIX_EPOCH,
                grace: 30,
            });
            Some(Arc::new(pod))
        };
        let is_deleted = |_: &PodView| None;
        assert!(nomination.is_under_way(&pod("p", "3"), is_deleted));
        assert!(nomination.is_under_way(&pod("p", "5"), there));
        assert!(!nomination.is_under_way(&pod("p", "5"), going) && !nomination.is_free(going));
        assert!(
            !nomination.is_under_way(&pod("p", "5"), is_deleted) && nomination.is_free(is_deleted)
        );
    }
}
