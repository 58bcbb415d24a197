//! The planner on a pretended node: golden situations and properties.

#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

mod dismissal;
mod grace;
mod ephemeral;
mod lifecycle;
mod properties;
mod statuses;
mod world;
