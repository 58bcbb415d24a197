//! A reduced pod for components that watch all pods: the controllers and the scheduler.
//!
//! A decoded pod takes several times the memory of its text, most of it for fields that only its
//! node reads, and most of the rest is equal in all pods of a template. A view has the fields for
//! decisions: the pod's own ones are stored together, and equal specifications are shared
//! ([`Sharing`]). It is read-only; a component that needs more of a pod asks the API server.

mod sharing;
mod spec;
mod status;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ObjectReference, Pod, PodSpec};
use object_model::Quantity;

pub use sharing::Sharing;

use crate::well_known::annotations::{ENDS_WITH_LEASE, POD_DELETION_COST};
use crate::well_known::labels::{
    JOB_COMPLETION_INDEX, JOB_INDEX_FAILURES, JOB_INDEX_IGNORED_FAILURES,
};

/// The annotations that a view has.
pub const ANNOTATIONS: [&str; 5] = [
    ENDS_WITH_LEASE,
    POD_DELETION_COST,
    JOB_COMPLETION_INDEX,
    JOB_INDEX_FAILURES,
    JOB_INDEX_IGNORED_FAILURES,
];

/// A text that several pods may share.
pub type Text = Arc<str>;

/// The parts of a pod that components keep for all pods in memory.
///
/// The fields that every plan reads come first, so that reading thousands of pods touches little
/// memory.
#[derive(Clone, Debug, Default, PartialEq)]
#[repr(C)]
pub struct PodView {
    /// `metadata.name`.
    pub name: Text,
    /// `metadata.namespace`.
    pub namespace: Text,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The owner that controls it.
    pub controller: Option<Arc<Controller>>,
    /// `status.conditions`.
    pub conditions: Box<[Condition]>,
    /// `status.phase`.
    pub phase: Phase,
    /// Its deletion, if it is being deleted.
    pub deletion: Option<Deletion>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.uid`.
    pub uid: Text,
    /// `metadata.resourceVersion` that the view was made of.
    pub resource_version: Text,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Those annotations that are in [`ANNOTATIONS`].
    pub annotations: Labels,
    /// `metadata.finalizers`.
    pub finalizers: Box<[Text]>,
    /// Name of its node, never empty.
    pub node: Option<Text>,
    /// The name of its nominated node (`status.nominatedNodeName`), never empty.
    pub nominated: Option<Text>,
    /// `spec.hostname`, never empty.
    pub hostname: Option<Text>,
    /// The claims that its volumes use.
    pub claims: Box<[Claim]>,
    /// The specification that it shares with other pods of its template, without fields that only
    /// its node reads. `nodeName` and `hostname` are not here, and of `volumes` only directories of the node
    /// (`hostPath`) are.
    pub spec: Arc<PodSpec>,
    /// `status.reason`.
    pub reason: Option<Text>,
    /// `status.message`.
    pub message: Option<Text>,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// The state of its init containers.
    pub init_containers: Box<[Container]>,
    /// The state of its containers.
    pub containers: Box<[Container]>,
    /// `status.podIPs`, each once.
    pub addresses: Box<[Text]>,
    /// The ResourceClaims that were made for it, by their names in the pod.
    pub device_claims: Option<Box<BTreeMap<Text, Text>>>,
    /// The allocated pod-level resources, if they differ from its requests.
    pub held: Option<Box<BTreeMap<String, Quantity>>>,
}

/// Labels or annotations, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Text, Text)]>);

/// The object that controls a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Controller {
    /// `apiVersion` of the owner reference.
    pub api_version: Text,
    /// `kind` of the owner reference.
    pub kind: Text,
    /// `name` of the owner reference.
    pub name: Text,
    /// `uid` of the owner reference.
    pub uid: Text,
}

/// A deletion that has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The end of the grace period.
    pub deadline: Timestamp,
    /// The time it has to stop, in seconds.
    pub grace: i64,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name of the claim.
    pub name: Text,
    /// Whether it is an ephemeral volume's claim.
    pub ephemeral: bool,
}

/// The phase of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No status yet.
    #[default]
    Unset,
    /// Not all containers have started.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers have succeeded.
    Succeeded,
    /// All containers have ended, and at least one has failed.
    Failed,
    /// The node is unreachable.
    Unknown,
}

/// A condition of a pod; equal texts of many pods are stored once.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    said: Arc<Said>,
    /// The time of its last transition.
    pub since: Option<Timestamp>,
}

/// The text of a condition; the same for most pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    kind: Text,
    status: Text,
    reason: Option<Text>,
    message: Option<Text>,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Name of the container.
    pub name: Text,
    /// Whether it is ready; for an init container, whether it has completed.
    pub ready: bool,
    /// Whether it has started, including its startup probe and `postStart` hook.
    pub started: bool,
    /// `restartCount` of its status.
    pub restarts: i32,
    /// Waiting, running or terminated.
    pub state: RunState,
    /// The end of the previous run.
    pub last_end: Option<Box<ContainerStateTerminated>>,
    /// The allocated resources, if they differ from its requests.
    pub held: Option<Box<BTreeMap<String, Quantity>>>,
}

/// The state of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RunState {
    /// No status yet.
    #[default]
    Unset,
    /// The container does not run yet, or waits for its restart.
    Waiting {
        /// The reason; may be empty.
        reason: Text,
        /// The message; may be empty.
        message: Text,
    },
    /// It has been running since this time.
    Running(Option<Timestamp>),
    /// The container has ended.
    Ended(Box<ContainerStateTerminated>),
}

impl PodView {
    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.deletion.is_some()
    }

    /// Whether its node ends it when the node's lease has lapsed.
    pub fn ends_with_lease(&self) -> bool {
        self.annotations.get(ENDS_WITH_LEASE).is_some()
    }

    /// Whether its volumes use claims.
    pub fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Whether its phase is `Succeeded` or `Failed`.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }

    /// The condition of that type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind() == kind)
    }

    /// Its condition `Ready`, if the status is `True`.
    pub fn ready(&self) -> Option<&Condition> {
        let ready = self.condition(crate::well_known::reasons::pod_condition::READY);
        ready.filter(|condition| condition.holds())
    }

    /// The reference to it, for events.
    pub fn reference(&self) -> ObjectReference {
        let text = |text: &Text| Some(text.to_string()).filter(|text| !text.is_empty());
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: text(&self.namespace),
            name: text(&self.name),
            uid: text(&self.uid),
            resource_version: text(&self.resource_version),
            field_path: None,
        }
    }
}

impl From<Pod> for PodView {
    fn from(pod: Pod) -> Self {
        Self::from(&pod)
    }
}

impl From<&Pod> for PodView {
    fn from(pod: &Pod) -> Self {
        Sharing::default().pod(pod)
    }
}

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        // Pods have few, and lengths are compared first.
        let found = self.0.iter().find(|(name, _)| **name == *key);
        found.map(|(_, value)| &**value)
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl Condition {
    /// A condition without a reason.
    pub fn new(kind: &str, status: &str, since: Option<Timestamp>) -> Self {
        let said = Said {
            kind: kind.into(),
            status: status.into(),
            reason: None,
            message: None,
        };
        Self {
            said: Arc::new(said),
            since,
        }
    }

    /// The condition's type, for instance `Ready`.
    pub fn kind(&self) -> &str {
        &self.said.kind
    }

    /// The condition's status: `True`, `False` or `Unknown`.
    pub fn status(&self) -> &str {
        &self.said.status
    }

    /// Whether its status is `True`.
    pub fn holds(&self) -> bool {
        self.status() == "True"
    }

    /// The condition's reason: one word.
    pub fn reason(&self) -> Option<&str> {
        self.said.reason.as_deref()
    }

    /// The condition's message for users.
    pub fn message(&self) -> Option<&str> {
        self.said.message.as_deref()
    }
}

impl Container {
    /// The termination, if it does not run any more.
    pub fn end(&self) -> Option<&ContainerStateTerminated> {
        match &self.state {
            RunState::Ended(end) => Some(end),
            _ => None,
        }
    }
}
