//! Termination of pods after their agent was killed, from the records on disk. The command that removes a
//! node uses this module without an agent and without an API server.
//!
//! The module uses the planner of the agent, as a node shutdown does. Hooks, signals, grace periods and the
//! order of sidecars follow the pod's specification.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container_runtime::Sandbox;
use container_runtime::spec::{SandboxState, SandboxStatus};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::{Hook, Instance, Running, Stop};
use pod_lifecycle::resources::amounts::NodeResources;
use pod_lifecycle::{LifecycleAction, PodInput, PodRecord, StopCause, plan_pod, spec};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::containers::instance::signal_number;
use crate::containers::lifecycle_hooks;
use crate::machine::machine_info::MachineInfo;
use crate::paths::{PodDir, runtime_id};
use crate::pods::recovery::{self, FoundPod};
use crate::probes::prober::ProbeTarget;

/// Interval of the checks whether containers have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The address of a pod on the host network.
const OF_NODE: &str = "127.0.0.1";

/// The pods of a killed agent.
pub struct LeftPods {
    data_dir: PathBuf,
    clock: Clock,
    found: BTreeMap<String, FoundPod>,
}

impl LeftPods {
    /// Reads the pods' objects and records.
    ///
    /// # Errors
    /// Fails if a directory cannot be read.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let machine = MachineInfo::read(data_dir);
        Ok(Self {
            data_dir: data_dir.to_owned(),
            clock: Clock::open(data_dir, &machine.boot_id)?,
            found: recovery::found(data_dir)?,
        })
    }

    /// Stops the containers of a sandbox, then removes the sandbox. Returns messages about deviations from
    /// the pod's specification.
    ///
    /// # Errors
    /// Fails if the sandbox could not be removed completely.
    pub async fn end(&self, sandbox: &Sandbox) -> container_runtime::Result<Vec<String>> {
        let notes = match recovery::reconnect(sandbox).await {
            Ok((state, _)) => self.ending(sandbox, &state).carry_out().await,
            Err(error) => vec![format!(
                "its shim does not answer ({error}), so no hook has run, and its containers were killed"
            )],
        };
        sandbox.destroy().await?;
        Ok(notes)
    }

    fn ending<'a>(&'a self, sandbox: &'a Sandbox, state: &SandboxState) -> Ending<'a> {
        let found = self.found.get(sandbox.id());
        let mut pod = match found {
            Some(found) => Pod::clone(&found.pod),
            None => recovery::pod_of_sandbox(sandbox),
        };
        let mut notes = Vec::new();
        if pod.spec.is_none() {
            notes.push(
                "its object is not on disk, so no hook has run, and its containers got SIGTERM"
                    .to_owned(),
            );
            pod.spec = Some(spec_of(state));
        }
        let dir = PodDir::of(&self.data_dir, &pod);
        let stored = found.map(|found| found.stored.clone()).unwrap_or_default();
        let now = self.clock.now();
        let adopted = recovery::adopt(stored, &pod, &dir, Some(state), &|_| None, now);
        Ending {
            clock: &self.clock,
            sandbox,
            pod,
            dir,
            record: adopted.record,
            hooks: JoinSet::new(),
            notes,
        }
    }
}

/// A pod specification with only the names of the sandbox's containers, for a pod without a stored object.
fn spec_of(state: &SandboxState) -> PodSpec {
    let containers = state.containers.values().map(|container| Container {
        name: container.name.clone(),
        ..Container::default()
    });
    PodSpec {
        containers: containers.collect(),
        ..PodSpec::default()
    }
}

/// The state of one pod's termination.
struct Ending<'a> {
    clock: &'a Clock,
    sandbox: &'a Sandbox,
    pod: Pod,
    dir: PodDir,
    record: PodRecord,
    /// Running hooks: the name of the container, and the result.
    hooks: JoinSet<(String, Result<(), String>)>,
    notes: Vec<String>,
}

