//! A simulated node: performs a plan's actions at once, with a clock that the test sets.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::probes::{ProbeOutcome, ProbeRecord};
use pod_lifecycle::record::resize::ResourceUpdate;
use pod_lifecycle::record::{
    Exit, Hook, Image, Instance, Removal, Running, Sandbox, Stop, User, Volumes,
};
use pod_lifecycle::resources::amounts::NodeResources;
use pod_lifecycle::spec::{self, ProbeKind};
use pod_lifecycle::{
    LifecycleAction, Moment, PodConfirmation, PodInput, PodPlan, PodRecord, plan_pod,
};

/// The behaviour of the simulated node.
#[derive(Default)]
pub struct Behaviour {
    /// Containers that ignore their stop signal.
    pub deaf: Vec<&'static str>,
    /// Containers whose `preStop` hook never ends.
    pub slow_hooks: Vec<&'static str>,
    /// Results of probes, by container and probe; the last result is repeated.
    pub probes: BTreeMap<(&'static str, ProbeKind), VecDeque<ProbeOutcome>>,
    /// Images that cannot be pulled, with the reason and message.
    pub bad_images: BTreeMap<&'static str, (&'static str, &'static str)>,
    /// Containers whose limits cannot be changed.
    pub bad_limits: Vec<&'static str>,
    /// Containers whose process cannot be started.
    pub bad_commands: Vec<&'static str>,
    /// Whether every clean-up fails, because the disk rejects writes.
    pub bad_disk: bool,
}

pub struct Harness {
    pub pod: Pod,
    pub record: PodRecord,
    pub status: PodStatus,
    pub now: Moment,
    pub confirmation: PodConfirmation,
    pub predecessor: bool,
    pub node_stops: Option<NodeStop>,
    pub behaviour: Behaviour,
    pub node_resources: NodeResources,
    /// The events: seconds since the start, and a message.
    pub log: Vec<(i64, String)>,
    pub plan: PodPlan,
}

/// The status of a container of any kind.
fn status_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten());
    let mut all = all.chain(status.ephemeral_container_statuses.iter().flatten());
    all.find(|status| status.name == name)
}

