//! `postStart` and `preStop` (statefulset.md §12.6).

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::prober::{Asked, Ran, connect_tcp, http_get, run_command};

/// Runs a hook to its end or for as long as it may take.
///
/// # Errors
/// What went wrong, as the user reads it.
pub async fn run(asked: &Asked, hook: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let words = action.command.clone().unwrap_or_default();
        return match run_command(asked, words, limit).await {
            Ran::Exited(0, _) => Ok(()),
            Ran::Exited(code, output) => {
                Err(format!("command exited with {code}: {}", output.trim_end()))
            }
            Ran::TimedOut => Err(format!("command timed out after {}s", limit.as_secs())),
            Ran::Failed(message) => Err(message),
        };
    }
    if let Some(action) = &hook.http_get {
        let answer = http_get(asked, action, "kube-lifecycle/1.36", limit).await;
        return match answer.map(|answer| answer.status) {
            Ok(status) if status < 400 => Ok(()),
            Ok(status) => Err(format!("HTTP hook failed with statuscode: {status}")),
            Err(message) => Err(message),
        };
    }
    if let Some(action) = &hook.sleep {
        let wanted = Duration::from_secs(action.seconds.max(0).unsigned_abs());
        tokio::time::sleep(wanted.min(limit)).await;
        return Ok(());
    }
    if let Some(action) = &hook.tcp_socket {
        return connect_tcp(asked, action, limit).await;
    }
    Err("the hook says nothing to do".to_owned())
}
