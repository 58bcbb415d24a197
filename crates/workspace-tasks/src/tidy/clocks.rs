//! Durations of pods' lives are not counted on the wall clock, which may be set while they run.

use std::collections::BTreeSet;

use super::checkout::{Finding, SourceFile, crate_names};
use super::exceptions::{Exceptions, without_files};

/// The scope of the rule.
const CRATES: &[&str] = &[
    "crates/node-agent/src/",
    "crates/pod-lifecycle/src/",
    "crates/controllers/src/volume_provisioning/",
    "crates/volume-storage/src/",
];

/// Calls that read the wall clock, or measure time by it.
const WALL_CLOCK: &[&str] = &[
    "Timestamp::now(",
    "SystemTime::now(",
    "Zoned::now(",
    ".duration_since(",
];

/// This list's file.
const LIST: &str = "clocks.rs";

/// Exceptions with their reasons.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/node-agent/src/clock.rs", "the clocks themselves"),
    (
        "crates/pod-lifecycle/src/monotonic.rs",
        "the types of their readings",
    ),
    (
        "crates/node-agent/src/kubelet_api/container_logs.rs",
        "`sinceSeconds` is compared with times that the log has",
    ),
    (
        "crates/node-agent/src/kubelet_api/terminal.rs",
        "the time of an attachment is compared with times that the log has",
    ),
    (
        "crates/node-agent/src/api/objects.rs",
        "a token's end is a time of the API server's",
    ),
    (
        "crates/node-agent/src/volumes/payload.rs",
        "how long a new token lasts is known by its end alone",
    ),
    (
        "crates/node-agent/src/volumes/mod.rs",
        "names of directories have the time of their making",
    ),
    (
        "crates/node-agent/src/api/claim_growth.rs",
        "conditions have the time of their transition",
    ),
    (
        "crates/controllers/src/volume_provisioning/snapshots.rs",
        "a snapshot has the time of its making",
    ),
    (
        "crates/controllers/src/volume_provisioning/expansion.rs",
        "conditions have the time of their transition",
    ),
    (
        "crates/controllers/src/volume_provisioning/size_condition.rs",
        "conditions have the time of their transition",
    ),
];

/// The crates that the rule is about.
pub fn clocked_crates() -> BTreeSet<String> {
    crate_names(CRATES)
}

/// Checks the crates that run pods; tests may have any time.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let ruled = files
        .iter()
        .filter(|file| CRATES.iter().any(|part| file.path.starts_with(part)));
    let mut findings = without_files(LIST, CRATES.iter().copied(), files);
    let mut exceptions = Exceptions::new(LIST, ALLOWED.iter().map(|(path, _)| *path));
    for file in ruled {
        for word in WALL_CLOCK.iter().filter(|word| file.code.contains(**word)) {
            if !exceptions.allow(&file.path) {
                findings.push(Finding {
                    file: file.path.clone(),
                    text: format!(
                        "{word}…): the wall clock may be set; count durations between readings of \
                         the node's `Clock`, or give the reason in tidy/clocks.rs"
                    ),
                });
            }
        }
    }
    findings.extend(exceptions.unneeded(files));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings R4
    #[test]
    fn durations_by_the_wall_clock_are_found() {
        let counts = "let due = Timestamp::now() + delay;";
        let findings = check(&[
            SourceFile::new("crates/node-agent/src/worker/mod.rs", counts),
            SourceFile::new("crates/node-agent/src/clock.rs", counts),
            SourceFile::new("crates/kube-api-server/src/lib.rs", counts),
            SourceFile::new(
                "crates/pod-lifecycle/src/record/backoff.rs",
                format!("#[cfg(test)]\nmod tests {{ {counts} }}"),
            ),
        ]);
        let files: Vec<_> = findings
            .iter()
            .map(|finding| finding.file.as_str())
            .collect();
        assert_eq!(files, ["crates/node-agent/src/worker/mod.rs"]);
    }
}
