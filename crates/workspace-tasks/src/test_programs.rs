//! The tests with their own harness.

/// Packages with their tests without the usual harness, which are run one at a time. `cargo xtask tidy`
/// checks that the list is complete.
pub const TEST_PROGRAMS: &[(&str, &str)] = &[("mvcc-store", "crash"), ("node-agent", "agent")];
