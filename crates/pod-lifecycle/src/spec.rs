//! Accessors of a pod's specification: its containers, their kinds and their order.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, Probe};
use resource_kinds::stateful_set_policy::{CheckKind, GuardCheck, PodHold};

use crate::limits::GRACE_DEFAULT_SECONDS;

/// Lowest priority of a critical pod (`system-cluster-critical`).
pub(crate) const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The kind of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A container that runs once, before the next init container starts.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    /// A container of `spec.containers`.
    Main,
    /// A container that is added to the running pod for debugging; runs once.
    Ephemeral,
}

/// One of a container's three probes, or a check of the guard of its set's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Delays the other two probes until the application has started.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Decides whether the container gets traffic of Services.
    Readiness,
    /// An action of a policy, whose result is a condition of the pod.
    Guard(CheckKind),
}

impl ProbeKind {
    /// The first word of event messages about the probe.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Guard(CheckKind::Health) => "Health",
            Self::Guard(CheckKind::Recovery) => "Recovery",
            Self::Guard(CheckKind::Hook) => "Hook",
        }
    }
}

/// The probe of a container; `None` if it has no probe of this kind.
pub fn probe<'p>(pod: &Pod, container: &'p Container, kind: ProbeKind) -> Option<Cow<'p, Probe>> {
    let probe = match kind {
        ProbeKind::Startup => &container.startup_probe,
        ProbeKind::Liveness => &container.liveness_probe,
        ProbeKind::Readiness => &container.readiness_probe,
        ProbeKind::Guard(kind) => {
            return guard_probe(pod, &container.name, kind).map(Cow::Owned);
        }
    };
    probe.as_ref().map(Cow::Borrowed)
}

/// The check of a guard that runs in this container.
fn guard_probe(pod: &Pod, container: &str, kind: CheckKind) -> Option<Probe> {
    let containers = &pod.spec.as_ref()?.containers;
    let check = guard_check(pod, kind)?;
    check.runs_in(container, containers).then(|| check.probe())
}

/// The check of a guard in the pod's annotations.
pub(crate) fn guard_check(pod: &Pod, kind: CheckKind) -> Option<GuardCheck> {
    let annotations = pod.metadata.annotations.as_ref()?;
    GuardCheck::parse(annotations.get(kind.annotation())?)
}

/// The run of a check: the id of the hook that the pod's annotation has; empty for a check of a guard, which has no end.
pub(crate) fn check_run(pod: &Pod, kind: CheckKind) -> String {
    if kind != CheckKind::Hook {
        return String::new();
    }
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(kind.annotation()));
    let hold = text.and_then(|text| PodHold::parse(text));
    hold.map(|hold| hold.id).unwrap_or_default()
}

/// The pod's init containers, including sidecars, in order.
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The kind of an init container.
pub fn init_kind(container: &Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

/// The pod's ephemeral containers in order, each converted to a container.
pub fn ephemeral_containers(spec: &PodSpec) -> Vec<Container> {
    let all = spec.ephemeral_containers.iter().flatten();
    all.map(container_of).collect()
}

/// The container whose processes an ephemeral container shares; `None` if it names none.
pub fn target_of<'a>(spec: &'a PodSpec, ephemeral: &str) -> Option<&'a str> {
    let mut all = spec.ephemeral_containers.iter().flatten();
    let target = all
        .find(|container| container.name == ephemeral)?
        .target_container_name
        .as_deref();
    target.filter(|name| !name.is_empty())
}

fn container_of(ephemeral: &EphemeralContainer) -> Container {
    let source = ephemeral.clone();
    Container {
        name: source.name,
        image: source.image,
        image_pull_policy: source.image_pull_policy,
        command: source.command,
        args: source.args,
        working_dir: source.working_dir,
        env: source.env,
        env_from: source.env_from,
        volume_mounts: source.volume_mounts,
        volume_devices: source.volume_devices,
        security_context: source.security_context,
        stdin: source.stdin,
        stdin_once: source.stdin_once,
        tty: source.tty,
        termination_message_path: source.termination_message_path,
        termination_message_policy: source.termination_message_policy,
        // Ephemeral containers have no resources, ports, probes or hooks.
        ..Container::default()
    }
}

/// The containers of the pod: init containers and sidecars in order, then the main containers.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Kind, &Container)> {
    let init = init_containers(spec).iter().map(|c| (init_kind(c), c));
    init.chain(spec.containers.iter().map(|c| (Kind::Main, c)))
}

/// The container with this name, of any kind.
pub fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<(Kind, Cow<'a, Container>)> {
    if let Some((kind, container)) = containers(spec).find(|(_, c)| c.name == name) {
        return Some((kind, Cow::Borrowed(container)));
    }
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    let container = ephemeral.find(|container| container.name == name)?;
    Some((Kind::Ephemeral, Cow::Owned(container_of(container))))
}

/// The pod's `restartPolicy`; `Always` if it is not set.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// The grace period in the pod's specification, or the default.
pub fn grace_seconds(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds
        .unwrap_or(GRACE_DEFAULT_SECONDS)
        .max(1)
}

/// Whether the grace period in the pod's specification is 0: its containers are killed without a signal,
/// and the node confirms the end of the pod at once. The API server grants such a pod one second
/// (`Pod::grace`). In Kubernetes, the pod's object would be removed while its containers still run.
pub fn has_no_grace(spec: &PodSpec) -> bool {
    spec.termination_grace_period_seconds == Some(0)
}

/// Whether the pod is on the host network.
pub fn uses_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// Whether the pod is critical for the cluster.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

/// The user of all containers of the pod; `None` if the users differ. As kubelet's `FsUser`. Ephemeral
/// containers and the users of images do not count.
pub fn common_user(spec: &PodSpec) -> Option<i64> {
    let of_pod = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = containers(spec).map(|(_, container)| {
        let context = container.security_context.as_ref();
        context.and_then(|c| c.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// The pod's name in messages: `name_namespace(uid)`.
pub fn display_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_of(spec: json_tree::Value) -> Option<i64> {
        common_user(&json_tree::from_value(spec).unwrap())
    }

    #[test]
    fn a_common_user_is_that_of_every_container() {
        // statefulset.md 12.13
        use json_tree::json;
        let container = |user: Option<i64>| {
            let context = user.map(|user| json!({"runAsUser": user}));
            json!({"name": "c", "securityContext": context})
        };
        let all = |pod: Option<i64>, init: &[Option<i64>], main: &[Option<i64>]| {
            let list =
                |users: &[Option<i64>]| users.iter().copied().map(container).collect::<Vec<_>>();
            user_of(
                json!({"securityContext": {"runAsUser": pod}, "initContainers": list(init),
                "containers": list(main),
                "ephemeralContainers": [{"name": "d", "securityContext": {"runAsUser": 7}}]}),
            )
        };
        assert_eq!(all(Some(1000), &[], &[None, None]), Some(1000));
        assert_eq!(all(None, &[Some(5)], &[Some(5), Some(5)]), Some(5));
        assert_eq!(all(Some(0), &[None], &[None]), Some(0));
        assert_eq!(all(Some(1000), &[Some(1000)], &[None]), Some(1000));
        // The users differ, or the image decides.
        assert_eq!(all(Some(1000), &[Some(0)], &[None]), None);
        assert_eq!(all(Some(1000), &[], &[None, Some(1001)]), None);
        assert_eq!(all(None, &[], &[Some(5), None]), None);
        assert_eq!(all(None, &[], &[None, Some(5)]), None);
        assert_eq!(all(None, &[None], &[Some(5)]), None);
        assert_eq!(all(None, &[], &[None]), None);
    }
}
