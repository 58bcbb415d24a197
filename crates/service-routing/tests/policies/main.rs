//! NetworkPolicies: every form of a rule, and random policies against the text of the API.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod cluster;
mod forms;
mod properties;
mod reference;
