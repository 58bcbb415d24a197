//! Model checking of the StatefulSet planner: every interleaving, in small worlds.
//!
//! The explored code is the production code: `planners::stateful_set::plan` decides, and
//! `planners::stateful_set::write_schedule` orders the writes, as it does for the executor. Around them is
//! a model: an API server that refuses the same writes as the real one, a controller whose watches
//! may each be behind, a second one that takes over while the first still sends writes, nodes with
//! running instances of pods, a garbage collector, users.
//!
//! [`world`] lists the worlds, [`model`] the steps; [`environment`] and [`server`] execute them on
//! a [`state`]; [`settling`] checks for every state that the world comes to rest as specified;
//! [`story`] describes the path to a violation; [`seeded`] injects mistakes. [`fence`] and [`election`] are
//! worlds with models of their own, of a lost node and of servers that elect a leader.

pub mod check;
pub mod counters;
pub mod election;
pub mod environment;
pub mod fence;
mod hashing;
pub mod model;
mod objects;
pub mod plans;
pub mod seeded;
pub mod server;
pub mod settling;
pub mod state;
pub mod story;
pub mod world;
