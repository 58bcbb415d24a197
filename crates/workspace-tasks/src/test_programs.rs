//! The tests that are programs of their own.

/// Packages with their tests without the usual harness: they are run one by one. Tidy checks that none is
/// missing here.
pub const TEST_PROGRAMS: &[(&str, &str)] = &[("mvcc-store", "crash"), ("node-agent", "agent")];
