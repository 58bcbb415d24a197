//! Errors of apply configurations, in upstream's words.

use thiserror::Error;

/// The reason why an apply configuration of a policy cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OverlayError {
    #[error("failed to convert patch object to typed object: {0}")]
    Type(String),
    /// The paths of the atomic parts.
    #[error("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {0}")]
    Atomic(String),
}

/// The reason why an element of a list cannot be distinguished from the other elements.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum StepError {
    #[error("associative list without keys has an element that's a map type")]
    MapWithoutKeys,
    #[error("not supported: associative list with lists as elements")]
    List,
    #[error("associative list without keys has an element that's an explicit null")]
    NullWithoutKeys,
    #[error("invalid indexing of non-associative list")]
    NotAssociative,
    #[error("associative list with keys may not have a null element")]
    Null,
    #[error("associative list with keys may not have non-map elements")]
    NotMap,
    /// The names of the key fields.
    #[error(
        "associative list with keys has an element that omits all key fields [{0}] (and doesn't have default values \
         for any key fields)"
    )]
    NoKey(String),
}
