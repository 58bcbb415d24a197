//! A reduced pod for components that watch all pods: the controllers and the scheduler.
//!
//! A decoded pod takes several times the memory of its text. Most of this memory is for fields that only its node
//! reads, and most of the other fields are equal in all pods of a template. A view contains the fields for decisions:
//! the pod's own fields are stored together, and equal specifications are shared ([`Sharing`]). A view is read-only;
//! a component that needs more of a pod reads the pod from the API server.

mod sharing;
mod spec;
mod status;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ObjectReference, Pod, PodSpec};
use object_model::{ObjectIdentity, ObjectKey, Quantity, ResourceVersion, Uid};

pub use sharing::Sharing;

use crate::well_known::annotations::{
    ENDS_WITH_LEASE, HEALTH_CHECK, HOOK, HOOK_DONE, POD_DELETION_COST, RECOVERY_CHECK,
};
use crate::well_known::labels::{
    JOB_COMPLETION_INDEX, JOB_INDEX_FAILURES, JOB_INDEX_IGNORED_FAILURES,
};

/// The annotations that a view contains.
pub const ANNOTATIONS: [&str; 9] = [
    ENDS_WITH_LEASE,
    HEALTH_CHECK,
    HOOK,
    HOOK_DONE,
    RECOVERY_CHECK,
    POD_DELETION_COST,
    JOB_COMPLETION_INDEX,
    JOB_INDEX_FAILURES,
    JOB_INDEX_IGNORED_FAILURES,
];

/// A text that several pods may share.
pub type Text = Arc<str>;

