//! Server-side apply: the ownership of fields, and the merge of an applied configuration.
//!
//! Every manager (a name, an operation, a sub-resource) has a set of fields in `metadata.managedFields`. [`apply`]
//! merges a configuration by the published schema, reports conflicts with other managers, and removes fields that its
//! manager no longer applies and no other manager owns. [`track`] records the changes of all other writes. Pure: the
//! time and the other versions of the kind are arguments.

mod added;
mod check;
mod compare;
mod conflict;
mod encode;
mod error;
mod form;
mod items;
mod last_applied;
mod managers;
mod merge;
mod merge_list;
mod overlay;
mod owned;
mod path;
mod prune;
mod reconcile;
mod remove;
mod server_side;
mod set;
mod track;
mod versions;

pub use conflict::{ApplyError, Conflict};
pub use encode::FieldSetError;
pub use error::OverlayError;
pub use managers::same_but_for_times;
pub use overlay::overlay;
pub use server_side::apply;
pub use set::FieldSet;
pub use track::{track, track_apart};
pub use versions::{ObjectType, Versions};

/// The manager of a write, its API version, sub-resource and time.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The name of the field manager.
    pub manager: &'a str,
    /// The API version of the sent object, for instance `apps/v1`.
    pub api_version: &'a str,
    /// The sub-resource of the write; empty for the object itself.
    pub subresource: &'a str,
    /// The time in the format of the API.
    pub now: &'a str,
}

/// The fields that a write can own: a write does not own fields that it cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnableFields<'a> {
    /// All fields.
    Everything,
    /// All fields except these top-level fields (the status, for a write of the object itself).
    AllBut(&'a [&'a str]),
    /// Only these top-level fields.
    Only(&'a [&'a str]),
}

impl OwnableFields<'_> {
    fn has(&self, field: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::AllBut(names) => !names.contains(&field),
            Self::Only(names) => names.contains(&field),
        }
    }
}
