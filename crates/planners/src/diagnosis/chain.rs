//! The answer to "why": chains from what was asked about to the causes.

use jiff::Timestamp;

use super::remedy::Remedy;

/// An object, as far as an answer names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Kind, as in manifests.
    pub kind: &'static str,
    /// Namespace, if the kind has any.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// What is known of one object, and waits for the next link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// About what.
    pub object: Object,
    /// About which of the pod's containers.
    pub container: Option<String>,
    /// For machines: a word.
    pub reason: String,
    /// For people: one line.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// If an event says so: how often and when last.
    pub seen: Option<Seen>,
    /// The last lines of the container's log, where they may tell more.
    pub log: Log,
}

/// The last lines of a container's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// They would not help.
    #[default]
    NotWanted,
    /// Whoever can read logs may put them here.
    Wanted {
        /// The log of the run before the present one.
        previous: bool,
    },
    /// The lines.
    Read(Vec<String>),
}

/// How often something was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How often.
    pub count: i32,
    /// When last.
    pub last: Timestamp,
}

/// From the object asked about, or from its pods, to one root cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The links; the last is the root cause.
    pub links: Vec<Link>,
    /// What would unblock it.
    pub remedy: Remedy,
    /// Pods that are held up by the same in their own way.
    pub likewise: Vec<String>,
}

/// Whether something is waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is.
    Fine,
    /// Something is; the chains say what.
    Waiting,
}

impl State {
    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "Fine",
            Self::Waiting => "Waiting",
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked about.
    pub object: Object,
    /// How it is, in one line.
    pub summary: String,
    /// Why; empty if nothing is waiting.
    pub chains: Vec<Chain>,
    /// What is as somebody wants it, and yet worth knowing.
    pub notes: Vec<String>,
}

impl Explanation {
    /// Whether something is waiting.
    pub fn state(&self) -> State {
        if self.chains.is_empty() {
            State::Fine
        } else {
            State::Waiting
        }
    }
}

impl Object {
    /// An object of that kind.
    pub fn new(kind: &'static str, namespace: Option<&str>, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// `sts/web`, as kubectl and `mainstay why` take it.
    pub fn short(&self) -> String {
        let kind = match self.kind {
            "StatefulSet" => "sts".to_owned(),
            "PersistentVolumeClaim" => "pvc".to_owned(),
            "PersistentVolume" => "pv".to_owned(),
            other => other.to_lowercase(),
        };
        format!("{kind}/{}", self.name)
    }
}
