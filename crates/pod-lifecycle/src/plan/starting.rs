//! Start of a pod: sandbox and volumes first, then containers in their order, then probes.
//!
//! Ephemeral containers start as soon as there is a sandbox, independent of the other containers, and only
//! once (kubectl.md 5.8). Init containers run one after another; the next init container starts as soon as
//! a sidecar has started (statefulset.md §12.2, §12.3). Main containers start together.

use k8s_openapi::api::core::v1::Container;
use resource_kinds::stateful_set_policy::CheckKind;

use super::action::LifecycleAction;
use super::planner::{Planner, deadline};
use super::probing::ask;
use super::resize::{self, ResizeStep};
use super::{restart_all, stopping};
use crate::input::PodConfirmation;
use crate::limits::FRESH_ERROR;
use crate::messages;
use crate::monotonic::Instant;
use crate::record::backoff;
use crate::record::probes::ProbeVerdict;
use crate::record::resize::ResourceUpdate;
use crate::record::{
    ContainerRecord, Exit, Hook, Image, Instance, Running, Sandbox, StopCause, Volumes,
};
use crate::restart_policy;
use crate::spec::{Kind, ProbeKind, grace_seconds, init_containers, init_kind};
use crate::status::{container_status, phase};

/// Plans a pod that should run: its volumes, its sandbox, then its containers.
pub(crate) fn run_pod(planner: &mut Planner<'_>) {
    if let Some(at) = deadline(&planner.input, planner.spec) {
        planner.wake(at);
    }
    if planner.input.predecessor {
        return planner.wait("", "the former pod of this name is still on the node");
    }
    if planner.input.record.restart_all.is_some() {
        return restart_all::end_all(planner);
    }
    if let Some(restart) = restart_policy::asks_for_restart_all(planner.spec, planner.input.record)
    {
        // The next plan uses the record with the restart.
        return planner.act(LifecycleAction::RestartAll(restart));
    }
    if !resize::allocate(planner) {
        // The next plan uses the record with the change.
        return;
    }
    let has_sandbox = planner.input.record.sandbox == Sandbox::Ready;
    if !has_sandbox && planner.input.confirmation == PodConfirmation::Unconfirmed {
        // The pod may have been deleted, and replaced on another node, while this node was off.
        return planner.wait(
            "",
            "a new sandbox waits for an API server, which has to confirm that the pod is still bound to \
             this node",
        );
    }
    let sandbox = prepare_sandbox(planner);
    let volumes = prepare_volumes(planner);
    let limits = planner.input.record.resize.pod.update != ResourceUpdate::InFlight;
    let ready = sandbox && volumes && limits;
    for container in planner.ephemeral {
        advance(planner, Kind::Ephemeral, container, ready);
    }
    let initialized = start_init_containers(planner, ready);
    if initialized {
        for container in &planner.spec.containers {
            advance(planner, Kind::Main, container, ready);
        }
    }
    resize::settle_pod(planner);
}

fn prepare_sandbox(planner: &mut Planner<'_>) -> bool {
    let record = planner.input.record;
    match &record.sandbox {
        Sandbox::Ready => return true,
        Sandbox::None => planner.act(LifecycleAction::CreateSandbox),
        Sandbox::Gone => planner.act(LifecycleAction::DestroySandbox),
        Sandbox::Failed { at, message } => {
            let due = backoff::retry_at(*at, record.sandbox_failures);
            planner.wait("", format!("sandbox: {message}"));
            if due <= planner.now.instant {
                planner.act(LifecycleAction::DestroySandbox);
            } else {
                planner.wake(due);
            }
        }
        Sandbox::Creating | Sandbox::Destroying => planner.wait("", "sandbox"),
    }
    false
}

fn prepare_volumes(planner: &mut Planner<'_>) -> bool {
    let record = planner.input.record;
    match &record.volumes {
        Volumes::Ready => return true,
        Volumes::None | Volumes::Unknown => planner.act(LifecycleAction::PrepareVolumes),
        Volumes::Failed { at, message } => {
            let due = backoff::retry_at(*at, record.volume_failures);
            planner.wait("", format!("volumes: {message}"));
            if due <= planner.now.instant {
                planner.act(LifecycleAction::PrepareVolumes);
            } else {
                planner.wake(due);
            }
        }
        Volumes::Preparing | Volumes::Releasing => planner.wait("", "volumes"),
    }
    false
}