/// Whether the policies allow a restart after this exit code, independent of the container's kind.
fn may_restart(pod: &PodSpec, name: &str, code: i32) -> bool {
    let Some((_, container)) = spec::containers(pod).find(|(_, c)| c.name == name) else {
        return false;
    };
    let mut rules = container.restart_policy_rules.iter().flatten();
    let fits = rules.any(|rule| {
        let codes = rule.exit_codes.as_ref().unwrap();
        let listed = codes.values.as_ref().unwrap().contains(&code);
        listed == (codes.operator == "In")
    });
    let policy = container.restart_policy.as_deref();
    fits || match policy.or(pod.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

pub fn origin() -> Moment {
    Moment::aligned(Timestamp::from_second(1_800_000_000).unwrap())
}

impl Harness {
    pub fn new(spec: json_tree::Value) -> Self {
        let pod = json_tree::from_value(json_tree::json!({
            "metadata": {"name": "web-0", "namespace": "default", "uid": "u-1"}, "spec": spec
        }))
        .unwrap();
        Harness {
            pod,
            record: PodRecord {
                started_at: Some(origin()),
                ..PodRecord::default()
            },
            status: PodStatus::default(),
            now: origin(),
            confirmation: PodConfirmation::Bound,
            predecessor: false,
            node_stops: None,
            behaviour: Behaviour::default(),
            node_resources: NodeResources::default(),
            log: Vec::new(),
            plan: PodPlan::default(),
        }
    }

    /// Plans once, without performing the actions.
    pub fn plan(&mut self) -> PodPlan {
        let hosts = ["192.0.2.1".to_owned()];
        let input = PodInput {
            pod: &self.pod,
            record: &self.record,
            previous: &self.status,
            confirmation: self.confirmation,
            predecessor: self.predecessor,
            node_stops: self.node_stops,
            host_ips: &hosts,
            node_resources: self.node_resources,
        };
        plan_pod(&input, self.now)
    }

    /// Plans and performs actions until there are no more actions at this time.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let plan = self.plan();
            self.check_ended(&plan.status);
            self.status = plan.status.clone();
            self.plan = plan.clone();
            if plan.actions.is_empty() {
                self.check_waiting();
                return;
            }
            for action in plan.actions {
                self.perform(action);
            }
        }
        panic!("no fixpoint: {:?}", self.plan.actions);
    }

    /// Checks that a plan has actions or reasons for waiting, unless the pod is healthy or removed.
    fn check_waiting(&self) {
        let phase = self.status.phase.as_deref();
        let is_settled = matches!(phase, Some("Running" | "Succeeded" | "Failed"));
        let has_reason = !self.plan.waiting.is_empty() || self.plan.finished;
        assert!(
            is_settled || has_reason,
            "silent: {:?} {:?}",
            self.status,
            self.record
        );
    }

    /// Checks that no status reports an exited container as running if it must not be restarted: the API
    /// server would reject the status.
    fn check_ended(&self, next: &PodStatus) {
        let spec = self.pod.spec.as_ref().unwrap();
        let starts_anew = spec::containers(spec)
            .flat_map(|(_, container)| container.restart_policy_rules.iter().flatten())
            .any(|rule| rule.action == "RestartAllContainers");
        let before = [
            &self.status.init_container_statuses,
            &self.status.container_statuses,
            &self.status.ephemeral_container_statuses,
        ];
        for earlier in before.into_iter().flatten().flatten() {
            let Some(ended) = earlier.state.as_ref().and_then(|s| s.terminated.as_ref()) else {
                continue;
            };
            let state = status_of(next, &earlier.name).and_then(|status| status.state.as_ref());
            let goes_on = state.is_some_and(|state| state.terminated.is_none());
            let may = starts_anew || may_restart(spec, &earlier.name, ended.exit_code);
            assert!(!goes_on || may, "{earlier:?} goes on as {state:?}");
        }
    }

    /// Advances the time, and performs actions at each requested time.
    pub fn pass(&mut self, seconds: i64) {
        let end = self.now.instant + SignedDuration::from_secs(seconds);
        self.settle();
        while let Some(at) = self.plan.next_at.filter(|at| *at <= end) {
            let left = at.since(self.now.instant);
            assert!(left.is_positive(), "asked to be called in the past");
            self.now = self.now + left;
            self.settle();
        }
        self.now = self.now + end.since(self.now.instant);
        self.settle();
    }

    /// Changes the image of the pod's first container.
    pub fn change_image(&mut self, image: &str) {
        let before = self.pod.spec.clone().unwrap();
        let spec = self.pod.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
        self.record.images_changed(&before, spec);
    }

    /// Sets the wall clock, forward or back.
    pub fn set_wall_clock(&mut self, by: SignedDuration) {
        self.now.wall = self.now.wall.checked_add(by).unwrap();
    }

    fn note(&mut self, what: impl Into<String>) {
        let seconds = self.now.instant.since(origin().instant).as_secs();
        self.log.push((seconds, what.into()));
    }

    pub fn running(&mut self, name: &str) -> Option<&mut Running> {
        match &mut self.record.container(name).instance {
            Instance::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Lets the container's process exit.
    pub fn exit(&mut self, name: &str, code: i32) {
        let now = self.now;
        let Some(running) = self.running(name).cloned() else {
            return;
        };
        let reason = if code == 0 { "Completed" } else { "Error" };
        let exit = Exit {
            code,
            reason: reason.to_owned(),
            by_node: false,
            ..running.lost(now)
        };
        self.record.container(name).exited(exit);
        self.note(format!("exit {name} {code}"));
    }

    pub fn delete(&mut self, grace: i64) {
        let meta = &mut self.pod.metadata;
        meta.deletion_timestamp = Some(Time(self.now.wall));
        meta.deletion_grace_period_seconds = Some(grace);
    }

    fn perform(&mut self, action: LifecycleAction) {
        match action {
            LifecycleAction::PrepareVolumes => self.record.volumes = Volumes::Ready,
            LifecycleAction::ReleaseVolumes { .. } if self.behaviour.bad_disk => {
                self.record.volume_failures += 1;
                self.record.volumes = Volumes::Failed {
                    message: "disk".to_owned(),
                    at: self.now.instant,
                };
            }
            LifecycleAction::ReleaseVolumes { comes_back } => {
                self.record.volumes = Volumes::None;
                if comes_back {
                    self.note("keep volumes");
                }
            }
            LifecycleAction::CreateSandbox => {
                self.record.resize.sandbox_begins();
                self.record.sandbox = Sandbox::Ready;
                self.record.sandboxes_made += 1;
                self.record.pod_ips = vec!["10.244.0.5".to_owned()];
                self.note("sandbox");
            }
            LifecycleAction::DestroySandbox => {
                assert!(
                    !self.record.anything_runs(),
                    "sandbox goes under running containers"
                );
                if self.behaviour.bad_disk {
                    self.record.sandbox_failures += 1;
                    self.record.sandbox = Sandbox::Failed {
                        message: "disk".to_owned(),
                        at: self.now.instant,
                    };
                    return self.note("sandbox stays");
                }
                self.record.sandbox = Sandbox::None;
                self.note("no sandbox");
            }
            LifecycleAction::EnsureImage { container } => self.ensure_image(&container),
            LifecycleAction::StartContainer {
                container,
                restart_count,
            } => {
                self.start(&container, restart_count);
            }
            LifecycleAction::RunPostStart { container } => {
                self.running(&container).unwrap().post_start = Hook::Done;
                self.note(format!("postStart {container}"));
            }
            LifecycleAction::Probe { container, kind } => self.probe(&container, kind),
            LifecycleAction::RemoveObject => {
                self.record.removal = Removal::Done;
                self.note("removed");
            }
            LifecycleAction::AnnounceBackOff { container } => {
                self.record.container(&container).backoff_announced = true;
                self.note(format!("BackOff {container}"));
            }
            LifecycleAction::AnnouncePullBackOff { container } => {
                let image = &mut self.record.container(&container).image;
                if let Image::Missing { announced, .. } = image {
                    *announced = true;
                }
                self.note(format!("BackOff image {container}"));
            }
            LifecycleAction::FailPod(failure) => {
                self.note(&failure.reason);
                self.record.failure = Some(failure);
            }
            LifecycleAction::RestartAll(request) => {
                self.note(format!("restart all for {}", request.container));
                self.record.restart_all = Some(request);
            }
            LifecycleAction::StartAnew { containers } => {
                assert!(!self.record.anything_runs(), "starts anew beside itself");
                self.record.start_anew(&containers);
            }
            other => self.perform_resize(other),
        }
    }

    fn perform_resize(&mut self, action: LifecycleAction) {
        match action {
            LifecycleAction::Allocate { resources } => {
                self.record.resize.allocated = Some(resources)
            }
            LifecycleAction::StartResize {
                resources,
                generation,
            } => {
                self.record.resize.start(resources, generation);
                self.note("resize");
            }
            LifecycleAction::PostponeResize(pending) => {
                if let Some(pending) = &pending {
                    self.note(pending.reason.word());
                }
                self.record.resize.pending = pending;
            }
            LifecycleAction::UpdateResources { container } => self.update_resources(&container),
            LifecycleAction::UpdatePodResources => self.update_pod_resources(),
            LifecycleAction::CompleteResize => {
                self.record.resize.progress = None;
                self.note("resized");
            }
            other => self.perform_stop(other),
        }
    }

    fn update_resources(&mut self, name: &str) {
        let allocated = self.record.resize.allocated.clone().unwrap();
        let fails = self.behaviour.bad_limits.contains(&name);
        let now = self.now.instant;
        let running = self.running(name).unwrap();
        if fails {
            running.update = ResourceUpdate::Failed { at: now };
            let progress = self.record.resize.progress.as_mut().unwrap();
            progress.error = Some("below current usage".to_owned());
        } else {
            running.resources = Some(Box::new(allocated[name].clone()));
            running.update = ResourceUpdate::None;
        }
        let how = if fails { " failed" } else { "" };
        self.note(format!("update {name}{how}"));
    }

    fn update_pod_resources(&mut self) {
        let fails = self.behaviour.bad_limits.contains(&"");
        if fails {
            self.record.resize.pod.update = ResourceUpdate::Failed {
                at: self.now.instant,
            };
            let progress = self.record.resize.progress.as_mut().unwrap();
            progress.error = Some("below current usage".to_owned());
        } else {
            let allocated = self.record.resize.of_pod().cloned();
            self.record.pod_resized(allocated);
        }
        let how = if fails { " failed" } else { "" };
        self.note(format!("update pod{how}"));
    }

    fn perform_stop(&mut self, action: LifecycleAction) {
        let now = self.now.instant;
        match action {
            LifecycleAction::BeginStop {
                container,
                cause,
                grace_seconds,
                pre_stop,
                message,
            } => {
                let slow = self.behaviour.slow_hooks.contains(&container.as_str());
                let running = self.running(&container).unwrap();
                assert!(running.stop.is_none(), "stop begins twice");
                let hook = if pre_stop && slow {
                    Hook::Running
                } else {
                    Hook::Done
                };
                running.stop = Some(Stop {
                    cause,
                    since: now,
                    grace_seconds,
                    pre_stop: hook,
                    signalled_at: None,
                    killed_at: None,
                });
                self.note(message);
                if pre_stop {
                    self.note(format!("preStop {container}"));
                }
            }
            LifecycleAction::Terminate { container } => {
                let running = self.running(&container).unwrap();
                running.stop.as_mut().unwrap().signalled_at = Some(now);
                self.note(format!("TERM {container}"));
                if !self.behaviour.deaf.contains(&container.as_str()) {
                    self.exit(&container, 143);
                }
            }
            LifecycleAction::Kill { container } => {
                self.note(format!("KILL {container}"));
                self.exit(&container, 137);
            }
            other => panic!("{other:?}"),
        }
    }

    fn ensure_image(&mut self, name: &str) {
        let bad = self.behaviour.bad_images.get(name).copied();
        let now = self.now.instant;
        let container = self.record.container(name);
        container.image.ensure();
        container.image = match bad {
            None => Image::Present,
            Some((reason, message)) => {
                container.pull_backoff.advance(now, now);
                let (reason, message) = (reason.to_owned(), message.to_owned());
                Image::Missing {
                    reason,
                    message,
                    at: now,
                    announced: false,
                }
            }
        };
        if bad.is_some() {
            self.note(format!("pull {name}"));
        }
    }

    fn start(&mut self, name: &str, restart_count: u32) {
        assert_eq!(self.record.sandbox, Sandbox::Ready, "start without sandbox");
        assert_eq!(self.record.volumes, Volumes::Ready, "start without volumes");
        assert!(!self.predecessor, "start beside a predecessor");
        let (_, container) = spec::find(self.pod.spec.as_ref().unwrap(), name).unwrap();
        let hooked = container
            .lifecycle
            .as_ref()
            .is_some_and(|l| l.post_start.is_some());
        let image = container.image.clone().unwrap();
        let now = self.now;
        let sandbox = self.record.sandboxes_made;
        let bad = self.behaviour.bad_commands.contains(&name);
        let allocated = self.record.resize.allocated.as_ref();
        let resources = allocated.and_then(|allocated| allocated.get(name).cloned().map(Box::new));
        let of_pod = self.record.resize.of_pod().cloned().unwrap_or_default();
        let record = self.record.container(name);
        assert!(
            !matches!(record.instance, Instance::Running(_)),
            "two instances of {name}"
        );
        record.starting(now.instant);
        let running = Running {
            id: format!("{name}-{restart_count}"),
            sandbox,
            image,
            image_id: "sha256:1".to_owned(),
            user: Some(User {
                uid: 1000,
                gid: 2000,
                groups: vec![2000],
            }),
            started_at: now,
            post_start: if hooked { Hook::Pending } else { Hook::Done },
            startup: ProbeRecord::default(),
            liveness: ProbeRecord::default(),
            readiness: ProbeRecord::default(),
            checks: Default::default(),
            stop: None,
            resources,
            update: ResourceUpdate::None,
            of_pod: Some(Box::new(of_pod)),
            stop_signal: None,
        };
        if bad {
            let exit = Exit {
                code: 128,
                reason: "StartError".to_owned(),
                message: Some("exec: \"x\": executable file not found in $PATH".to_owned()),
                by_node: false,
                ..running.lost(now)
            };
            record.start_failed(exit);
            return self.note(format!("start {name} failed"));
        }
        record.started(running);
        assert_eq!(record.restart_count, restart_count);
        self.note(format!("start {name}"));
    }

    fn probe(&mut self, name: &str, kind: ProbeKind) {
        let key = self
            .behaviour
            .probes
            .keys()
            .find(|(n, k)| *n == name && *k == kind)
            .copied();
        let outcome = key.and_then(|key| {
            let queue = self.behaviour.probes.get_mut(&key)?;
            if queue.len() > 1 {
                queue.pop_front()
            } else {
                queue.front().cloned()
            }
        });
        let outcome = outcome.unwrap_or(ProbeOutcome::Success);
        let spec = self.pod.spec.clone().unwrap();
        let (_, container) = spec::find(&spec, name).unwrap();
        let probe = spec::probe(&self.pod, &container, kind)
            .unwrap()
            .into_owned();
        let now = self.now.instant;
        let pod = self.pod.clone();
        let running = self.running(name).unwrap();
        let started = running.started_at.instant;
        running.begin_probe(&pod, kind, now);
        running
            .probe_mut(kind)
            .record(kind, &probe, started, &outcome);
    }

    /// The log as lines of the form `second word`.
    pub fn lines(&self) -> Vec<String> {
        self.log
            .iter()
            .map(|(at, what)| format!("{at} {what}"))
            .collect()
    }

    /// A condition in the form `type=status reason message`.
    pub fn condition(&self, type_: &str) -> String {
        let conditions = self.status.conditions.iter().flatten();
        let condition = conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        let text = [
            Some(condition.status.as_str()),
            condition.reason.as_deref(),
            condition.message.as_deref(),
        ];
        text.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// A container's state as one line.
    pub fn state(&self, name: &str) -> String {
        let all = self.status.init_container_statuses.iter().flatten();
        let all = all.chain(self.status.container_statuses.iter().flatten());
        let mut all = all.chain(self.status.ephemeral_container_statuses.iter().flatten());
        let status = all.find(|status| status.name == name).unwrap();
        let state = status.state.as_ref().unwrap();
        let text = if let Some(waiting) = &state.waiting {
            format!("waiting {}", waiting.reason.as_deref().unwrap_or_default())
        } else if let Some(ended) = &state.terminated {
            format!(
                "{} {}",
                ended.reason.as_deref().unwrap_or_default(),
                ended.exit_code
            )
        } else {
            "running".to_owned()
        };
        format!(
            "{text}, ready {}, restarts {}",
            status.ready, status.restart_count
        )
    }
}
