//! Answers about waiting objects.
//!
//! `golden/` holds one situation per file, with the answer for users, and for some the one for
//! programs. `pods` goes through what may be the matter with a single pod, `remedies` through what
//! would unblock it.

#![expect(clippy::unwrap_used, reason = "a test")]

mod golden;
mod pods;
mod remedies;
mod situation;
