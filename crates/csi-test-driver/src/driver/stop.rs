//! The results of a call other than a message: a status, or an ordered fault.

use std::io;

use json_tree::Value;

use crate::faults::Fault;

/// Codes of gRPC.
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: u32 = 3;
    pub(crate) const NOT_FOUND: u32 = 5;
    pub(crate) const ALREADY_EXISTS: u32 = 6;
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(crate) const FAILED_PRECONDITION: u32 = 9;
    pub(crate) const ABORTED: u32 = 10;
    pub(crate) const OUT_OF_RANGE: u32 = 11;
    pub(crate) const UNIMPLEMENTED: u32 = 12;
    pub(crate) const INTERNAL: u32 = 13;
}

/// The result of a call other than a message.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The code and the message of an error.
    Status(u32, String),
    /// An ordered fault.
    Fault(Fault),
}

pub(crate) type Done = Result<Value, Stop>;

pub(crate) fn stop<T>(code: u32, words: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Status(code, words.into()))
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Status(code::INTERNAL, error.to_string())
    }
}
