//! The vocabulary of all other crates: errors as `Status`, field paths, selectors, quantities, names, errors of YAML
//! documents. Pure: no I/O, no clock, no randomness.

pub mod cidr;
pub mod cron;
pub mod dialling;
pub mod duration;
pub mod field;
mod identity;
pub mod int_or_percent;
pub mod listening;
pub mod names;
mod node_name;
pub mod protobuf;
pub mod quantity;
pub mod selector;
mod semver;
pub mod status;
pub mod varint;
pub mod yaml_error;

pub use field::{FieldError, FieldErrorType, FieldPath};
pub use identity::{IncompleteMetadata, ObjectIdentity, ObjectKey, ResourceVersion, Uid};
pub use int_or_percent::IntOrPercent;
pub use node_name::{NODES, NodeName};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use semver::Semver;
pub use status::{Cause, Status, StatusDetails, StatusReason};
