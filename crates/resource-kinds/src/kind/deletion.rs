//! Deletion.

use json_tree::Value;

use super::FieldRead;

/// The rules of deletion. The defaults are those of most kinds.
pub trait Deletion: Send + Sync {
    /// The grace period in seconds, if the request names one; 0 removes the object at
    /// once. Only pods that run on a node have one.
    fn grace_seconds(&self, _object: &Value, _asked: Option<i64>) -> i64 {
        0
    }

    /// The parts outside of the metadata of which a deletion and its admission read some fields only,
    /// with these fields; of all others they may read all.
    fn reads(&self) -> &'static [FieldRead] {
        &[]
    }

    /// Whether a deletion without a propagation policy leaves the dependents behind.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The warning for a deletion without a propagation policy.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }
}
