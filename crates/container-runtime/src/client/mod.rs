//! The agent's side: starts shims, finds them again, talks to them, clears up after them.

pub(crate) mod cleanup;
pub(crate) mod connection;
pub(crate) mod leased;
pub mod runtime;
pub mod sandbox;
pub mod session;
pub(crate) mod strays;
