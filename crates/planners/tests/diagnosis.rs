//! What is said about pods that are not ready.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "diagnosis/pods.rs"]
mod pods;
