//! The version of the server.

use std::sync::OnceLock;

use json_tree::{Value, json};

/// The Kubernetes minor version whose API is served.
const MINOR: &str = "36";

static COMMIT: OnceLock<&'static str> = OnceLock::new();

/// Sets the commit from which the program was built. Later calls have no effect.
pub fn set_git_commit(commit: &'static str) {
    if !commit.is_empty() {
        // A second call has the commit of the present program as well, so it may be ignored.
        COMMIT.set(commit).ok();
    }
}

/// The commit from which the program was built; `None` if it is unknown.
pub fn git_commit() -> Option<&'static str> {
    COMMIT.get().copied()
}

/// `v1.36.0+mainstay.0.1.0`: the version of the API and of the program. kubectl checks its version skew against the
/// first part.
pub fn git_version() -> String {
    format!("v1.{MINOR}.0+mainstay.{}", env!("CARGO_PKG_VERSION"))
}

/// The response to `/version` (kubectl.md 0.4).
pub(crate) fn document() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": git_version(),
        // Clients expect non-empty strings. The program contains no Go code.
        "gitCommit": git_commit().unwrap_or("unknown"),
        "gitTreeState": "archive",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", architecture()),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 C38
    #[test]
    fn the_commit_of_the_build_is_served() {
        assert_eq!(document()["gitCommit"], "unknown");
        set_git_commit("");
        assert_eq!(document()["gitCommit"], "unknown");
        set_git_commit("abc");
        set_git_commit("def");
        assert_eq!(document()["gitCommit"], "abc");
    }
}
