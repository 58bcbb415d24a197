//! The StatefulSet planner against its specification (`statefulset.md`).
//!
//! `golden/` contains one situation per file: the observed state, and the plan. `scenarios` run several rounds;
//! `properties` check any input.

mod claim_edits;
mod cluster;
mod explained;
mod forecast;
mod golden;
mod guard;
mod hooks;
mod making;
mod options;
mod order;
mod policy_words;
mod properties;
mod rules;
mod scenarios;
mod situation;
mod steps;
mod trouble;
mod verdict;
