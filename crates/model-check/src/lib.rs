//! Model checking of the StatefulSet planner: every interleaving, in small worlds.
//!
//! The explored code is the production code: `controller_planners::stateful_set::plan` decides, and
//! `controller_planners::stateful_set::write_schedule` orders the writes, as for the executor. The rest is a model: an
//! API server that refuses the writes that the real server refuses, a controller whose watches may each be behind, a
//! second controller that takes over while the first controller still sends writes, nodes with running instances of
//! pods, a garbage collector, users.
//!
//! [`worlds`] lists the worlds, [`model`] the steps; [`environment`] and [`server`] execute the steps on a [`state`];
//! [`verdicts`] has the rules about revisions whose rollout fails, [`claim_edits`] those about claims that follow their
//! template. [`settling`] checks for every state that the world reaches the specified state; [`story`] describes the path to a
//! violation; [`seeded`] injects mistakes. [`fence`] and [`election`] are worlds with separate models, of a lost node
//! and of servers that elect a leader.

pub mod check;
pub mod claim_edits;
pub mod counters;
pub mod election;
pub mod environment;
pub mod fence;
mod hashing;
pub mod identities;
pub mod model;
mod objects;
pub mod plans;
pub mod seeded;
pub mod server;
pub mod settling;
pub mod state;
pub mod story;
pub mod verdicts;
pub mod world;
pub mod worlds;
