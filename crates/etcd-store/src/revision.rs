//! Revisions of etcd, which differ from those of the store by an offset (`origin`).

/// A revision as etcd counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EtcdRevision(pub(crate) u64);
