//! The number of sessions in the containers of each pod: commands, attached streams and forwarded ports.
//!
//! The shim of a pod serves a bounded number of connections (`container_runtime`), and the agent itself
//! needs some of these connections. So the limit of user sessions is well below that bound.

use connection_limits::{Share, Shares};
use object_model::{Status, StatusReason};
use process_telemetry::refusals::{self, Budget};

use super::response::status;

/// Maximum number of concurrent sessions of one pod.
const SESSIONS_PER_POD_MAX: usize = 128;

/// The namespace and the name of a pod.
pub type PodName = (String, String);

/// The open sessions of all pods.
pub struct PodSessions(Shares<PodName>);

/// An open session, which closes when the value is dropped.
pub type PodSession = Share<PodName>;

impl Default for PodSessions {
    fn default() -> Self {
        Self(Shares::new(SESSIONS_PER_POD_MAX))
    }
}

impl PodSessions {
    /// Opens a session.
    ///
    /// *Errors.* 429 if the pod has the maximum number of sessions.
    pub fn open(&self, namespace: &str, name: &str) -> Result<PodSession, Box<Status>> {
        let session = self.0.take((namespace.to_owned(), name.to_owned()));
        session.ok_or_else(|| {
            refusals::count(Budget::PodSessions);
            let message = format!(
                "pod \"{name}\" has {SESSIONS_PER_POD_MAX} sessions already (exec, attach and port-forward); end one of them first"
            );
            Box::new(status(StatusReason::TooManyRequests, &message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S40: sessions of one pod use up neither the agent's connections to its shim nor the
    /// sessions of other pods.
    #[test]
    fn a_pod_with_too_many_sessions_is_refused_alone() {
        let sessions = PodSessions::default();
        let open = |name: &str| sessions.open("default", name);
        let mut web_sessions: Vec<PodSession> = (0..SESSIONS_PER_POD_MAX)
            .map(|_| open("web-0").expect("a session"))
            .collect();
        let status = open("web-0").expect_err("a refusal");
        assert_eq!(status.code, 429);
        assert!(status.message.contains("web-0"), "{}", status.message);
        assert!(open("web-1").is_ok());
        web_sessions.pop();
        assert!(open("web-0").is_ok());
        drop(web_sessions);
        assert!(sessions.0.is_empty());
    }
}
