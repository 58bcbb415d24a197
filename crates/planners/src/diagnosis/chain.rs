//! The answer to "why": chains from what was asked about to the causes.

use jiff::Timestamp;

use super::kinds::TargetKind;
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
    /// That all is as it should be.
    pub(super) fn fine(object: Object, summary: impl Into<String>) -> Self {
        Self {
            object,
            summary: summary.into(),
            chains: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// What holds the object up.
    pub(super) fn waits(mut self, chains: impl IntoIterator<Item = Chain>) -> Self {
        self.chains.extend(chains);
        self
    }

    /// What is as somebody wants it.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

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
        let kind = TargetKind::of_kind(self.kind);
        let kind = kind.map_or_else(|| self.kind.to_lowercase(), |kind| kind.short().to_owned());
        format!("{kind}/{}", self.name)
    }
}

/// Chains that end in the same words are one.
pub(super) fn merged(chains: Vec<Chain>) -> Vec<Chain> {
    let mut merged: Vec<Chain> = Vec::new();
    for chain in chains {
        let root = |chain: &Chain| {
            let last = chain.links.last()?;
            Some((last.object.kind, last.reason.clone(), last.message.clone()))
        };
        let pod = |chain: &Chain| {
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
