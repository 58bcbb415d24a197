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
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use object_model::{IncompleteMetadata, Uid};
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::{Hook, Instance, Running, Stop};
use pod_lifecycle::resources::amounts::NodeResources;
use pod_lifecycle::{
    LifecycleAction, PodConfirmation, PodIdentity, PodInput, PodRecord, StopCause, plan_pod, spec,
};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::containers::instance::signal_number;
use crate::containers::lifecycle_hooks::{self, HookError};
use crate::machine::machine_info::MachineInfo;
use crate::paths::{PodDir, runtime_id};
use crate::pods::adoption::{self, RecoveredPod};
use crate::pods::recovery::{self, RecordedPod};
use crate::probes::prober::ProbeTarget;

/// Interval of the checks whether containers have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The address of a pod on the host network.
const NODE_ADDRESS: &str = "127.0.0.1";

/// The pods of a killed agent.
pub struct LeftPods {
    data_dir: PathBuf,
    clock: Clock,
    recorded: BTreeMap<Uid, RecordedPod>,
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
            recorded: recovery::recorded_pods(data_dir)?,
        })
    }

    /// Stops the containers of a sandbox, then removes the sandbox. Returns messages about deviations from
    /// the pod's specification.
    ///
    /// # Errors
    /// Fails if the sandbox could not be removed completely.
    pub async fn end(&self, sandbox: &Sandbox) -> container_runtime::Result<Vec<String>> {
        let notes = match adoption::reconnect(sandbox).await {
            Ok((state, _)) => match self.ending(sandbox, &state) {
                Ok(ending) => ending.carry_out().await,
                Err(error) => vec![error.to_string()],
            },
            Err(error) => vec![format!(
                "its shim does not answer ({error}), so no hook has run, and its containers were killed"
            )],
        };
        sandbox.destroy().await?;
        Ok(notes)
    }

    fn ending<'a>(
        &'a self,
        sandbox: &'a Sandbox,
        state: &SandboxState,
    ) -> Result<Ending<'a>, IncompleteMetadata> {
        let unrecorded = RecordedPod::of_sandbox(sandbox)?;
        let recorded = self.recorded.get(&unrecorded.identity.uid);
        let recorded = recorded.cloned().unwrap_or(unrecorded);
        let mut pod = Pod::clone(&recorded.pod);
        let mut notes = Vec::new();
        if pod.spec.is_none() {
            notes.push(
                "its object is not on disk, so no hook has run, and its containers got SIGTERM"
                    .to_owned(),
            );
            pod.spec = Some(spec_of(state));
        }
        let identity = recorded.identity;
        let dir = PodDir::new(&self.data_dir, &identity);
        let recovered = RecoveredPod {
            identity: &identity,
            pod: &pod,
            dir: &dir,
            image_id: &|_| None,
            now: self.clock.now(),
        };
        let adopted = block_in_place(|| adoption::adopt(recorded.stored, &recovered, Some(state)));
        Ok(Ending {
            clock: &self.clock,
            sandbox,
            identity,
            pod,
            dir,
            record: adopted.record,
            hooks: JoinSet::new(),
            notes,
        })
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
    identity: PodIdentity,
    pod: Pod,
    dir: PodDir,
    record: PodRecord,
    /// Running hooks: the name of the container, and the result.
    hooks: JoinSet<(String, Result<(), HookError>)>,
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
                Some(result) = self.hooks.join_next() => match result {
                    Ok((container, result)) => self.hook_ended(&container, result),
                    Err(error) => self.notes.push(format!("a preStop hook: {error}")),
                },
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            let Ok(state) = self.sandbox.state().await else {
                break;
            };
            if state.status == SandboxStatus::Dead {
                break;
            }
            let recovered = RecoveredPod {
                identity: &self.identity,
                pod: &self.pod,
                dir: &self.dir,
                image_id: &|_| None,
                now: self.clock.now(),
            };
            block_in_place(|| adoption::adopt_containers(&mut self.record, &recovered, &state));
        }
        self.notes
    }

    fn actions(&self) -> Vec<LifecycleAction> {
        let input = PodInput {
            pod: &self.pod,
            record: &self.record,
            previous: &PodStatus::default(),
            confirmation: PodConfirmation::Unconfirmed,
            predecessor: false,
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
                let image_signal = self.running(&container).and_then(|running| {
                    if let Some(stop) = &mut running.stop {
                        stop.signalled_at = Some(now);
                    }
                    running.stop_signal.clone()
                });
                let lifecycle = self.container(&container).and_then(|c| c.lifecycle);
                let container_signal = lifecycle.and_then(|lifecycle| lifecycle.stop_signal);
                let signal = container_signal
                    .or(image_signal)
                    .and_then(|name| signal_number(&name));
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
        let pod_ip = self.record.pod_ips.first().cloned();
        let target = ProbeTarget {
            sandbox: self.sandbox.clone(),
            runtime_id: self.runtime_id(name),
            container,
            pod_ip: pod_ip.unwrap_or_else(|| NODE_ADDRESS.to_owned()),
        };
        let (pod, name) = (self.identity.to_string(), name.to_owned());
        let limit = Duration::from_secs(grace_seconds.unsigned_abs());
        self.hooks.spawn(async move {
            let result = lifecycle_hooks::run(&target, &pod, &hook, limit).await;
            (name, result.map(drop))
        });
    }

    fn hook_ended(&mut self, container: &str, result: Result<(), HookError>) {
        if let Err(error) = result {
            self.notes.push(format!("a preStop hook failed: {error}"));
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
