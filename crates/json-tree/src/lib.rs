//! The tree of a JSON value: the form of API objects in memory.
//!
//! The names and rules are those of the tree in `serde_json`, whose reader and writer of text this tree uses. The maps
//! differ: an object has the order of insertion, and an object with few fields has no hash table (see [`Map`]).

mod compare;
mod construct;
mod convert;
mod deserialize;
mod index;
mod map;
mod serialize;
mod value;

#[doc(hidden)]
pub use construct::interpolated;
pub use deserialize::from_value;
pub use index::Index;
pub use map::{
    IntoIter, IntoValues, Iter, IterMut, Keys, MapEntry, OccupiedEntry, OrderedMap, SEARCHED_MAX,
    VacantEntry, Values, ValuesMut,
};
pub use serde_json::{Error, Number};
pub use serialize::to_value;
pub use value::{Map, Value};
