//! The rules of deletion for a kind.

use json_tree::Value;

use super::FieldRead;

/// The default methods are those of most kinds.
pub trait Deletion: Send + Sync {
    /// The grace period in seconds; `_requested` is the period in the request. 0 removes the object at once. Only pods
    /// that run on a node have a grace period.
    fn grace_seconds(&self, _object: &Value, _requested: Option<i64>) -> i64 {
        0
    }

    /// Whether the deletion of an object that stays for now sets `deletionGracePeriodSeconds` and counts as a generation.
    fn sets_grace(&self) -> bool {
        true
    }

    /// The parts outside of the metadata of which a deletion and its admission read only some fields, with these
    /// fields. All fields of other parts may be read.
    fn reads(&self) -> &'static [FieldRead] {
        &[]
    }

    /// Whether a deletion without a propagation policy orphans the dependents.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The warning for a deletion without a propagation policy.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }
}
