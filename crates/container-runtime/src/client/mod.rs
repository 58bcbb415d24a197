//! The agent's part of the runtime: starts shims, connects to running shims, calls them, and removes their
//! remains.

pub(crate) mod cleanup;
pub(crate) mod connection;
pub(crate) mod leased;
pub(crate) mod orphans;
pub mod runtime;
pub mod sandbox;
pub mod session;
