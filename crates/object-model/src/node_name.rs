//! The identity of a node. The signer, the approver, the authoriser and admission all use this parser.

use std::fmt;

use crate::names::dns_subdomain;

/// The group of all nodes.
pub const NODES: &str = "system:nodes";

const USER: &str = "system:node:";

/// The name of a node, which is a valid name of a Node object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName<'a>(&'a str);

impl<'a> NodeName<'a> {
    /// `None` if no Node object can have the name.
    pub fn parse(name: &'a str) -> Option<Self> {
        if !dns_subdomain(name).is_empty() {
            cov_mark::hit!(findings_2_s35);
            return None;
        }
        Some(Self(name))
    }

    /// The node in a user name, whatever the groups of the user are.
    pub fn of_user(user: &'a str) -> Option<Self> {
        Self::parse(user.strip_prefix(USER)?)
    }

    /// The node of a user: the user must have a node's user name, and be in the group of nodes.
    pub fn of_identity(user: &'a str, groups: &[impl AsRef<str>]) -> Option<Self> {
        let is_member = groups.iter().any(|group| group.as_ref() == NODES);
        Self::of_user(user).filter(|_| is_member)
    }

    /// Whether a user name has the form of a node's user name, even with an invalid node name.
    pub fn is_claimed_by(user: &str) -> bool {
        user.starts_with(USER)
    }

    /// The name of the Node object.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The user name of the node.
    pub fn user(self) -> String {
        format!("{USER}{}", self.0)
    }
}

impl fmt::Display for NodeName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S35
    #[test]
    fn a_node_is_a_member_of_the_group_with_the_name_of_a_node() {
        cov_mark::check!(findings_2_s35);
        let long = "a".repeat(254);
        for (name, is_node) in [
            ("n1", true),
            ("n1.example.com", true),
            ("", false),
            ("VM-3", false),
            ("n1 ", false),
            ("-n1", false),
            ("a..b", false),
            ("n1/../n2", false),
            ("n1:n2", false),
            (long.as_str(), false),
        ] {
            let user = format!("system:node:{name}");
            let of = |groups: &[&str]| NodeName::of_identity(&user, groups).map(NodeName::user);
            let expected = is_node.then(|| user.clone());
            assert_eq!(of(&["system:authenticated", "system:nodes"]), expected);
            assert_eq!(of(&["system:authenticated"]), None, "{name}");
            assert_eq!(of(&["system:nodes2"]), None, "{name}");
        }
        for user in ["n1", "system:node", "System:node:n1", " system:node:n1"] {
            assert_eq!(NodeName::of_identity(user, &[NODES]), None, "{user}");
        }
    }
}
