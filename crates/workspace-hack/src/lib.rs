//! The features of other projects' crates that the program and its tests have in common.
//!
//! Cargo unites the features that all packages of one command ask for. Without this crate, a build of the program alone
//! would have other features than a build of the whole workspace, and each crate would be compiled for both. The crate
//! has no code; `cargo xtask tidy` checks that its list is complete.
