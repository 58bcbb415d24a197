//! Explanations of waiting objects.
//!
//! `golden/` contains one situation per file, with the text for users, and in some files the JSON output. `pods` checks
//! the problems of a single pod, `remedies` the remedies for them.

#![expect(clippy::unwrap_used, reason = "a test")]

mod golden;
mod pods;
mod remedies;
mod situation;
