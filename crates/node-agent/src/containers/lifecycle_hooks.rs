//! Lifecycle hooks: `postStart` and `preStop` (statefulset.md §12.6).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{HTTPHeader, LifecycleHandler};

use crate::probes::http_probe::{self, HttpProbeError, HttpTarget};
use crate::probes::prober::{self, CommandResult, ProbeTarget, run_command};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookOutcome {
    /// The hook succeeded with the specified protocol.
    AsAsked,
    /// The hook's server does not speak TLS, although the hook has the scheme `HTTPS`.
    WithoutTls,
}

/// Runs a hook of the pod (`name_namespace(uid)`) until it ends or times out.
///
/// Any response to a request is a success, as in kubelet: the status code does not count. The API accepts a
/// `tcpSocket`, which has no effect.
///
/// # Errors
/// The error with the output of the command. Only the pod's status may contain the error, because events
/// have more readers.
pub async fn run(
    asked: &ProbeTarget,
    pod: &str,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<HookOutcome, String> {
    let container = &asked.container.name;
    let failed = |what: String, why: String| {
        format!("{what} for Container {container:?} in Pod {pod:?} failed - error: {why}")
    };
    if let Some(action) = &hook.exec {
        let words = action.command.clone().unwrap_or_default();
        let shown = words.join(" ");
        let why = match run_command(asked, words, limit).await {
            CommandResult::Exited(0, _) => return Ok(HookOutcome::AsAsked),
            CommandResult::Exited(code, output) => {
                format!("command '{shown}' exited with {code}: , message: {output:?}")
            }
            CommandResult::TimedOut => format!("command '{shown}' timed out, message: \"\""),
            CommandResult::Failed(message) => format!("{message}, message: \"\""),
        };
        return Err(failed(format!("Exec lifecycle hook ([{shown}])"), why));
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let failed = |why| failed(format!("HTTP lifecycle hook ({path})"), why);
        let headers = action.http_headers.as_deref().unwrap_or_default();
        let target = prober::target(asked, action).map_err(failed)?;
        let answer = ask(target, headers, limit).await;
        return answer.map_err(|unanswered| failed(unanswered.into()));
    }
    if let Some(action) = &hook.sleep {
        let wanted = Duration::from_secs(action.seconds.max(0).unsigned_abs());
        tokio::time::sleep(wanted.min(limit)).await;
        return Ok(HookOutcome::AsAsked);
    }
    Err("Cannot run handler: invalid handler".to_owned())
}

/// Sends an HTTP request. If the hook has the scheme `HTTPS` and the server does not speak TLS, a second
/// request follows without TLS and without the header `Authorization`. As kubelet, because early versions
/// of Kubernetes ignored the scheme.
async fn ask(
    mut target: HttpTarget,
    headers: &[HTTPHeader],
    limit: Duration,
) -> Result<HookOutcome, HttpProbeError> {
    const AGENT: &str = "kube-lifecycle/1.36";
    let begun = Instant::now();
    let unanswered = match http_probe::get(target.clone(), AGENT, headers, limit).await {
        Ok(_) => return Ok(HookOutcome::AsAsked),
        Err(unanswered) => unanswered,
    };
    if !target.tls || !matches!(unanswered, HttpProbeError::NotTls(_)) {
        return Err(unanswered);
    }
    target.tls = false;
    let mut headers = headers.to_vec();
    headers.retain(|header| !header.name.eq_ignore_ascii_case("authorization"));
    let left = limit.saturating_sub(begun.elapsed());
    let answer = http_probe::get(target, AGENT, &headers, left).await;
    answer
        .map(|_| HookOutcome::WithoutTls)
        .map_err(|_| unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::http_probe::tests::{NO_CONTENT, PATIENCE, server};

    #[tokio::test]
    async fn what_is_asked_without_tls_is_asked_without_secrets() {
        // statefulset.md 12.6
        let (plain, asked) = server(|_| NO_CONTENT.to_owned()).await;
        let headers = [("X", "y"), ("authorization", "Bearer secret")];
        let headers = headers.map(|(name, value)| HTTPHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        let done = ask(plain.clone(), &headers, PATIENCE).await;
        assert_eq!(done, Ok(HookOutcome::AsAsked));
        assert!(asked.lock().unwrap().concat().contains("Bearer secret"));

        asked.lock().unwrap().clear();
        let by_https = HttpTarget { tls: true, ..plain };
        let done = ask(by_https, &headers, PATIENCE).await;
        assert_eq!(done, Ok(HookOutcome::WithoutTls));
        let asked = asked.lock().unwrap().last().unwrap().to_lowercase();
        assert!(asked.starts_with("get / http/1.1\r\n"), "{asked}");
        assert!(asked.contains("x: y\r\n"), "{asked}");
        assert!(!asked.contains("secret"), "{asked}");
    }

    #[tokio::test]
    async fn who_does_not_answer_is_not_asked_twice() {
        let (nobody, asked) = server(|_| String::new()).await;
        let by_https = HttpTarget {
            tls: true,
            ..nobody
        };
        assert!(ask(by_https, &[], PATIENCE).await.is_err());
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}
