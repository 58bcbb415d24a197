//! The vocabulary that every other crate speaks: errors as `Status`, field paths, selectors,
//! quantities, names. Pure: no I/O, no clock, no randomness.

pub mod field;
pub mod status;

pub use field::{FieldError, FieldErrorType, FieldPath};
pub use status::{Cause, Status, StatusDetails, StatusReason};
