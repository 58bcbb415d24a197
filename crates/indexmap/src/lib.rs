//! A map in the order of insertion, small and cheap for few entries.
//!
//! Every object of a JSON tree is such a map (`serde_json` with `preserve_order`), and nearly all of them have
//! less than ten fields. The published crate of this name gives each map a hash table and a hasher of its own
//! and keeps a hash in each entry: 72 bytes for a map, a second allocation, and a hash for each look-up. Here a
//! map of up to [`SEARCHED_MAX`] entries is a list that is searched from the start; a larger one has an index
//! beside the list. The hashes of the index have random keys, against keys that are chosen to collide.
//!
//! Only what the dependencies of this workspace call is here, by the names and rules of the published crate.

mod core;
pub mod map;
mod set;

pub use map::IndexMap;
pub use set::IndexSet;

/// Maps up to this length have no index.
pub const SEARCHED_MAX: usize = 24;
