//! The status of an object as the API server stores it, as far as this program knows.
//!
//! There are two sources: the responses to own writes, which come at once, and the watch, which
//! also brings others' writes and may be behind. The resource version decides between them, so that
//! a status is compared with the stored one and not with the last one sent. Others write statuses
//! too (the node lifecycle controller marks a lost node and its pods), and the agent has to correct
//! them. As kubelet, whose status manager compares each pod with the API's.

use std::time::Duration;

use api_client::ResourceExt;
use tokio::time::Instant;

/// The status of one object in the API.
#[derive(Clone, Debug)]
pub struct KnownStatus<S> {
    status: S,
    /// The version that the answer to the last own write had, and when it came.
    answered: Option<(u64, Instant)>,
}

/// Maximum delay of the watch behind a response. After it the watch wins: the versions of a
/// restored store begin again at a lower number.
const WATCH_BEHIND_MAX: Duration = Duration::from_secs(10);

impl<S> KnownStatus<S> {
    /// Starts with the result of a read or of the watch.
    pub fn new(status: S) -> Self {
        Self {
            status,
            answered: None,
        }
    }

    /// The status as it is stored in the API server.
    pub fn get(&self) -> &S {
        &self.status
    }

    /// Takes the answer to an own write.
    pub fn answered(&mut self, object: &impl ResourceExt, status: S) {
        self.answered = version(object).map(|version| (version, Instant::now()));
        self.status = status;
    }

    /// Takes a status from the watch, unless it is older than a response; returns whether it was
    /// taken.
    pub fn watched(&mut self, object: &impl ResourceExt, status: S) -> bool {
        let is_behind = match (self.answered, version(object)) {
            (Some((answered, at)), Some(watched)) => {
                watched < answered && at.elapsed() < WATCH_BEHIND_MAX
            }
            _ => false,
        };
        if !is_behind {
            self.status = status;
        }
        !is_behind
    }
}

/// Resource versions of Kubernetes' API are whole numbers that grow (KEP-5504).
fn version(object: &impl ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(version: &str) -> Pod {
        let value = json_tree::json!({"metadata": {"resourceVersion": version}});
        json_tree::from_value(value).unwrap()
    }

    // findings R18
    #[tokio::test(start_paused = true)]
    async fn the_newest_of_answer_and_watch_counts() {
        let mut known = KnownStatus::new("at first");
        assert!(known.watched(&pod("5"), "of others"));
        known.answered(&pod("7"), "own");
        assert!(!known.watched(&pod("6"), "of others, before"));
        assert_eq!(known.get(), &"own");
        assert!(known.watched(&pod("9"), "of others, after"));
        assert_eq!(known.get(), &"of others, after");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_whose_versions_begin_again_is_believed_in_the_end() {
        let mut known = KnownStatus::new("at first");
        known.answered(&pod("700"), "own");
        assert!(!known.watched(&pod("3"), "restored"));
        tokio::time::advance(WATCH_BEHIND_MAX).await;
        assert!(known.watched(&pod("3"), "restored"));
    }
}
