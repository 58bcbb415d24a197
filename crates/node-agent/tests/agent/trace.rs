//! A directory of the node to which a pod's containers write.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use json_tree::{Value, json};

use crate::harness::{Harness, PATIENCE};

/// The directory, which containers mount at `/trace`.
pub struct Trace(pub PathBuf);

impl Trace {
    pub fn new(harness: &Harness) -> Self {
        let dir = harness.dir.join("trace");
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// The volume for the pod's specification.
    pub fn volume(&self) -> Value {
        json!({"name": "trace", "hostPath": {"path": self.0, "type": "Directory"}})
    }

    /// The volume mount for a container's specification.
    pub fn mount() -> Value {
        json!({"name": "trace", "mountPath": "/trace"})
    }

    /// The present content of a file.
    pub fn written(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// Creates a file that containers wait for.
    pub fn make(&self, name: &str) {
        fs::write(self.0.join(name), "").unwrap();
    }
}

/// A command that runs until it receives the termination signal, and then writes its end to the trace's
/// file `order`. As soon as the command can handle the signal, it creates `/tmp/hears`, and a file with its
/// name in the trace.
pub fn traced(name: &str) -> Value {
    let script = format!(
        "trap 'echo {name} ends >> /trace/order; exit 0' TERM; touch /tmp/hears /trace/{name}; \
         while true; do sleep 0.05; done"
    );
    json!(["sh", "-c", script])
}

/// Waits for a condition on the node itself.
pub async fn holds(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
