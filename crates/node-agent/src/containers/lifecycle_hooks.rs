//! Lifecycle hooks: `postStart` and `preStop` (statefulset.md §12.6).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{HTTPHeader, LifecycleHandler};
use thiserror::Error;

use crate::probes::http_probe::{self, HttpProbeError, HttpTarget};
use crate::probes::prober::{self, CommandResult, ProbeTarget, run_command};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookOutcome {
    /// The hook succeeded with the specified protocol.
    Succeeded,
    /// The hook's server does not speak TLS, although the hook has the scheme `HTTPS`.
    WithoutTls,
}

/// A hook that failed. Only the pod's status may contain the text, because events have more readers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HookError {
    #[error(
        "Exec lifecycle hook ([{command}]) for Container {container:?} in Pod {pod:?} failed - error: {reason}"
    )]
    Command {
        command: String,
        container: String,
        pod: String,
        /// The reason with the output of the command.
        reason: String,
    },
    #[error(
        "HTTP lifecycle hook ({path}) for Container {container:?} in Pod {pod:?} failed - error: {reason}"
    )]
    Request {
        path: String,
        container: String,
        pod: String,
        reason: String,
    },
    #[error("Cannot run handler: invalid handler")]
    NoHandler,
}

/// Runs a hook of the pod (`name_namespace(uid)`) until it ends or times out.
///
/// Any response to a request is a success, as in kubelet: the status code does not count. The API accepts a
/// `tcpSocket`, which has no effect.
pub async fn run(
    target: &ProbeTarget,
    pod: &str,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<HookOutcome, HookError> {
    let container = &target.container.name;
    if let Some(action) = &hook.exec {
        let args = action.command.clone().unwrap_or_default();
        let command = args.join(" ");
        let reason = match run_command(target, args, limit).await {
            CommandResult::Exited(0, _) => return Ok(HookOutcome::Succeeded),
            CommandResult::Exited(code, output) => {
                format!("command '{command}' exited with {code}: , message: {output:?}")
            }
            CommandResult::TimedOut => format!("command '{command}' timed out, message: \"\""),
            CommandResult::Failed(message) => format!("{message}, message: \"\""),
        };
        return Err(HookError::Command {
            command,
            container: container.clone(),
            pod: pod.to_owned(),
            reason,
        });
    }
    if let Some(action) = &hook.http_get {
        let request_error = |reason: String| HookError::Request {
            path: action.path.clone().unwrap_or_default(),
            container: container.clone(),
            pod: pod.to_owned(),
            reason,
        };
        let headers = action.http_headers.as_deref().unwrap_or_default();
        let url = prober::http_target(target, action)
            .map_err(|error| request_error(error.to_string()))?;
        let outcome = request(url, headers, limit).await;
        return outcome.map_err(|error| request_error(error.to_string()));
    }
    if let Some(action) = &hook.sleep {
        let duration = Duration::from_secs(action.seconds.max(0).unsigned_abs());
        tokio::time::sleep(duration.min(limit)).await;
        return Ok(HookOutcome::Succeeded);
    }
    Err(HookError::NoHandler)
}

/// Sends an HTTP request. If the hook has the scheme `HTTPS` and the server does not speak TLS, a second
/// request follows without TLS and without the header `Authorization`. As kubelet, because early versions
/// of Kubernetes ignored the scheme.
async fn request(
    mut target: HttpTarget,
    headers: &[HTTPHeader],
    limit: Duration,
) -> Result<HookOutcome, HttpProbeError> {
    const AGENT: &str = "kube-lifecycle/1.36";
    let started = Instant::now();
    let error = match http_probe::get(target.clone(), AGENT, headers, limit).await {
        Ok(_) => return Ok(HookOutcome::Succeeded),
        Err(error) => error,
    };
    if !target.tls || !matches!(error, HttpProbeError::NotTls(_)) {
        return Err(error);
    }
    target.tls = false;
    let mut headers = headers.to_vec();
    headers.retain(|header| !header.name.eq_ignore_ascii_case("authorization"));
    let remaining = limit.saturating_sub(started.elapsed());
    let response = http_probe::get(target, AGENT, &headers, remaining).await;
    response.map(|_| HookOutcome::WithoutTls).map_err(|_| error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::http_probe::tests::{NO_CONTENT, PATIENCE, server};

    #[tokio::test]
    async fn a_retry_without_tls_has_no_secrets() {
        // statefulset.md 12.6
        let (http_target, requests) = server(|_| NO_CONTENT.to_owned()).await;
        let headers = [("X", "y"), ("authorization", "Bearer secret")];
        let headers = headers.map(|(name, value)| HTTPHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        let outcome = request(http_target.clone(), &headers, PATIENCE).await;
        assert_eq!(outcome, Ok(HookOutcome::Succeeded));
        assert!(requests.lock().unwrap().concat().contains("Bearer secret"));

        requests.lock().unwrap().clear();
        let by_https = HttpTarget {
            tls: true,
            ..http_target
        };
        let outcome = request(by_https, &headers, PATIENCE).await;
        assert_eq!(outcome, Ok(HookOutcome::WithoutTls));
        let last_request = requests.lock().unwrap().last().unwrap().to_lowercase();
        assert!(
            last_request.starts_with("get / http/1.1\r\n"),
            "{last_request}"
        );
        assert!(last_request.contains("x: y\r\n"), "{last_request}");
        assert!(!last_request.contains("secret"), "{last_request}");
    }

    #[tokio::test]
    async fn a_silent_server_gets_one_request() {
        let (silent_target, requests) = server(|_| String::new()).await;
        let by_https = HttpTarget {
            tls: true,
            ..silent_target
        };
        assert!(request(by_https, &[], PATIENCE).await.is_err());
        assert_eq!(requests.lock().unwrap().len(), 1);
    }
}
