//! The StatefulSet planner against its specification (`statefulset.md`).
//!
//! `golden/` holds one situation per file: what is there, and what is to be done about it.
//! `scenarios` play several rounds; `properties` hold for any input.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "stateful_set/explained.rs"]
mod explained;
#[path = "stateful_set/golden.rs"]
mod golden;
#[path = "stateful_set/making.rs"]
mod making;
#[path = "stateful_set/options.rs"]
mod options;
#[path = "stateful_set/properties.rs"]
mod properties;
#[path = "stateful_set/rules.rs"]
mod rules;
#[path = "stateful_set/scenarios.rs"]
mod scenarios;
#[path = "stateful_set/situation.rs"]
mod situation;
#[path = "stateful_set/trouble.rs"]
mod trouble;
#[path = "stateful_set/world.rs"]
mod world;
