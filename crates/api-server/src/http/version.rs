//! The version of the server.

use serde_json::{Value, json};

/// The Kubernetes minor version whose API is served.
const MINOR: &str = "36";

/// `v1.36.0+mainstay.0.1.0`: the API's version and the program's, so that kubectl's rule about
/// skew holds.
pub fn git_version() -> String {
    format!("v1.{MINOR}.0+mainstay.{}", env!("CARGO_PKG_VERSION"))
}

/// The answer to `/version` (kubectl.md 0.4).
pub(crate) fn document() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": git_version(),
        // Clients expect non-empty strings. The commit comes from the build (MAINSTAY_COMMIT), if
        // it is set; no part is written in Go.
        "gitCommit": option_env!("MAINSTAY_COMMIT").unwrap_or("unknown"),
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
