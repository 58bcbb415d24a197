//! Types of the libraries that wrap one other type: pointers, results, locks.

use super::index::Type;

/// Types that have the methods of their first argument.
pub const POINTERS: &[&str] = &[
    "Arc",
    "Box",
    "Cow",
    "LazyLock",
    "MutexGuard",
    "OwnedMutexGuard",
    "Pin",
    "Rc",
    "RwLockReadGuard",
    "RwLockWriteGuard",
];

/// Methods whose result has the type of their receiver.
pub const SAME_TYPE: &[&str] = &[
    "as_deref",
    "as_mut",
    "as_path",
    "as_ref",
    "boxed",
    "clone",
    "cloned",
    "context",
    "copied",
    "filter",
    "iter",
    "iter_mut",
    "into_iter",
    "map_err",
    "ok",
    "ok_or",
    "ok_or_else",
    "rev",
    "take",
    "to_owned",
    "with_context",
];

/// Methods whose result has the type of the first argument.
pub const INNER_TYPE: &[&str] = &[
    "borrow",
    "borrow_mut",
    "expect",
    "first",
    "get_mut",
    "last",
    "lock",
    "next",
    "read",
    "unwrap",
    "unwrap_or",
    "unwrap_or_default",
    "unwrap_or_else",
    "write",
];

/// Types that [`INNER_TYPE`] opens.
pub const CONTAINERS: &[&str] = &[
    "[]",
    "BoxFuture",
    "Future",
    "Mutex",
    "OnceLock",
    "Option",
    "RefCell",
    "Result",
    "RwLock",
    "Vec",
    "VecDeque",
];

/// The type inside a type that may be empty, failed, shared or awaited.
pub fn inner(of: &Type) -> Type {
    match of.args.first() {
        Some(arg) if CONTAINERS.contains(&of.name()) => arg.clone(),
        _ => of.clone(),
    }
}

/// The type that a pointer points to.
pub fn pointed(of: &Type) -> Option<Type> {
    let is_pointer = POINTERS.contains(&of.name());
    of.args.first().filter(|_| is_pointer).cloned()
}
