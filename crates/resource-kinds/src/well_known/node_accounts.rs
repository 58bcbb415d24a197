//! The ServiceAccounts of the components, other than the node agent, that run on every node.

use super::namespaces::KUBE_SYSTEM;

/// The key in a user's `extra` that contains the node to which a token is bound.
pub const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";

/// A ServiceAccount in `kube-system` for which each node may request tokens that are bound to its own Node object
/// (KEP-4193).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAccount {
    /// The proxy of Services and of the routes between nodes. The account has kubeadm's name.
    Proxy,
    Dns,
    /// The provisioner of local volumes.
    Provisioner,
}

impl NodeAccount {
    /// The accounts of all components of a node.
    pub const ALL: [Self; 3] = [Self::Proxy, Self::Dns, Self::Provisioner];

    /// The name of the ServiceAccount.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "kube-proxy",
            Self::Dns => "mainstay-dns",
            Self::Provisioner => "mainstay-provisioner",
        }
    }

    /// The user name of the ServiceAccount.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Proxy => "system:serviceaccount:kube-system:kube-proxy",
            Self::Dns => "system:serviceaccount:kube-system:mainstay-dns",
            Self::Provisioner => "system:serviceaccount:kube-system:mainstay-provisioner",
        }
    }

    /// The node account with this namespace and name; `None` for another account.
    pub fn find(namespace: &str, name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|account| namespace == KUBE_SYSTEM && account.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_name() {
        for account in NodeAccount::ALL {
            let name = account.name();
            assert_eq!(NodeAccount::find(KUBE_SYSTEM, name), Some(account));
            assert_eq!(NodeAccount::find("default", name), None);
            let user = format!("system:serviceaccount:{KUBE_SYSTEM}:{name}");
            assert_eq!(account.user(), user);
        }
        assert_eq!(NodeAccount::find(KUBE_SYSTEM, "default"), None);
    }
}
