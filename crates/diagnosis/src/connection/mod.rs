//! The decision about a connection from a pod, by the NetworkPolicies of both ends.

mod answer;
mod question;
mod render;
#[cfg(test)]
mod tests;

pub use answer::{
    ConnectionAnswer, ConnectionDecision, ConnectionObjects, ConnectionQuestion, ConnectionVerdict,
    NoAnswer, ObjectName, PolicyDecision, ServerPath, addresses_of, decide,
};
pub use question::{Destination, DestinationError, PortWord, ServerKind};
