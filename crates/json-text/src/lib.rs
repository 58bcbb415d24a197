//! Reading of JSON text without a tree of its values, and fast construction of trees.
//!
//! [`Cursor`] reads a text token by token; [`find`] and [`find_string`] search for the value at a path of member names.
//! Only strings with escapes are copied. [`write_string`] writes a string. [`tree`] builds the tree of a text in one
//! pass, and [`partial_tree`] the tree of one of its parts.
//!
//! The text is expected to come from a JSON writer, so a skipped value is not validated. An invalid text results in an
//! error or in some value, but never in a panic or an endless loop. Nesting is unlimited, because values are skipped
//! without recursion. A truncated text is an error when its end is reached.

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
    /// The text ends within a value.
    #[error("unexpected end of the JSON text at byte {0}")]
    End(usize),
    /// The text has a byte that is not allowed at its position.
    #[error("unexpected byte in the JSON text at byte {0}")]
    Unexpected(usize),
    /// A string has an invalid escape, or is not UTF-8.
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
