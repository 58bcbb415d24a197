//! Answers about waiting objects.
//!
//! `golden/` holds one situation per file, with the answer for people, and for some the one for
//! programs. `pods` goes through what may be the matter with a single pod, `remedies` through what
//! would unblock it.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "diagnosis/golden.rs"]
mod golden;
#[path = "diagnosis/pods.rs"]
mod pods;
#[path = "diagnosis/remedies.rs"]
mod remedies;
#[path = "diagnosis/situation.rs"]
mod situation;
