//! Durations of pods' lives are not counted on the wall clock, which may be set while they run.

use super::{Finding, SourceFile};

/// The scope of the rule.
const CRATES: &[&str] = &[
    "crates/node-agent/src/",
    "crates/pod-lifecycle/src/",
    "crates/volume-provisioner/src/",
];

/// Calls that read the wall clock, or measure time by it.
const WALL_CLOCK: &[&str] = &[
    "Timestamp::now(",
    "SystemTime::now(",
    "Zoned::now(",
    ".duration_since(",
];

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
        "crates/volume-provisioner/src/snapshots.rs",
        "a snapshot has the time of its making",
    ),
    (
        "crates/volume-provisioner/src/expansion.rs",
        "conditions have the time of their transition",
    ),
    (
        "crates/volume-provisioner/src/setbacks.rs",
        "between readings of a monotonic clock",
    ),
];

/// Checks the crates that run pods; tests may have any time.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let ruled = files.iter().filter(|file| {
        let tests = file.path.ends_with("/tests.rs");
        CRATES.iter().any(|part| file.path.starts_with(part)) && !tests
    });
    let mut findings = Vec::new();
    for file in ruled {
        let body = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let allowed = ALLOWED.iter().any(|(path, _)| *path == file.path);
        for word in WALL_CLOCK.iter().filter(|word| body.contains(**word)) {
            if !allowed {
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
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings R4
    #[test]
    fn durations_by_the_wall_clock_are_found() {
        let counts = "let due = Timestamp::now() + delay;";
        let found = check(&[
            SourceFile::new("crates/node-agent/src/worker/mod.rs", counts),
            SourceFile::new("crates/node-agent/src/clock.rs", counts),
            SourceFile::new("crates/api-server/src/lib.rs", counts),
            SourceFile::new(
                "crates/pod-lifecycle/src/record/backoff.rs",
                format!("#[cfg(test)]\nmod tests {{ {counts} }}"),
            ),
        ]);
        let files: Vec<_> = found.iter().map(|finding| finding.file.as_str()).collect();
        assert_eq!(files, ["crates/node-agent/src/worker/mod.rs"]);
    }
}
