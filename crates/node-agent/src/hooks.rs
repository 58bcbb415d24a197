//! `postStart` and `preStop` (statefulset.md §12.6).

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::prober::{Asked, Ran, http_get, run_command};

/// Runs a hook of the pod (`name_namespace(uid)`) to its end or for as long as it may take.
///
/// Any answer to a request is one, as with kubelet: what the server thinks of it does not count. A
/// `tcpSocket` is taken by the API and never worked.
///
/// # Errors
/// What went wrong, with what a command has printed: for statuses, which those read who may read the
/// pod, and not for events.
pub async fn run(
    asked: &Asked,
    pod: &str,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    let container = &asked.container.name;
    let failed = |what: String, why: String| {
        format!("{what} for Container {container:?} in Pod {pod:?} failed - error: {why}")
    };
    if let Some(action) = &hook.exec {
        let words = action.command.clone().unwrap_or_default();
        let shown = words.join(" ");
        let why = match run_command(asked, words, limit).await {
            Ran::Exited(0, _) => return Ok(()),
            Ran::Exited(code, output) => {
                format!("command '{shown}' exited with {code}: , message: {output:?}")
            }
            Ran::TimedOut => format!("command '{shown}' timed out, message: \"\""),
            Ran::Failed(message) => format!("{message}, message: \"\""),
        };
        return Err(failed(format!("Exec lifecycle hook ([{shown}])"), why));
    }
    if let Some(action) = &hook.http_get {
        let answer = http_get(asked, action, "kube-lifecycle/1.36", limit).await;
        let path = action.path.as_deref().unwrap_or_default();
        let failed = |why| failed(format!("HTTP lifecycle hook ({path})"), why);
        return answer.map(drop).map_err(failed);
    }
    if let Some(action) = &hook.sleep {
        let wanted = Duration::from_secs(action.seconds.max(0).unsigned_abs());
        tokio::time::sleep(wanted.min(limit)).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".to_owned())
}
