//! Node admission: the checks of a bound pod before the node runs it (statefulset.md §12.16).
//!
//! As kubelet's admission: a pod fails at once if it has an unsafe sysctl that the node does not allow, or
//! needs a security feature that the kernel lacks. A pod is also rejected under node pressure. The check of
//! free resources is in `pod_placement::misfit`, and returns a [`PodRejection`], too.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, Toleration};
use resource_kinds::sysctls;

use super::eviction::Condition;
use super::qos::qos_class;
use crate::messages;
use crate::record::PodFailure;
use crate::spec::{containers, is_critical, uses_host_network};

const MEMORY_PRESSURE_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// The node's settings for admission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Allowed unsafe sysctls. A name that ends with `*` allows all sysctls with that prefix.
    pub unsafe_sysctls: Vec<String>,
}

/// The reason why the node rejects a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRejection {
    pub reason: String,
    pub message: String,
}

impl PodRejection {
    pub fn failure(&self) -> PodFailure {
        PodFailure {
            reason: self.reason.clone(),
            message: messages::rejected(&self.message),
            grace_seconds: None,
            disrupts: false,
        }
    }
}

/// Checks a new pod; `None` if it is admitted.
pub fn rejection(pod: &Pod, policy: &Policy) -> Option<PodRejection> {
    let spec = pod.spec.as_ref()?;
    let (reason, message) = other_system(pod, spec)
        .or_else(|| forbidden_sysctl(spec, policy).map(|why| ("SysctlForbidden", why)))
        .or_else(|| app_armor(spec).map(|why| ("AppArmor", why)))?;
    let reason = reason.to_owned();
    Some(PodRejection { reason, message })
}

/// Checks a new pod on a node with these conditions. Under memory pressure, pods with memory requests are
/// admitted; under disk pressure, no pod is admitted.
pub fn under_pressure(pod: &Pod, conditions: &BTreeSet<Condition>) -> Option<PodRejection> {
    let spec = pod.spec.as_ref()?;
    if conditions.is_empty() || is_critical(pod) {
        return None;
    }
    let memory_only = conditions.iter().eq([&Condition::MemoryPressure]);
    if memory_only && (qos_class(spec) != "BestEffort" || tolerates_memory_pressure(spec)) {
        return None;
    }
    let names: Vec<&str> = conditions
        .iter()
        .map(|condition| condition.name())
        .collect();
    Some(PodRejection {
        reason: "Evicted".to_owned(),
        message: messages::node_had_conditions(&names),
    })
}

fn tolerates_memory_pressure(spec: &PodSpec) -> bool {
    let covers = |toleration: &Toleration| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let effect = text(&toleration.effect);
        let effect_fits = effect.is_empty() || effect == "NoSchedule";
        let key_fits = match text(&toleration.operator).as_str() {
            "Exists" => matches!(text(&toleration.key).as_str(), "" | MEMORY_PRESSURE_TAINT),
            // The taint has no value, so only an empty value matches.
            "" | "Equal" => {
                text(&toleration.key) == MEMORY_PRESSURE_TAINT && text(&toleration.value).is_empty()
            }
            _ => false,
        };
        effect_fits && key_fits
    };
    spec.tolerations.iter().flatten().any(covers)
}

/// Rejects a pod for another operating system.
fn other_system(pod: &Pod, spec: &PodSpec) -> Option<(&'static str, String)> {
    let labels = pod.metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get("kubernetes.io/os"));
    if label.is_some_and(|system| system != "linux") {
        let why = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(("PodOSSelectorNodeLabelDoesNotMatch", why.to_owned()));
    }
    let system = spec.os.as_ref()?;
    (system.name != "linux").then(|| {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        ("PodOSNotSupported", why.to_owned())
    })
}

fn forbidden_sysctl(spec: &PodSpec, policy: &Policy) -> Option<String> {
    let context = spec.security_context.as_ref()?;
    let named = context.sysctls.iter().flatten();
    let wrong = named.filter_map(|sysctl| {
        let name = dotted(&sysctl.name);
        let allowed = |pattern: &String| {
            let pattern = dotted(pattern);
            match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            }
        };
        let is_allowlisted =
            sysctls::SAFE.contains(&name.as_str()) || policy.unsafe_sysctls.iter().any(allowed);
        let network = name.starts_with("net.");
        if !is_allowlisted {
            Some(format!("\"{name}\" not allowlisted"))
        } else if network && uses_host_network(spec) {
            Some(format!("\"{name}\" not allowed with host net enabled"))
        } else if !network && spec.host_ipc == Some(true) {
            Some(format!("\"{name}\" not allowed with host ipc enabled"))
        } else {
            None
        }
    });
    wrong.map(|why| format!("forbidden sysctl: {why}")).next()
}

