//! The ServiceAccounts of the components that run on every node, beside the node agent.

use super::namespaces::KUBE_SYSTEM;

/// The key of a user's `extra` with the name of the node that a token is bound to.
pub const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";

/// A ServiceAccount of `kube-system` that each node may have tokens of, bound to its own Node object
/// (KEP-4193).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAccount {
    /// The proxy of Services and the routes between nodes; the name is kubeadm's.
    Proxy,
    /// The DNS server.
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

    /// The name of the user that the ServiceAccount is.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Proxy => "system:serviceaccount:kube-system:kube-proxy",
            Self::Dns => "system:serviceaccount:kube-system:mainstay-dns",
            Self::Provisioner => "system:serviceaccount:kube-system:mainstay-provisioner",
        }
    }

    /// The account of a namespace and a name, if it is one of nodes.
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
