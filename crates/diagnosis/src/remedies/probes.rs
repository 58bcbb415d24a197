//! Probes and hooks that fail.

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Probe;
use pod_lifecycle::diagnosis::Remedy;

use super::DiagnosedPod;

/// Seconds that a remedy adds to a probe's time.
const MORE: i32 = 10;
/// The default of `failureThreshold`.
const FAILURES: i32 = 3;

impl DiagnosedPod<'_> {
    /// The remedy for a failing probe; `message` is the node's last message about it.
    pub fn probe(&self, field: &'static str, message: &str) -> Option<Remedy> {
        let container = self.container()?;
        let probe = match field {
            "livenessProbe" => container.liveness_probe.as_ref(),
            "startupProbe" => container.startup_probe.as_ref(),
            _ => container.readiness_probe.as_ref(),
        }?;
        let logs = self.logs();
        let late = ["timed out", "deadline exceeded", "i/o timeout"];
        let late = late.iter().any(|text| message.contains(text));
        let starts = field == "startupProbe";
        if late || starts {
            let mut more = json!({});
            if late {
                let seconds = probe.timeout_seconds.unwrap_or(1);
                more["timeoutSeconds"] = seconds.saturating_mul(MORE).into();
            }
            if starts {
                let failures = probe.failure_threshold.unwrap_or(FAILURES);
                more["failureThreshold"] = failures.saturating_mul(MORE).into();
            }
            let text = format!(
                "the program has to answer the probe in time (its output: {logs}); to give it more \
                 time"
            );
            return Some(self.by(text, self.change_container(json!({ field: more }))));
        }
        let text = format!(
            "the program has to answer the probe (its output: {logs}); or correct the probe"
        );
        let change = json!({ field: corrected_request(probe) });
        Some(self.by(text, self.change_container(change)))
    }

    pub(super) fn hook(&self) -> Remedy {
        let change =
            json!({ "lifecycle": { "postStart": { "exec": { "command": ["COMMAND"] } } } });
        let text = format!(
            "the hook of {} has to end well; to correct its command",
            self.title()
        );
        self.by(text, self.change_container(change))
    }
}

/// A probe of the given type with placeholders.
fn corrected_request(probe: &Probe) -> Value {
    if probe.http_get.is_some() {
        json!({ "httpGet": { "path": "/PATH", "port": "PORT" } })
    } else if probe.tcp_socket.is_some() {
        json!({ "tcpSocket": { "port": "PORT" } })
    } else if probe.grpc.is_some() {
        json!({ "grpc": { "port": "PORT" } })
    } else {
        json!({ "exec": { "command": ["COMMAND"] } })
    }
}
