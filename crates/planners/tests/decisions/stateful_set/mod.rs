//! The StatefulSet planner against its specification (`statefulset.md`).
//!
//! `golden/` holds one situation per file: what is there, and what is to be done about it.
//! `scenarios` play several rounds; `properties` hold for any input.

mod explained;
mod golden;
mod making;
mod options;
mod properties;
mod rules;
mod scenarios;
mod situation;
mod trouble;
mod world;
