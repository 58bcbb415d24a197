//! The answer of `mainstay plan`: a StatefulSet, manifests that would change it, and the rollout that follows
//! (rollouts.md R18 to R20).
//!
//! `read` gets the objects with the rights of the user and tries the manifests with a dry run, `controller_planners`
//! forecasts the rollout, `report` sums it up, `difference` compares the set with itself, `text` formats the report, and
//! `versions` identifies the objects that a plan belongs to.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod difference;
mod error;
mod read;
mod report;
mod text;
mod versions;

pub use difference::Difference;
pub use error::PlanError;
pub use read::{PlannedRollout, Question, apply, look};
pub use report::{ChangeGroup, ClaimAction, ClaimChange, EndState, PodAction, PodChange, Report};
pub use versions::{NoVersions, PolicyVersion, Versions};
