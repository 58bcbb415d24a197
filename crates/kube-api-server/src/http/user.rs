//! The user of a request: name, groups and further attributes from authentication.

use std::collections::BTreeMap;

use json_tree::{Value, json};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// For instance `system:kube-scheduler`.
    pub name: String,
    /// Empty if the user has no UID.
    pub uid: String,
    /// For instance `system:masters`.
    pub groups: Vec<String>,
    /// Further attributes, for instance the pod to which a token is bound.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        Self {
            name: name.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// `system:anonymous` in the group `system:unauthenticated`.
    pub(crate) fn anonymous() -> Self {
        Self::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// The name under which limits count the user: a namespace with all its service accounts, because its
    /// administrators can create any number of accounts; or the user itself.
    pub(crate) fn sender(&self) -> &str {
        let account = self.name.strip_prefix(SERVICE_ACCOUNT);
        match account.and_then(|account| account.find(':')) {
            Some(end) => &self.name[..SERVICE_ACCOUNT.len() + end],
            None => &self.name,
        }
    }

    /// As a `UserInfo` of `authentication.k8s.io`.
    pub(crate) fn to_json(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    /// Adds the group `system:authenticated`.
    pub(crate) fn authenticated(mut self) -> Self {
        if !self.is_anonymous() && !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// The prefix of the user names of service accounts; the namespace follows.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
pub(crate) const ANONYMOUS: &str = "system:anonymous";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S38
    #[test]
    fn the_accounts_of_a_namespace_are_one_sender() {
        let sender = |name: &str| UserInfo::new(name, [""; 0]).sender().to_owned();
        assert_eq!(
            sender("system:serviceaccount:a:b"),
            "system:serviceaccount:a"
        );
        assert_eq!(
            sender("system:serviceaccount:a:c"),
            "system:serviceaccount:a"
        );
        assert_eq!(sender("system:node:a"), "system:node:a");
        assert_eq!(sender("alice"), "alice");
    }
}
