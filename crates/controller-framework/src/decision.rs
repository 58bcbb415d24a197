//! The thread on which a decision is computed.

use host_kernel::block_in_place;

use crate::limits;

/// Computes a decision about the given number of objects. If the number is large, the runtime continues on other
/// threads.
pub fn decide<R>(objects: usize, decision: impl FnOnce() -> R) -> R {
    match objects > limits::DECISION_OBJECTS_MAX {
        true => block_in_place(decision),
        false => decision(),
    }
}
