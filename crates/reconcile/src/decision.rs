//! The thread of a decision.

use host_kernel::block_in_place;

use crate::limits;

/// Makes a decision about that many objects; if they are many, the runtime continues without this thread.
pub fn decide<R>(objects: usize, decision: impl FnOnce() -> R) -> R {
    match objects > limits::DECISION_OBJECTS_MAX {
        true => block_in_place(decision),
        false => decision(),
    }
}
