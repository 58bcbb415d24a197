//! Reading of JSON text in place, without a tree of its values, and trees of texts.
//!
//! [`Cursor`] goes through the text, one token after the other; [`find`] and [`find_string`] look for the
//! value at a path of names. Nothing is copied except strings with escapes. [`write_string`] writes one.
//! [`tree`] makes the tree of a text in one walk, and [`partial_tree`] one of its parts.
//!
//! The text comes from a writer of JSON, so a value that is skipped is followed to its end and not checked.
//! Other text gives an error or some value, and never a panic or a reading without an end. No text is too
//! deep, for a value is skipped without recursion. A text that is cut is an error as soon as its end is
//! reached.

mod cursor;
mod find;
mod members;
mod string;
mod tree;
mod write;

pub use cursor::{Cursor, Sequence};
pub use find::{Member, find, find_member, find_start, find_string};
pub use members::{descend, member};
pub use string::StringSlice;
pub use tree::{FieldRead, PartialTree, partial_tree, tree};
pub use write::{plain_length, write_string};

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// The text ends before the value does.
    #[error("unexpected end of the JSON text at byte {0}")]
    End(usize),
    /// The text has a byte that cannot be there.
    #[error("unexpected byte in the JSON text at byte {0}")]
    Unexpected(usize),
    /// A string has an escape that JSON does not have, or is not UTF-8.
    #[error("invalid string in the JSON text at byte {0}")]
    String(usize),
}

impl SyntaxError {
    /// The index of the byte in the text.
    pub fn offset(self) -> usize {
        match self {
            Self::End(at) | Self::Unexpected(at) | Self::String(at) => at,
        }
    }
}
