//! Views of a pod's specification: which containers there are, of what kind, in what order.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};

use crate::limits::GRACE_DEFAULT_SECONDS;

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs once, before the next one starts.
    Init,
    /// An init container that goes on running (`restartPolicy: Always`).
    Sidecar,
    /// One of the pod's `containers`.
    Main,
}

/// One of a container's three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Holds back the other two until the application has started.
    Startup,
    /// Has the container restarted when it fails.
    Liveness,
    /// Says whether the container takes part in Services.
    Readiness,
}

impl ProbeKind {
    /// The word that event messages begin with.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The probe of a container, if it has one of that kind.
pub fn probe(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// The pod's init containers, sidecars among them, in order.
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// What an init container is for.
pub fn init_kind(container: &Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

/// All containers: init containers and sidecars in order, then the main ones.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Kind, &Container)> {
    let init = init_containers(spec).iter().map(|c| (init_kind(c), c));
    init.chain(spec.containers.iter().map(|c| (Kind::Main, c)))
}

/// The container of that name, of whatever kind.
pub fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<(Kind, &'a Container)> {
    containers(spec).find(|(_, container)| container.name == name)
}

/// The pod's `restartPolicy`.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// The grace period that the pod's own specification asks for.
pub fn grace_seconds(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds
        .unwrap_or(GRACE_DEFAULT_SECONDS)
        .max(1)
}

/// Whether the pod uses the node's network.
pub fn uses_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// How messages name a pod: `name_namespace(uid)`.
pub fn display_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}
