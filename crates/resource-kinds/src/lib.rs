//! What each kind of object is: names, defaults, validation, table columns. One trait, one folder
//! per API group, one file per kind, one plain list ([`all`]). Pure: no I/O, no clock.

pub mod admission;
mod kind;

pub use kind::{
    Cell, Column, Exclusive, Kind, KindInfo, Lookup, Refusal, Scope, Subresource, Taken, Verb,
};