/// Starts init containers. Returns whether the main containers may run.
fn start_init_containers(planner: &mut Planner<'_>, ready: bool) -> bool {
    let record = planner.input.record;
    let spec = planner.spec;
    let containers = init_containers(spec);
    let begun = phase::main_begun(spec, record);
    // Sidecars before the last started init container have started once: they are restarted, but block no
    // other container any more.
    let furthest = containers
        .iter()
        .rposition(|c| begun_here(planner, &c.name))
        .unwrap_or(0);
    for (index, container) in containers.iter().enumerate() {
        let passed = begun || index < furthest;
        let kind = init_kind(container);
        if kind == Kind::Init && passed {
            continue;
        }
        let done = match kind {
            Kind::Sidecar => {
                advance(planner, kind, container, ready);
                passed || sidecar_started(record.containers.get(&container.name), container)
            }
            _ => init_done(planner, container, ready),
        };
        if !done {
            planner.wait(&container.name, "init container");
            return false;
        }
    }
    true
}

/// Whether the container has an instance in the current sandbox.
fn begun_here(planner: &Planner<'_>, name: &str) -> bool {
    let record = planner.input.record;
    let Some(container) = record.containers.get(name) else {
        return false;
    };
    match &container.instance {
        Instance::Running(running) => running.sandbox == record.sandboxes_made,
        Instance::Exited(exit) => exit.sandbox == record.sandboxes_made && !container.anew,
        _ => false,
    }
}

fn sidecar_started(record: Option<&ContainerRecord>, container: &Container) -> bool {
    match record.map(|r| &r.instance) {
        Some(Instance::Running(running)) => container_status::is_started(running, container),
        _ => false,
    }
}

fn init_done(planner: &mut Planner<'_>, container: &Container, ready: bool) -> bool {
    let record = planner.input.record;
    let exit = record
        .containers
        .get(&container.name)
        .and_then(|c| match &c.instance {
            Instance::Exited(exit) if !c.anew => Some(exit),
            _ => None,
        });
    if exit.is_some_and(|exit| exit.code == 0 && exit.sandbox == record.sandboxes_made) {
        return true;
    }
    advance(planner, Kind::Init, container, ready);
    false
}

/// Plans the next step of one container.
fn advance(planner: &mut Planner<'_>, kind: Kind, container: &Container, ready: bool) {
    let name = &container.name;
    let fresh = ContainerRecord::default();
    let record = planner.input.record.containers.get(name).unwrap_or(&fresh);
    match &record.instance {
        Instance::Absent => start(planner, container, record, ready),
        Instance::Starting { .. } => planner.wait(name, "start"),
        Instance::Refused(refusal) => {
            let due = backoff::retry_at(refusal.at, refusal.failures);
            if due <= planner.now.instant {
                start(planner, container, record, ready);
            } else {
                planner.wake(due);
                planner.wait(name, refusal.reason.clone());
            }
        }
        Instance::Exited(exit) => restart(planner, (kind, container), record, exit, ready),
        Instance::Running(running) if running.stop.is_some() => {
            stopping::advance_stop(planner, container, running, true);
        }
        Instance::Running(running) => watch(planner, (kind, container), running),
    }
}

fn start(planner: &mut Planner<'_>, container: &Container, record: &ContainerRecord, ready: bool) {
    let name = container.name.clone();
    match &record.image {
        Image::Unknown => planner.act(LifecycleAction::EnsureImage { container: name }),
        Image::Ensuring | Image::EnsuringAgain { .. } => planner.wait(&name, "image"),
        Image::Present if ready => {
            let restart_count = record.next_restart_count();
            planner.act(LifecycleAction::StartContainer {
                container: name,
                restart_count,
            });
        }
        Image::Present => planner.wait(&name, "sandbox and volumes"),
        Image::Missing {
            reason,
            at,
            announced,
            ..
        } => {
            let due = record.pull_backoff.until(*at).unwrap_or(*at);
            planner.wait(&name, reason.clone());
            if due <= planner.now.instant {
                return planner.act(LifecycleAction::EnsureImage { container: name });
            }
            planner.wake(due);
            if !announced && messages::is_backed_off(reason) {
                announce_later(
                    planner,
                    *at,
                    LifecycleAction::AnnouncePullBackOff { container: name },
                );
            }
        }
    }
}