/// The parts of a pod that components hold in memory for all pods.
///
/// The fields that every plan reads are first, so that reading thousands of pods touches little memory.
#[derive(Clone, Debug, PartialEq)]
#[repr(C)]
pub struct PodView {
    /// `metadata.name`.
    pub name: Text,
    /// `metadata.namespace`.
    pub namespace: Text,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The owner reference with `controller: true`.
    pub controller: Option<Arc<Controller>>,
    /// `status.conditions`.
    pub conditions: Box<[Condition]>,
    /// `status.phase`.
    pub phase: Phase,
    /// `None` unless the pod is being deleted.
    pub deletion: Option<Deletion>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion` of the pod from which the view was created.
    pub resource_version: ResourceVersion,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// The annotations with the keys in [`ANNOTATIONS`].
    pub annotations: Labels,
    /// `metadata.finalizers`.
    pub finalizers: Box<[Text]>,
    /// `spec.nodeName`, never empty.
    pub node: Option<Text>,
    /// `status.nominatedNodeName`, never empty.
    pub nominated: Option<Text>,
    /// `spec.hostname`, never empty.
    pub hostname: Option<Text>,
    /// The claims of the pod's volumes.
    pub claims: Box<[Claim]>,
    /// The specification, shared with other pods of the template, without fields that only the node reads. It
    /// contains neither `nodeName` nor `hostname`, and of `volumes` only directories of the node (`hostPath`).
    pub spec: Arc<PodSpec>,
    /// `status.reason`.
    pub reason: Option<Text>,
    /// `status.message`.
    pub message: Option<Text>,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// The states of the init containers.
    pub init_containers: Box<[Container]>,
    /// The states of the containers.
    pub containers: Box<[Container]>,
    /// `status.podIPs` without duplicates.
    pub addresses: Box<[Text]>,
    /// The ResourceClaims that were created for the pod, by their names in the pod.
    pub device_claims: Option<Box<BTreeMap<Text, Text>>>,
    /// The allocated pod-level resources, if they differ from the pod's requests.
    pub allocated: Option<Box<BTreeMap<String, Quantity>>>,
}

/// Labels or annotations, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Text, Text)]>);

/// The owner that controls a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Controller {
    /// `apiVersion` of the owner reference.
    pub api_version: Text,
    /// `kind` of the owner reference.
    pub kind: Text,
    /// `name` of the owner reference.
    pub name: Text,
    /// `uid` of the owner reference.
    pub uid: Uid,
}

/// A deletion that has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The end of the grace period.
    pub deadline: Timestamp,
    /// The grace period in seconds.
    pub grace: i64,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub name: Text,
    /// Whether the claim belongs to an ephemeral volume.
    pub ephemeral: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The pod has no status yet.
    #[default]
    Unset,
    /// Not all containers have started.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers have succeeded.
    Succeeded,
    /// All containers have terminated, and at least one has failed.
    Failed,
    /// The node is unreachable.
    Unknown,
}

/// A condition of a pod; equal texts of many pods are stored once.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    condition_texts: Arc<ConditionTexts>,
    /// `lastTransitionTime`.
    pub since: Option<Timestamp>,
}

/// The texts of a condition, which are equal for most pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ConditionTexts {
    kind: Text,
    status: Text,
    reason: Option<Text>,
    message: Option<Text>,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub name: Text,
    /// Whether the container is ready; for an init container, whether it has completed.
    pub ready: bool,
    /// Whether the container has started, including its startup probe and `postStart` hook.
    pub started: bool,
    /// `restartCount` of the status.
    pub restarts: i32,
    pub state: RunState,
    /// The termination of the previous run.
    pub last_end: Option<Box<ContainerStateTerminated>>,
    /// The allocated resources, if they differ from the container's requests.
    pub allocated: Option<Box<BTreeMap<String, Quantity>>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum RunState {
    /// The container has no status yet.
    #[default]
    Unset,
    /// The container does not run yet, or waits for its restart.
    Waiting {
        /// May be empty.
        reason: Text,
        /// May be empty.
        message: Text,
    },
    /// Running since this time.
    Running(Option<Timestamp>),
    /// The container has ended.
    Ended(Box<ContainerStateTerminated>),
}

impl PodView {
    /// A pod with an empty spec and without a status.
    pub fn new(identity: ObjectIdentity) -> Self {
        Self {
            name: identity.key.name,
            namespace: identity.key.namespace,
            labels: Labels::default(),
            controller: None,
            conditions: Box::default(),
            phase: Phase::default(),
            deletion: None,
            created: None,
            uid: identity.uid,
            resource_version: identity.version,
            generation: None,
            annotations: Labels::default(),
            finalizers: Box::default(),
            node: None,
            nominated: None,
            hostname: None,
            claims: Box::default(),
            spec: Arc::default(),
            reason: None,
            message: None,
            started: None,
            init_containers: Box::default(),
            containers: Box::default(),
            addresses: Box::default(),
            device_claims: None,
            allocated: None,
        }
    }

    /// The key of the pod, which shares the texts of the view.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.clone(), self.name.clone())
    }

    /// Whether the pod is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.deletion.is_some()
    }

    /// Whether the node stops the pod when the node's Lease has expired.
    pub fn ends_with_lease(&self) -> bool {
        self.annotations.get(ENDS_WITH_LEASE).is_some()
    }

    /// Whether the pod's volumes use claims.
    pub fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Whether the phase is `Succeeded` or `Failed`.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }

    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind() == kind)
    }

    /// The condition `Ready`, if its status is `True`.
    pub fn ready(&self) -> Option<&Condition> {
        let ready = self.condition(crate::well_known::reasons::pod_condition::READY);
        ready.filter(|condition| condition.holds())
    }

    /// The reference to the pod, for events.
    pub fn reference(&self) -> ObjectReference {
        let text = |text: &Text| Some(text.to_string()).filter(|text| !text.is_empty());
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: text(&self.namespace),
            name: text(&self.name),
            uid: Some(self.uid.to_string()),
            resource_version: Some(self.resource_version.to_string()),
            field_path: None,
        }
    }
}

impl TryFrom<Pod> for PodView {
    type Error = serde_json::Error;

    fn try_from(pod: Pod) -> Result<Self, Self::Error> {
        Self::try_from(&pod)
    }
}

impl TryFrom<&Pod> for PodView {
    type Error = serde_json::Error;

    /// Fails if the pod has no complete identity.
    fn try_from(pod: &Pod) -> Result<Self, Self::Error> {
        Sharing::default().pod(pod)
    }
}

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        // Pods have few labels, and the comparison of texts compares lengths first.
        let entry = self.0.iter().find(|(name, _)| **name == *key);
        entry.map(|(_, value)| &**value)
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl Condition {
    /// A condition without reason and message.
    pub fn new(kind: &str, status: &str, since: Option<Timestamp>) -> Self {
        let text = ConditionTexts {
            kind: kind.into(),
            status: status.into(),
            reason: None,
            message: None,
        };
        Self {
            condition_texts: Arc::new(text),
            since,
        }
    }

    /// For instance `Ready`.
    pub fn kind(&self) -> &str {
        &self.condition_texts.kind
    }

    /// `True`, `False` or `Unknown`.
    pub fn status(&self) -> &str {
        &self.condition_texts.status
    }

    /// Whether its status is `True`.
    pub fn holds(&self) -> bool {
        self.status() == "True"
    }

    /// A single word.
    pub fn reason(&self) -> Option<&str> {
        self.condition_texts.reason.as_deref()
    }

    pub fn message(&self) -> Option<&str> {
        self.condition_texts.message.as_deref()
    }
}

impl Container {
    /// The termination, if the container does not run any more.
    pub fn end(&self) -> Option<&ContainerStateTerminated> {
        match &self.state {
            RunState::Ended(end) => Some(end),
            _ => None,
        }
    }
}
