//! The objection of a rule to a node.

/// A rule's objection to a node, as messages for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterFailure {
    pub texts: Vec<String>,
    /// Whether fewer pods on the node would remove the objection.
    pub is_of_pods: bool,
}

impl FilterFailure {
    /// An objection that does not depend on pods.
    pub fn lasting(text: &str) -> Self {
        Self {
            texts: vec![text.to_owned()],
            is_of_pods: false,
        }
    }

    /// An objection that depends on the node's pods.
    pub fn of_pods(text: &str) -> Self {
        Self {
            is_of_pods: true,
            ..Self::lasting(text)
        }
    }

    /// An objection with several messages that does not depend on pods; `None` without messages.
    pub fn all_lasting(texts: impl IntoIterator<Item = String>) -> Option<Self> {
        let texts: Vec<String> = texts.into_iter().collect();
        (!texts.is_empty()).then_some(Self {
            texts,
            is_of_pods: false,
        })
    }

    /// An objection with several messages that fewer pods on the node would remove; `None` without messages.
    pub fn all_of_pods(texts: impl IntoIterator<Item = String>) -> Option<Self> {
        Self::all_lasting(texts).map(|all| Self {
            is_of_pods: true,
            ..all
        })
    }
}
