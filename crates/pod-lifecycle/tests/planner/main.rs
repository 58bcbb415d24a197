//! Tests of the planner with a simulated node: fixed situations and properties.

#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

mod clocks;
mod ephemeral;
mod extreme_numbers;
mod failure;
mod grace;
mod guard_checks;
mod harness;
mod images;
mod lifecycle;
mod properties;
mod resize;
mod restart_all;
mod statuses;
mod unconfirmed;