impl Ending<'_> {
    async fn carry_out(mut self) -> Vec<String> {
        loop {
            for action in self.actions() {
                self.perform(action).await;
            }
            if !self.record.anything_runs() {
                break;
            }
            tokio::select! {
                Some(ended) = self.hooks.join_next() => match ended {
                    Ok((container, result)) => self.hook_ended(&container, result),
                    Err(error) => self.notes.push(format!("a preStop hook: {error}")),
                },
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let Ok(state) = self.sandbox.state().await else {
                break;
            };
            if state.status == SandboxStatus::Dead {
                break;
            }
            let at = (&self.dir, self.clock.now());
            recovery::adopt_containers(&mut self.record, &self.pod, at, &state, &|_| None);
        }
        self.notes
    }

    fn actions(&self) -> Vec<LifecycleAction> {
        let input = PodInput {
            pod: &self.pod,
            record: &self.record,
            previous: &PodStatus::default(),
            removed: false,
            predecessor: false,
            confirmed: false,
            node_stops: Some(NodeStop::default()),
            host_ips: &[],
            node_resources: NodeResources::default(),
        };
        plan_pod(&input, self.clock.now()).actions
    }

    async fn perform(&mut self, action: LifecycleAction) {
        match action {
            LifecycleAction::BeginStop {
                container,
                cause,
                grace_seconds,
                ..
            } => self.begin(&container, cause, grace_seconds),
            LifecycleAction::Terminate { container } => {
                let now = self.clock.instant();
                let of_image = self.running(&container).and_then(|running| {
                    if let Some(stop) = &mut running.stop {
                        stop.signalled_at = Some(now);
                    }
                    running.stop_signal.clone()
                });
                let own = self.container(&container).and_then(|c| c.lifecycle);
                let own = own.and_then(|lifecycle| lifecycle.stop_signal);
                let signal = own.or(of_image).and_then(|name| signal_number(&name));
                self.signal(&container, signal.unwrap_or(nix::libc::SIGTERM))
                    .await;
            }
            LifecycleAction::Kill { container } => {
                let now = self.clock.instant();
                let running = self.running(&container);
                if let Some(stop) = running.and_then(|running| running.stop.as_mut()) {
                    stop.killed_at = Some(now);
                }
                self.signal(&container, nix::libc::SIGKILL).await;
            }
            // The other actions of the plan are not needed, because the removal of the sandbox follows.
            _ => {}
        }
    }

    fn begin(&mut self, name: &str, cause: StopCause, grace_seconds: i64) {
        let Some(container) = self.container(name) else {
            return;
        };
        let lifecycle = container.lifecycle.clone();
        let hook = lifecycle.and_then(|lifecycle| lifecycle.pre_stop);
        let hook = hook.filter(|_| grace_seconds > 0);
        let stop = Stop {
            cause,
            since: self.clock.instant(),
            grace_seconds,
            pre_stop: match hook {
                Some(_) => Hook::Running,
                None => Hook::Done,
            },
            signalled_at: None,
            killed_at: None,
        };
        if let Some(running) = self.running(name) {
            running.stop = Some(stop);
        }
        let Some(hook) = hook else { return };
        let of_pod = self.record.pod_ips.first().cloned();
        let asked = ProbeTarget {
            sandbox: self.sandbox.clone(),
            runtime_id: self.runtime_id(name),
            container,
            pod_ip: of_pod.unwrap_or_else(|| OF_NODE.to_owned()),
        };
        let (pod, name) = (spec::display_name(&self.pod), name.to_owned());
        let limit = Duration::from_secs(grace_seconds.unsigned_abs());
        self.hooks.spawn(async move {
            let ran = lifecycle_hooks::run(&asked, &pod, &hook, limit).await;
            (name, ran.map(drop))
        });
    }

    fn hook_ended(&mut self, container: &str, result: Result<(), String>) {
        if let Err(why) = result {
            self.notes.push(format!("a preStop hook failed: {why}"));
        }
        let running = self.running(container);
        if let Some(stop) = running.and_then(|running| running.stop.as_mut()) {
            stop.pre_stop = Hook::Done;
        }
    }

    async fn signal(&mut self, container: &str, signal: i32) {
        let id = self.runtime_id(container);
        if let Err(error) = self.sandbox.signal(&id, signal).await {
            self.notes.push(format!(
                "the signal {signal} was not sent to container {container:?}: {error}"
            ));
        }
    }

    fn runtime_id(&mut self, container: &str) -> String {
        runtime_id(container, self.record.container(container).restart_count)
    }

    fn container(&self, name: &str) -> Option<Container> {
        let (_, container) = spec::find(self.pod.spec.as_ref()?, name)?;
        Some(container.into_owned())
    }

    fn running(&mut self, name: &str) -> Option<&mut Running> {
        match &mut self.record.containers.get_mut(name)?.instance {
            Instance::Running(running) => Some(running),
            _ => None,
        }
    }
}
