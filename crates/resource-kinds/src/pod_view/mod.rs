//! A pod as those keep it who watch all pods: the controllers and the scheduler.
//!
//! A decoded pod takes several times the memory of its text, most of it for what only its node
//! reads, and most of the rest is the same in all pods of a template. A view has what decisions are
//! made from: what is the pod's own lies together, what it has in common with others is shared
//! ([`Sharing`]). It is read-only; whoever needs more of a pod asks the server.

mod sharing;
mod spec;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ObjectReference, Pod, PodSpec};
use object_model::Quantity;

pub use sharing::Sharing;

use crate::well_known::annotations::POD_DELETION_COST;
use crate::well_known::labels::{
    JOB_COMPLETION_INDEX, JOB_INDEX_FAILURES, JOB_INDEX_IGNORED_FAILURES,
};

/// The annotations that a view has.
pub const ANNOTATIONS: [&str; 4] = [
    POD_DELETION_COST,
    JOB_COMPLETION_INDEX,
    JOB_INDEX_FAILURES,
    JOB_INDEX_IGNORED_FAILURES,
];

/// A text that several pods may share.
pub type Text = Arc<str>;

/// A pod.
///
/// What every plan reads comes first, so that reading thousands of pods reads little more than that.
#[derive(Clone, Debug, Default, PartialEq)]
#[repr(C)]
pub struct PodView {
    /// Name.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
    /// Labels.
    pub labels: Labels,
    /// The owner that controls it.
    pub controller: Option<Arc<Controller>>,
    /// Conditions.
    pub conditions: Box<[Condition]>,
    /// Where in its life it is.
    pub phase: Phase,
    /// That it is being deleted.
    pub deletion: Option<Deletion>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Identity.
    pub uid: Text,
    /// The state that was seen.
    pub resource_version: Text,
    /// How often what it asks for has changed.
    pub generation: Option<i64>,
    /// Those annotations that are in [`ANNOTATIONS`].
    pub annotations: Labels,
    /// What has to be done before it may go.
    pub finalizers: Box<[Text]>,
    /// Name of its node, never empty.
    pub node: Option<Text>,
    /// Name of the node on which a place is being made for it, never empty.
    pub nominated: Option<Text>,
    /// `spec.hostname`, never empty.
    pub hostname: Option<Text>,
    /// The claims that its volumes use.
    pub claims: Box<[Claim]>,
    /// What it has in common with other pods of its template, without what only its node reads.
    /// `nodeName`, `hostname` and `volumes` are not here.
    pub spec: Arc<PodSpec>,
    /// Why it is where in its life it is, in a word.
    pub reason: Option<Text>,
    /// The same for people.
    pub message: Option<Text>,
    /// When its node took it on.
    pub started: Option<Timestamp>,
    /// How its init containers do.
    pub init_containers: Box<[Container]>,
    /// How its containers do.
    pub containers: Box<[Container]>,
    /// Its addresses, each once.
    pub addresses: Box<[Text]>,
    /// The ResourceClaims that were made for it, by their names in the pod.
    pub device_claims: Option<Box<BTreeMap<Text, Text>>>,
    /// What it has of its node as a whole by name, where it has resources of its own and these are
    /// not what it asks for.
    pub held: Option<Box<BTreeMap<String, Quantity>>>,
}

/// Labels or annotations, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Text, Text)]>);

/// The object that controls a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Controller {
    /// API version.
    pub api_version: Text,
    /// Kind.
    pub kind: Text,
    /// Name.
    pub name: Text,
    /// Identity.
    pub uid: Text,
}

/// A deletion that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// When the pod is to be gone.
    pub deadline: Timestamp,
    /// The time it has to stop, in seconds.
    pub grace: i64,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name.
    pub name: Text,
    /// Whether it is made for this pod and goes with it.
    pub ephemeral: bool,
}

/// Where in its life a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has said yet.
    #[default]
    Unset,
    /// Not all containers have started.
    Pending,
    /// At least one container runs.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Nobody can tell.
    Unknown,
}

/// A condition: what it says, and since when.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    said: Arc<Said>,
    /// Since when its status is what it is.
    pub since: Option<Timestamp>,
}

/// What a condition says; the same for most pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    kind: Text,
    status: Text,
    reason: Option<Text>,
    message: Option<Text>,
}

/// How a container does.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Name.
    pub name: Text,
    /// Whether it takes requests, or, of an init container, has done its work.
    pub ready: bool,
    /// Whether it has started, its startup probe and hook included.
    pub started: bool,
    /// How often it was started again.
    pub restarts: i32,
    /// What it does now.
    pub state: State,
    /// How the run before this one ended.
    pub last_end: Option<Box<ContainerStateTerminated>>,
    /// What it has of its node by name, while that is not what it asks for.
    pub held: Option<Box<BTreeMap<String, Quantity>>>,
}

/// What a container does.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum State {
    /// Nobody has said yet.
    #[default]
    Unset,
    /// It does not run yet.
    Waiting {
        /// Why, in a word; may be empty.
        reason: Text,
        /// Why, for people; may be empty.
        message: Text,
    },
    /// It runs, since then.
    Running(Option<Timestamp>),
    /// It has ended.
    Ended(Box<ContainerStateTerminated>),
}

impl PodView {
    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.deletion.is_some()
    }

    /// Whether it has ended.
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

    /// Its Ready condition, if that holds.
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
        Sharing::default().pod(pod)
    }
}

impl From<&Pod> for PodView {
    fn from(pod: &Pod) -> Self {
        pod.clone().into()
    }
}

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        // Pods have few, and lengths are compared first.
        let found = self.0.iter().find(|(name, _)| **name == *key);
        found.map(|(_, value)| &**value)
    }
}

impl Condition {
    /// A condition that gives no reason.
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

    /// Its type.
    pub fn kind(&self) -> &str {
        &self.said.kind
    }

    /// `True`, `False` or `Unknown`.
    pub fn status(&self) -> &str {
        &self.said.status
    }

    /// Whether its status is `True`.
    pub fn holds(&self) -> bool {
        self.status() == "True"
    }

    /// Why, in a word.
    pub fn reason(&self) -> Option<&str> {
        self.said.reason.as_deref()
    }

    /// Why, for people.
    pub fn message(&self) -> Option<&str> {
        self.said.message.as_deref()
    }
}

impl Container {
    /// How it ended, if it does not run any more.
    pub fn end(&self) -> Option<&ContainerStateTerminated> {
        match &self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }
}
