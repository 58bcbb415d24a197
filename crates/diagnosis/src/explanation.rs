//! The explanation of an object: chains of causes, from the object to the root causes.

use std::borrow::Cow;

use jiff::Timestamp;
use pod_lifecycle::diagnosis::Remedy;

use super::kinds::TargetKind;

/// A reference to an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Kind as in manifests, for instance `StatefulSet`.
    pub kind: Cow<'static, str>,
    /// Namespace, for a namespaced kind.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
}

/// A fact about an object; the next finding in the chain is its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object that the finding is about.
    pub object: Object,
    /// The container of the pod.
    pub container: Option<String>,
    /// Reason for programs: one word in CamelCase.
    pub reason: String,
    /// Message for users: one line.
    pub message: String,
    /// The time since which the finding is true.
    pub since: Option<Timestamp>,
    /// The number and the last time of the event that reports the finding.
    pub series: Option<EventSeries>,
    /// The last lines of the container's log, if they may help.
    pub log: Log,
}

/// The last lines of a container's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// The log would not help.
    #[default]
    NotNeeded,
    /// A caller that can read logs may add the lines.
    Readable {
        /// Whether it is the log of the previous run.
        previous: bool,
    },
    /// The lines.
    Read(Vec<String>),
}

/// The number of occurrences of an event, and the time of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSeries {
    /// The number of occurrences.
    pub count: i32,
    /// Time of the last occurrence.
    pub last: Timestamp,
}

/// A chain of causes, from an object or one of its pods to one root cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CauseChain {
    /// The links; the last is the root cause.
    pub links: Vec<Finding>,
    /// The steps that would resolve the root cause.
    pub remedy: Remedy,
    /// Other pods with this root cause.
    pub likewise: Vec<String>,
}

/// Whether an object, or any object, waits for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitState {
    /// No object waits.
    Fine,
    /// An object waits; the chains contain the causes.
    Waiting,
}

impl WaitState {
    /// The state as the JSON output names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "Fine",
            Self::Waiting => "Waiting",
        }
    }
}

/// The explanation of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The object of the question.
    pub object: Object,
    /// The state in one line.
    pub summary: String,
    /// The causes; empty if the object does not wait.
    pub chains: Vec<CauseChain>,
    /// Intended states that users should know.
    pub notes: Vec<String>,
}

impl Explanation {
    /// An explanation of an object that does not wait.
    pub(super) fn fine(object: Object, summary: impl Into<String>) -> Self {
        Self {
            object,
            summary: summary.into(),
            chains: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds the causes of a wait.
    pub(super) fn waits(mut self, chains: impl IntoIterator<Item = CauseChain>) -> Self {
        self.chains.extend(chains);
        self
    }

    /// Adds a note on an intended state.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Whether the object waits for something.
    pub fn state(&self) -> WaitState {
        if self.chains.is_empty() {
            WaitState::Fine
        } else {
            WaitState::Waiting
        }
    }
}

impl Object {
    /// A reference to an object of that kind.
    pub fn new(kind: impl Into<Cow<'static, str>>, namespace: Option<&str>, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// `sts/web`, as kubectl and `mainstay why` accept it.
    pub fn short(&self) -> String {
        let kind = TargetKind::of_kind(&self.kind);
        let kind = kind.map_or_else(|| self.kind.to_lowercase(), |kind| kind.short().to_owned());
        format!("{kind}/{}", self.name)
    }
}

/// Merges chains whose last links have equal messages.
pub(super) fn merged(chains: Vec<CauseChain>) -> Vec<CauseChain> {
    let mut merged: Vec<CauseChain> = Vec::new();
    for chain in chains {
        let root = |chain: &CauseChain| {
            let last = chain.links.last()?;
            Some((
                last.object.kind.clone(),
                last.reason.clone(),
                last.message.clone(),
            ))
        };
        let pod = |chain: &CauseChain| {
            let mut links = chain.links.iter();
            let link = links.find(|link| link.object.kind == "Pod")?;
            Some(link.object.name.clone())
        };
        let same = merged
            .iter_mut()
            .find(|other| root(other).is_some() && root(other) == root(&chain));
        match (same, pod(&chain)) {
            (Some(same), Some(pod)) => same.likewise.push(pod),
            _ => merged.push(chain),
        }
    }
    merged
}
