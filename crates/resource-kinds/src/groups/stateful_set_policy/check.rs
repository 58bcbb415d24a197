//! The actions of a policy that the node runs in the pods: the checks of a guard and the hooks before a pod goes. They run as
//! probes, but without an effect on the containers (rollouts.md R22, R29, R30).

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use serde::{Deserialize, Serialize};

use crate::well_known::annotations::{HEALTH_CHECK, HOOK, RECOVERY_CHECK};
use crate::well_known::reasons::pod_condition;

/// A check in a container of a pod: exactly one action, and the thresholds of a probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardCheck {
    /// The name of the container; without it, the first container of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HTTPGetAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TCPSocketAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<i32>,
}

impl GuardCheck {
    /// The check in an annotation; `None` if it cannot be read, or has not exactly one action. The action has no host: a check reaches its own pod
    /// only.
    pub fn parse(text: &str) -> Option<Self> {
        let mut check: Self = serde_json::from_str(text).ok()?;
        if let Some(action) = &mut check.http_get {
            action.host = None;
        }
        if let Some(action) = &mut check.tcp_socket {
            action.host = None;
        }
        (check.actions() == 1).then_some(check)
    }

    /// The number of its actions.
    fn actions(&self) -> usize {
        let actions = [
            self.exec.is_some(),
            self.http_get.is_some(),
            self.tcp_socket.is_some(),
        ];
        actions.into_iter().filter(|is_set| *is_set).count()
    }

    /// Whether the node runs something. A hook may have no action.
    pub fn has_action(&self) -> bool {
        self.actions() > 0
    }

    /// The text of the annotation.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the check runs in this container of a pod with these containers.
    pub fn runs_in(&self, container: &str, containers: &[Container]) -> bool {
        let first = containers.first().map(|container| container.name.as_str());
        self.container.as_deref().or(first) == Some(container)
    }

    /// The check as a probe.
    pub fn probe(self) -> Probe {
        Probe {
            exec: self.exec,
            http_get: self.http_get,
            tcp_socket: self.tcp_socket,
            period_seconds: self.period_seconds,
            timeout_seconds: self.timeout_seconds,
            success_threshold: self.success_threshold,
            failure_threshold: Some(self.failure_threshold.unwrap_or(1)),
            ..Probe::default()
        }
    }
}

/// The two checks of a guard, and the hook that runs before a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// Whether the pod counts as healthy.
    Health,
    /// Whether the pod has recovered, so that another pod may be deleted.
    Recovery,
    /// Whether the present hook has succeeded; it runs until then.
    Hook,
}

impl CheckKind {
    pub const ALL: [Self; 3] = [Self::Health, Self::Recovery, Self::Hook];

    /// The checks of a guard.
    pub const OF_GUARD: [Self; 2] = [Self::Health, Self::Recovery];

    /// The annotation of the pod that contains the check.
    pub fn annotation(self) -> &'static str {
        match self {
            Self::Health => HEALTH_CHECK,
            Self::Recovery => RECOVERY_CHECK,
            Self::Hook => HOOK,
        }
    }

    /// The condition of the pod with the result.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Health => pod_condition::HEALTHY,
            Self::Recovery => pod_condition::RECOVERED,
            Self::Hook => pod_condition::HOOK_DONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// rollouts.md R29: a check reaches its own pod only, and one failure counts.
    #[test]
    fn a_check_is_a_probe_of_its_own_pod() {
        let text = json!({"httpGet": {"port": 8008, "host": "10.0.0.1", "path": "/sync"}});
        let check = GuardCheck::parse(&text.to_string()).unwrap();
        let probe = check.clone().probe();
        assert_eq!(probe.http_get.unwrap().host, None);
        assert_eq!(probe.failure_threshold, Some(1));
        assert_eq!(GuardCheck::parse(&check.text()), Some(check.clone()));
        let container = |name: &str| Container {
            name: name.to_owned(),
            ..Container::default()
        };
        let containers = [container("db"), container("exporter")];
        assert!(check.runs_in("db", &containers));
        let named = GuardCheck {
            container: Some("exporter".to_owned()),
            ..check
        };
        assert!(!named.runs_in("db", &containers));
        assert!(named.runs_in("exporter", &containers));
        for unreadable in ["", "{", "[]", r#"{"exec": 1}"#] {
            assert_eq!(GuardCheck::parse(unreadable), None, "{unreadable}");
        }
    }
}
