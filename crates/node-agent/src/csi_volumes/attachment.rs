//! Attached volumes: the node reports the volumes in use, and waits for volumes that are not attached yet.
//!
//! The order keeps a volume from being detached while a pod uses it. First the node reports the volume as
//! in use in its status; then it reads that the volume is attached. The controller reads a Node that does
//! not use the volume, removes the volume from `volumesAttached` with the resourceVersion of that Node, and
//! then detaches the volume.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube_api_client::{Api, Client};
use process_telemetry::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::CsiVolumeError;
use super::request::VolumeId;
use crate::api::objects::in_time;

/// The longest wait in one attempt to mount.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The delay after the first read, and the longest delay; the delay doubles after each read. The values are those of
/// kubelet.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const DELAY_MAX: Duration = Duration::from_millis(500);

/// The attached volumes in use, by their unique names: volumes with a record on disk, and volumes that a pod waits for.
#[derive(Debug)]
pub struct VolumesInUse {
    names: watch::Sender<BTreeSet<String>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recorded: BTreeSet<String>,
    /// The number of pods that wait for a volume.
    expected: BTreeMap<String, usize>,
}

/// A pod that waits for a volume. The wait ends when the value is dropped.
pub struct AwaitedAttachment<'a> {
    volumes_in_use: &'a VolumesInUse,
    name: String,
}

impl Drop for AwaitedAttachment<'_> {
    fn drop(&mut self) {
        self.volumes_in_use.change(|state| {
            if let Some(count) = state.expected.get_mut(&self.name) {
                *count -= 1;
            }
            state.expected.retain(|_, count| *count > 0);
        });
    }
}

impl VolumesInUse {
    /// The set with the volumes that a former agent has recorded on disk.
    pub fn new(recorded: BTreeSet<String>) -> Self {
        Self {
            names: watch::Sender::new(recorded.clone()),
            state: Mutex::new(State {
                recorded,
                expected: BTreeMap::new(),
            }),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let names = state.recorded.iter().chain(state.expected.keys());
        let names: BTreeSet<String> = names.cloned().collect();
        self.names
            .send_if_modified(|former| std::mem::replace(former, names.clone()) != names);
    }

    /// Registers a pod that waits for a volume.
    pub fn expect(&self, name: String) -> AwaitedAttachment<'_> {
        self.change(|state| *state.expected.entry(name.clone()).or_default() += 1);
        AwaitedAttachment {
            volumes_in_use: self,
            name,
        }
    }

    /// Adds a volume that has a record on disk.
    pub fn record(&self, name: String) {
        self.change(|state| {
            state.recorded.insert(name);
        });
    }

    /// Removes a volume whose record on disk was deleted.
    pub fn forget(&self, name: &str) {
        self.change(|state| {
            state.recorded.remove(name);
        });
    }

    /// A receiver of the names of all volumes in use; it is notified of each change.
    pub fn changes(&self) -> watch::Receiver<BTreeSet<String>> {
        self.names.subscribe()
    }
}

/// Whether the status of the Node names the volume both as in use and as attached.
fn is_ready(status: &NodeStatus, name: &str) -> bool {
    let in_use = status.volumes_in_use.iter().flatten();
    let mut attached = status.volumes_attached.iter().flatten();
    in_use.into_iter().any(|used| used == name) && attached.any(|volume| volume.name == name)
}

/// Waits until the volume is attached to the node. Returns the attachment metadata of the driver.
///
/// # Errors
/// The error of the attacher, or the volume was not attached in time.
pub async fn wait(
    client: &Client,
    node: &str,
    id: &VolumeId,
) -> Result<BTreeMap<String, String>, CsiVolumeError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let attachments: Api<VolumeAttachment> = Api::all(client.clone());
    let (name, attachment) = (id.unique_name(), id.attachment(node));
    let deadline = Instant::now() + WAIT_MAX;
    let mut backoff = Backoff::new(FIRST_DELAY, DELAY_MAX);
    loop {
        let current = in_time(nodes.get(node)).await?;
        if is_ready(&current.status.unwrap_or_default(), &name) {
            let object = in_time(attachments.get_opt(&attachment)).await?;
            let status = object.and_then(|object| object.status);
            if let Some(status) = status.filter(|status| status.attached) {
                return Ok(status.attachment_metadata.unwrap_or_default());
            }
        }
        if Instant::now() >= deadline {
            return Err(not_attached(&attachments, &attachment, &name).await);
        }
        tokio::time::sleep(backoff.fail()).await;
    }
}

async fn not_attached(api: &Api<VolumeAttachment>, attachment: &str, name: &str) -> CsiVolumeError {
    let object = in_time(api.get_opt(attachment)).await.ok().flatten();
    let error = object.and_then(|object| object.status?.attach_error?.message);
    let volume = name.to_owned();
    match error {
        Some(message) => CsiVolumeError::NotAttached { volume, message },
        None => CsiVolumeError::AttachTimeout(volume),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_volume_is_in_use_while_a_pod_waits_for_it_or_a_record_is_there() {
        let volumes_in_use = VolumesInUse::new(["old".to_owned()].into());
        let names = || {
            volumes_in_use
                .names
                .borrow()
                .iter()
                .cloned()
                .collect::<Vec<_>>()
        };
        let (first, second) = (
            volumes_in_use.expect("a".to_owned()),
            volumes_in_use.expect("a".to_owned()),
        );
        drop(first);
        assert_eq!(names(), ["a", "old"]);
        volumes_in_use.record("a".to_owned());
        drop(second);
        assert_eq!(names(), ["a", "old"]);
        volumes_in_use.forget("a");
        volumes_in_use.forget("old");
        assert!(names().is_empty());
    }

    #[test]
    fn a_volume_is_ready_when_both_sides_say_so() {
        let is_ready_with = |used: &[&str], attached: &[&str]| {
            let attached: Vec<_> = attached
                .iter()
                .map(|name| json!({"name": name, "devicePath": ""}))
                .collect();
            let status = json!({"volumesInUse": used, "volumesAttached": attached});
            is_ready(&json_tree::from_value(status).unwrap(), "a")
        };
        assert!(is_ready_with(&["b", "a"], &["a"]));
        assert!(
            !is_ready_with(&["b"], &["a"])
                && !is_ready_with(&["a"], &["b"])
                && !is_ready_with(&[], &[])
        );
    }
}