fn restart(
    planner: &mut Planner<'_>,
    (kind, container): (Kind, &Container),
    record: &ContainerRecord,
    exit: &Exit,
    ready: bool,
) {
    if kind == Kind::Ephemeral {
        return;
    }
    let ours = exit.sandbox == planner.input.record.sandboxes_made;
    let over = ours && !restart_policy::wants_restart(planner.spec, kind, container, exit)
        || !ours && kind == Kind::Main && !wants_restart_in_new_sandbox(planner, container, exit);
    if over && !record.anew {
        return;
    }
    if !ours || exit.by_node {
        return start(planner, container, record, ready);
    }
    match record.backoff.until(exit.finished_at.instant) {
        Some(due) if due > planner.now.instant => {
            planner.wake(due);
            planner.wait(&container.name, "CrashLoopBackOff");
            if !record.backoff_announced {
                let action = LifecycleAction::AnnounceBackOff {
                    container: container.name.clone(),
                };
                let delay = match container_status::start_trouble(exit) {
                    Some(_) => FRESH_ERROR,
                    None => jiff::SignedDuration::ZERO,
                };
                announce_at(planner, exit.finished_at.instant + delay, action);
            }
        }
        _ => start(planner, container, record, ready),
    }
}

/// Whether a main container that exited with a former sandbox runs again in the new sandbox.
fn wants_restart_in_new_sandbox(planner: &Planner<'_>, container: &Container, exit: &Exit) -> bool {
    restart_policy::wants_restart(planner.spec, Kind::Main, container, exit)
}

fn announce_later(planner: &mut Planner<'_>, since: Instant, action: LifecycleAction) {
    announce_at(planner, since + FRESH_ERROR, action);
}

fn announce_at(planner: &mut Planner<'_>, at: Instant, action: LifecycleAction) {
    if at <= planner.now.instant {
        planner.act(action);
    } else {
        planner.wake(at);
    }
}

/// Plans the hook, the probes and the restarts of a running container.
fn watch(planner: &mut Planner<'_>, (kind, container): (Kind, &Container), running: &Running) {
    let name = &container.name;
    match &running.post_start {
        Hook::Pending => {
            return planner.act(LifecycleAction::RunPostStart {
                container: name.clone(),
            });
        }
        Hook::Running => return planner.wait(name, "postStart hook"),
        Hook::Failed(_) => return begin_stop(planner, container, StopCause::PostStart),
        Hook::Done => {}
    }
    if kind != Kind::Init && container.image.as_deref() != Some(running.image.as_str()) {
        return begin_stop(planner, container, StopCause::Changed);
    }
    if kind == Kind::Main || kind == Kind::Sidecar {
        match resize::step(
            planner.input.record,
            container,
            running,
            planner.now.instant,
        ) {
            ResizeStep::None => {}
            ResizeStep::Restart => return begin_stop(planner, container, StopCause::Resized),
            ResizeStep::Update => planner.act(LifecycleAction::UpdateResources {
                container: name.clone(),
            }),
            ResizeStep::Wait(at) => {
                if let Some(at) = at {
                    planner.wake(at);
                }
                planner.wait(name, "its new resources");
            }
        }
    }
    if running.startup.verdict == ProbeVerdict::Failure {
        return begin_stop(planner, container, StopCause::Startup);
    }
    if running.liveness.verdict == ProbeVerdict::Failure {
        return begin_stop(planner, container, StopCause::Liveness);
    }
    let started =
        running.startup.verdict == ProbeVerdict::Success || container.startup_probe.is_none();
    if started {
        ask(planner, container, running, ProbeKind::Liveness);
        ask(planner, container, running, ProbeKind::Readiness);
        for kind in CheckKind::ALL {
            ask(planner, container, running, ProbeKind::Guard(kind));
        }
    } else {
        planner.wait(name, "startup probe");
        ask(planner, container, running, ProbeKind::Startup);
    }
}

fn begin_stop(planner: &mut Planner<'_>, container: &Container, cause: StopCause) {
    let probe_grace = match cause {
        StopCause::Liveness => &container.liveness_probe,
        StopCause::Startup => &container.startup_probe,
        _ => &None,
    };
    let grace_seconds = probe_grace
        .as_ref()
        .and_then(|probe| probe.termination_grace_period_seconds)
        .unwrap_or(grace_seconds(planner.spec));
    stopping::begin(planner, container, cause, grace_seconds);
}
