//! The newest status of an object that the API server has stored, as far as this program has observed it.
//!
//! There are two sources: the responses to this node's writes, and the watch. A response arrives at once.
//! The watch also has the writes of other programs, but may be behind. The resource version decides between
//! both sources, so a status is compared with the stored status and not with the last status that was sent.
//! Other programs write statuses, too: the node lifecycle controller marks a lost node and its pods, and
//! the agent has to correct these marks. As kubelet, whose status manager compares each pod with the API's.

use std::time::Duration;

use kube_api_client::ResourceExt;
use object_model::ResourceVersion;
use resource_kinds::MetadataIdentity;
use tokio::time::Instant;

/// The newest stored status of one object.
#[derive(Clone, Debug)]
pub struct StoredStatus<S> {
    status: S,
    /// The response to this node's last write.
    response: Option<WriteResponse>,
}

#[derive(Clone, Copy, Debug)]
struct WriteResponse {
    version: ResourceVersion,
    received_at: Instant,
}

/// Maximum delay of the watch behind a response. A later status of the watch is always used, because the
/// resource versions of a restored store begin again at a lower number.
const WATCH_BEHIND_MAX: Duration = Duration::from_secs(10);

impl<S> StoredStatus<S> {
    /// Starts with the status from a read or from the watch.
    pub fn new(status: S) -> Self {
        Self {
            status,
            response: None,
        }
    }

    pub fn get(&self) -> &S {
        &self.status
    }

    /// Stores the status in the response to this node's write.
    pub fn record_response(&mut self, object: &impl ResourceExt, status: S) {
        let version = object.meta().object_version();
        self.response = version.ok().map(|version| WriteResponse {
            version,
            received_at: Instant::now(),
        });
        self.status = status;
    }

    /// Stores a status from the watch, unless the status is older than a response. Returns whether the
    /// status was stored.
    pub fn record_watched(&mut self, object: &impl ResourceExt, status: S) -> bool {
        let is_behind = match (self.response, object.meta().object_version()) {
            (Some(response), Ok(watched)) => {
                watched < response.version && response.received_at.elapsed() < WATCH_BEHIND_MAX
            }
            _ => false,
        };
        if is_behind {
            cov_mark::hit!(findings_r18);
        } else {
            self.status = status;
        }
        !is_behind
    }
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
        cov_mark::check!(findings_r18);
        let mut stored = StoredStatus::new("at first");
        assert!(stored.record_watched(&pod("5"), "of others"));
        stored.record_response(&pod("7"), "own");
        assert!(!stored.record_watched(&pod("6"), "of others, before"));
        assert_eq!(stored.get(), &"own");
        assert!(stored.record_watched(&pod("9"), "of others, after"));
        assert_eq!(stored.get(), &"of others, after");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_whose_versions_begin_again_is_believed_in_the_end() {
        let mut stored = StoredStatus::new("at first");
        stored.record_response(&pod("700"), "own");
        assert!(!stored.record_watched(&pod("3"), "restored"));
        tokio::time::advance(WATCH_BEHIND_MAX).await;
        assert!(stored.record_watched(&pod("3"), "restored"));
    }
}
