//! The pods and sets of the namespace, from their watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::Notify;

use super::pod::Pod;
use crate::follow::{AnyObject, ObjectChange};
use crate::nodes::Heartbeats;

/// The fields of a pod that the measurement reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReportedPod {
    image: String,
    ready: bool,
}

#[derive(Default)]
struct Observed {
    pods: BTreeMap<String, ReportedPod>,
    /// The number of ready pods with each image.
    ready: BTreeMap<String, usize>,
    sets: BTreeSet<String>,
    failure: Option<String>,
}

impl Observed {
    /// Replaces a pod. The counts are updated with it, because the end of a step is checked at each event.
    fn put(&mut self, name: &str, pod: Option<ReportedPod>) {
        if let Some(pod) = pod.as_ref().filter(|pod| pod.ready) {
            *self.ready.entry(pod.image.clone()).or_default() += 1;
        }
        let before = match pod {
            Some(pod) => self.pods.insert(name.to_owned(), pod),
            None => self.pods.remove(name),
        };
        if let Some(before) = before.filter(|pod| pod.ready)
            && let Some(count) = self.ready.get_mut(&before.image)
        {
            *count -= 1;
        }
    }
}

/// The views, and the first failure of a task that the measurement depends on.
#[derive(Default)]
pub(super) struct Views {
    observed: Mutex<Observed>,
    changed: Notify,
}

impl Views {
    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of pods.
    pub fn pods(&self) -> usize {
        self.observed().pods.len()
    }

    /// The number of ready pods with that image.
    pub fn ready(&self, image: &str) -> usize {
        self.observed()
            .ready
            .get(image)
            .copied()
            .unwrap_or_default()
    }

    /// The number of sets.
    pub fn sets(&self) -> usize {
        self.observed().sets.len()
    }

    /// The state, for an error.
    pub fn summary(&self) -> String {
        let state = self.observed();
        let ready: usize = state.ready.values().sum();
        let (sets, pods) = (state.sets.len(), state.pods.len());
        format!("{sets} sets, {pods} pods, {ready} of them ready")
    }

    /// Waits until the condition is true, or a task has failed.
    pub async fn wait_for(&self, holds: impl Fn() -> bool) -> Result<()> {
        loop {
            if let Some(failure) = &self.observed().failure {
                bail!("{failure}");
            }
            if holds() {
                return Ok(());
            }
            self.changed.notified().await;
        }
    }

    /// Records the failure of a task.
    pub fn fail(&self, error: &anyhow::Error) {
        self.observed().failure.get_or_insert(format!("{error:#}"));
        self.changed.notify_one();
    }

    /// Applies a change of the pods.
    pub fn see_pod(&self, change: &ObjectChange<Pod>) {
        match change {
            ObjectChange::Put(pod) => {
                let pod_state = ReportedPod {
                    image: pod.image().to_owned(),
                    ready: pod.is_ready() && pod.metadata.deletion_timestamp.is_none(),
                };
                self.observed().put(&pod.metadata.name, Some(pod_state));
            }
            ObjectChange::Deleted(name) => self.observed().put(name, None),
        }
        self.changed.notify_one();
    }

    /// Applies a change of the sets.
    pub fn see_set(&self, change: ObjectChange<AnyObject>) {
        let mut state = self.observed();
        match change {
            ObjectChange::Put(set) => state.sets.insert(set.metadata.name),
            ObjectChange::Deleted(name) => state.sets.remove(&name),
        };
        drop(state);
        self.changed.notify_one();
    }
}

/// The measurement of sets needs the heartbeats, but does not count them.
impl Heartbeats for Arc<Views> {
    fn renewed(&self, _latency: Duration) {}

    fn failed(&self, error: &anyhow::Error) {
        self.fail(error);
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_terminating_pod_is_not_ready() {
        let views = Views::default();
        let mut pod = json!({
            "metadata": {"name": "a-0"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let put = |pod: &json_tree::Value| {
            views.see_pod(&ObjectChange::Put(
                json_tree::from_value(pod.clone()).unwrap(),
            ));
        };
        put(&pod);
        assert_eq!((views.ready("i"), views.ready("j")), (1, 0));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        put(&pod);
        assert_eq!((views.pods(), views.ready("i")), (1, 0));
        views.see_pod(&ObjectChange::Deleted("a-0".to_owned()));
        assert_eq!(views.pods(), 0);
    }

    #[tokio::test]
    async fn a_failure_ends_the_wait() {
        let views = Views::default();
        views.fail(&anyhow::anyhow!("the watch broke"));
        let ended = views.wait_for(|| false).await.unwrap_err();
        assert_eq!(ended.to_string(), "the watch broke");
    }
}
