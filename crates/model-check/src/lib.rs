//! Model checking of the StatefulSet planner: every interleaving, in small worlds.
//!
//! What is explored is the code that runs: `planners::stateful_set::plan` decides, and
//! `planners::stateful_set::course` says which write may be sent next, as it does to the
//! executor. Around them is a model: an API server that refuses what the real one refuses, a
//! controller whose watches are each behind on their own, a second one that takes over while the
//! first still has writes to send, nodes that hold running bodies, a garbage collector, users.
//!
//! [`world`] says which worlds there are, [`model`] which steps; [`environment`] and [`server`]
//! carry them out on a [`state`]; [`settling`] asks of every state whether the world comes to
//! rest as wanted; [`story`] tells how a rule was broken; [`seeded`] makes mistakes on purpose.

pub mod check;
pub mod counters;
pub mod environment;
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
