//! Revisions of etcd, which differ from those of the store by an offset (`origin`).

/// A revision as etcd counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EtcdRevision(pub(crate) u64);

impl EtcdRevision {
    /// The number in a message, which is signed there.
    pub(crate) fn to_message(self) -> i64 {
        self.0.cast_signed()
    }

    pub(crate) fn of_message(number: i64) -> Self {
        Self(number.cast_unsigned())
    }
}