/// The name of a sysctl in the form with dots. In a name with slashes, dots may occur in the name of an
/// interface, so dots and slashes are exchanged.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// This node does not support AppArmor, so a pod that requires AppArmor is rejected.
fn app_armor(spec: &PodSpec) -> Option<String> {
    let is_confined = |profile: &Option<AppArmorProfile>| {
        profile.as_ref().is_some_and(|p| p.type_ != "Unconfined")
    };
    let of_pod = spec.security_context.as_ref();
    let pod_is_confined = of_pod.is_some_and(|context| is_confined(&context.app_armor_profile));
    let container_is_confined = containers(spec)
        .filter_map(|(_, container)| container.security_context.as_ref())
        .any(|context| is_confined(&context.app_armor_profile));
    (pod_is_confined || container_is_confined)
        .then(|| "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn rejection_text(spec: json_tree::Value) -> Option<String> {
        let mut whole = json!({"containers": [{"name": "c"}]});
        for (key, part) in spec.as_object().unwrap() {
            whole[key] = part.clone();
        }
        let pod = json_tree::from_value(json!({"spec": whole})).unwrap();
        let policy = Policy {
            unsafe_sysctls: vec!["net.core.*".to_owned(), "kernel.msgmax".to_owned()],
        };
        let failure = rejection(&pod, &policy)?.failure();
        Some(format!("{} {}", failure.reason, failure.message))
    }

    fn sysctl(name: &str) -> json_tree::Value {
        json!({"sysctls": [{"name": name, "value": "1"}]})
    }

    #[test]
    fn safe_and_allowed_parameters_are_taken_others_not() {
        // statefulset.md 12.16
        for name in [
            "net.ipv4.tcp_syncookies",
            "net/ipv4/tcp_syncookies",
            "net.core.somaxconn",
            "kernel.msgmax",
        ] {
            assert_eq!(
                rejection_text(json!({"securityContext": sysctl(name)})),
                None,
                "{name}"
            );
        }
        let forbidden = rejection_text(json!({"securityContext": sysctl("kernel.shmmax")}));
        assert_eq!(
            forbidden.as_deref(),
            Some(
                "SysctlForbidden Pod was rejected: forbidden sysctl: \"kernel.shmmax\" not \
                 allowlisted"
            )
        );
    }

    #[test]
    fn the_nodes_own_namespaces_are_not_changed() {
        // statefulset.md 12.16
        let name = "net.ipv4.tcp_syncookies";
        let spec = json!({"hostNetwork": true, "securityContext": sysctl(name)});
        assert!(
            rejection_text(spec)
                .unwrap()
                .ends_with("not allowed with host net enabled")
        );
        let name = "kernel.shm_rmid_forced";
        let spec = json!({"hostIPC": true, "securityContext": sysctl(name)});
        assert!(
            rejection_text(spec)
                .unwrap()
                .ends_with("not allowed with host ipc enabled")
        );
    }

    #[test]
    fn a_pod_for_another_system_is_not_taken() {
        let on = |system: &str| rejection_text(json!({"os": {"name": system}}));
        assert_eq!(on("linux"), None);
        let refused = "PodOSNotSupported Pod was rejected: Failed to admit pod as the OS field \
                       doesn't match node OS";
        assert_eq!(on("windows").as_deref(), Some(refused));
        let labelled = |system: &str| {
            let pod = json!({"metadata": {"labels": {"kubernetes.io/os": system}},
                "spec": {"containers": []}});
            let pod = json_tree::from_value(pod).unwrap();
            rejection(&pod, &Policy::default()).map(|rejection| rejection.reason)
        };
        assert_eq!(labelled("linux"), None);
        let reason = "PodOSSelectorNodeLabelDoesNotMatch";
        assert_eq!(labelled("windows").as_deref(), Some(reason));
    }

    #[test]
    fn a_guard_that_is_not_there_is_not_left_out() {
        let with = |type_: &str| {
            let context = json!({"appArmorProfile": {"type": type_}});
            json!({"containers": [{"name": "c", "securityContext": context}]})
        };
        assert!(
            rejection_text(with("RuntimeDefault"))
                .unwrap()
                .starts_with("AppArmor ")
        );
        assert_eq!(rejection_text(with("Unconfined")), None);
    }

    #[test]
    fn a_node_that_lacks_something_takes_only_who_does_no_harm() {
        // statefulset.md 12.16
        let under = |conditions: &[Condition], spec: json_tree::Value| {
            let mut whole = json!({"containers": [{"name": "c"}]});
            for (key, part) in spec.as_object().unwrap() {
                whole[key] = part.clone();
            }
            let pod = json_tree::from_value(json!({"spec": whole})).unwrap();
            let conditions = conditions.iter().copied().collect();
            let failure = under_pressure(&pod, &conditions)?.failure();
            Some(format!("{} {}", failure.reason, failure.message))
        };
        let (memory, disk) = (Condition::MemoryPressure, Condition::DiskPressure);
        let burstable = json!({"containers": [{"name": "c",
            "resources": {"requests": {"memory": "1Mi"}}}]});
        let critical = json!({"priority": 2_000_000_000});
        let tolerant = |toleration: json_tree::Value| json!({"tolerations": [toleration]});
        let message = |conditions: &str| {
            let text =
                format!("Evicted Pod was rejected: The node had condition: [{conditions}]. ");
            Some(text)
        };
        assert_eq!(under(&[], json!({})), None);
        assert_eq!(under(&[memory], json!({})), message("MemoryPressure"));
        assert_eq!(under(&[memory], burstable.clone()), None);
        assert_eq!(under(&[disk], burstable.clone()), message("DiskPressure"));
        assert_eq!(
            under(&[disk, memory], burstable),
            message("DiskPressure MemoryPressure")
        );
        assert_eq!(under(&[disk, memory], critical), None);
        for (toleration, is_admitted) in [
            (json!({"operator": "Exists"}), true),
            (
                json!({"key": MEMORY_PRESSURE_TAINT, "operator": "Exists", "effect": "NoSchedule"}),
                true,
            ),
            (json!({"key": MEMORY_PRESSURE_TAINT}), true),
            (json!({"key": MEMORY_PRESSURE_TAINT, "value": "x"}), false),
            (
                json!({"key": MEMORY_PRESSURE_TAINT, "effect": "NoExecute"}),
                false,
            ),
            (
                json!({"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}),
                false,
            ),
        ] {
            let failure = under(&[memory], tolerant(toleration.clone()));
            assert_eq!(failure.is_none(), is_admitted, "{toleration}");
            assert!(under(&[disk], tolerant(toleration)).is_some());
        }
    }
}
