//! Pods whose containers are not ready: the container that is the cause, and the reason.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use resource_kinds::pod_view::{Container as Status, PodView, RunState};
use resource_kinds::reasons::pod_condition;

use super::pod::Diagnosis;
use super::reason::Reason;
use super::remedy::Remedy;
use super::{exit, remedy, text};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Init,
    Sidecar,
    Main,
}

/// A container with its status.
struct Subject<'p> {
    pod: &'p PodView,
    kind: Kind,
    container: &'p Container,
    status: Option<&'p Status>,
}

/// The reason why the pod's containers are not ready. Init containers run one after another, so the first
/// unfinished init container is the cause. Of the main containers, the first one with the worst state is
/// the cause.
pub(super) fn trouble(pod: &PodView) -> Option<Diagnosis> {
    let spec = &pod.spec;
    let silent = pod.init_containers.is_empty() && pod.containers.is_empty();
    if silent && !spec.containers.is_empty() {
        return Some(not_begun(pod));
    }
    let init: Vec<Subject<'_>> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| Subject {
            pod,
            kind: init_kind(container),
            container,
            status: find(&pod.init_containers, container),
        })
        .collect();
    let initialized = pod.condition(pod_condition::INITIALIZED);
    if initialized.is_none_or(|condition| !condition.holds())
        && let Some(pending) = init.iter().find(|subject| !subject.is_initialized())
    {
        return Some(pending.diagnose());
    }
    let sidecars = init
        .into_iter()
        .filter(|subject| subject.kind == Kind::Sidecar);
    let main = spec.containers.iter().map(|container| Subject {
        pod,
        kind: Kind::Main,
        container,
        status: find(&pod.containers, container),
    });
    let unready = main.chain(sidecars).filter(|subject| !subject.is_ready());
    unready
        .map(|subject| subject.diagnose())
        .min_by_key(|diagnosis| rank(diagnosis.reason))
}

fn init_kind(container: &Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

fn find<'p>(statuses: &'p [Status], container: &Container) -> Option<&'p Status> {
    let mut statuses = statuses.iter();
    statuses.find(|status| *status.name == *container.name)
}

/// The rank of a reason. The reason with the lowest rank is the most likely cause.
fn rank(reason: Reason) -> u8 {
    match reason {
        Reason::ContainerStarting => 2,
        Reason::StartupProbe | Reason::ReadinessProbe | Reason::PostStartHook | Reason::Unknown => {
            1
        }
        _ => 0,
    }
}

fn not_begun(pod: &PodView) -> Diagnosis {
    let node = pod.node.as_deref().unwrap_or_default();
    Diagnosis::new(
        Reason::NotStarted,
        format!("node {node} has not started it yet"),
        format!("nothing to do if node {node} is well: kubectl describe node {node}"),
    )
    .since(text::changed_at(pod.condition(pod_condition::SCHEDULED)))
}

impl Subject<'_> {
    fn is_initialized(&self) -> bool {
        self.status.is_some_and(|status| match self.kind {
            Kind::Sidecar => status.started,
            _ => status.ready || status.end().is_some_and(|end| end.exit_code == 0),
        })
    }

    fn is_ready(&self) -> bool {
        self.status.is_some_and(|status| status.ready)
    }

    /// For instance `container main` or `init container setup`.
    fn title(&self) -> String {
        let kind = match self.kind {
            Kind::Init => "init container",
            Kind::Sidecar => "sidecar container",
            Kind::Main => "container",
        };
        format!("{kind} {}", self.container.name)
    }

    fn diagnose(&self) -> Diagnosis {
        let diagnosis = match self.status.map(|status| &status.state) {
            Some(RunState::Waiting { reason, message }) => self.waiting(reason, message),
            Some(RunState::Ended(end)) => self.crashed(Some(end)),
            Some(RunState::Running(since)) => self.running(*since),
            Some(RunState::Unset) | None => self.starting(),
        };
        diagnosis.of_container(&self.container.name)
    }

    fn finding(&self, reason: Reason, message: String, remedy: impl Into<Remedy>) -> Diagnosis {
        let ready = self.pod.condition(pod_condition::READY);
        Diagnosis::new(reason, message, remedy).since(text::changed_at(ready))
    }

    fn waiting(&self, reason: &str, message: &str) -> Diagnosis {
        let title = self.title();
        let image = self.container.image.as_deref().unwrap_or_default();
        let name = &self.container.name;
        let owner = remedy::template(self.pod);
        let set_image = self.kubectl(&format!("set image {owner} {name}=IMAGE"));
        match reason {
            "ErrImagePull" | "ImagePullBackOff" => {
                let detail = text::then(": ", pull_error(message));
                self.finding(
                    Reason::ImagePullFailed,
                    format!("image \"{image}\" of {title} cannot be pulled{detail}"),
                    Remedy::new(
                        "provide an image of that name in the registry, or use another image",
                    )
                    .with(set_image),
                )
            }
            "InvalidImageName" => self.finding(
                Reason::InvalidImageName,
                format!("\"{image}\" of {title} is no image name"),
                Remedy::new("another name").with(set_image),
            ),
            "ErrImageNeverPull" => self.finding(
                Reason::ImageNeverPulled,
                format!(
                    "image \"{image}\" of {title} is not on the node, and imagePullPolicy is \
                     Never"
                ),
                Remedy {
                    text: "bring the image to the node (mainstay image import FILE), or let the \
                           node pull it"
                        .to_owned(),
                    commands: self.change(json!({ "imagePullPolicy": "IfNotPresent" })),
                },
            ),
            "CreateContainerConfigError" => self.finding(
                Reason::ContainerConfigError,
                format!("{title} cannot be configured{}", text::then(": ", message)),
                format!(
                    "create the missing object, or correct the reference: {}",
                    self.kubectl(&format!("edit {owner}"))
                ),
            ),
            "CreateContainerError" | "RunContainerError" | "StartError" => self.finding(
                Reason::ContainerStartError,
                format!("{title} cannot be started{}", text::then(": ", message)),
                format!(
                    "correct its command, image or security context: {}",
                    self.kubectl(&format!("edit {owner}"))
                ),
            ),
            "PostStartHookError" => self.finding(
                Reason::PostStartHook,
                format!(
                    "postStart hook of {title} fails{}",
                    text::then(": ", message)
                ),
                format!(
                    "the hook has to end well: {}",
                    self.kubectl(&format!("edit {owner}"))
                ),
            ),
            "CrashLoopBackOff" => self.crashed(None),
            "" | "ContainerCreating" | "PodInitializing" => self.starting(),
            other => self.finding(
                Reason::ContainerWaiting,
                format!("{title} waits: {other}{}", text::then(": ", message)),
                format!("see {}", self.describe()),
            ),
        }
    }

    /// The diagnosis of a container that has exited and is restarted, now or later.
    fn crashed(&self, end: Option<&ContainerStateTerminated>) -> Diagnosis {
        let title = self.title();
        let end = end.or_else(|| self.last_end());
        let how = end.map_or_else(
            || "it ended".to_owned(),
            |end| exit::describe(end, Some(self.container)),
        );
        let logs = self.logs();
        let remedy = match end.and_then(|end| end.reason.as_deref()) {
            Some("OOMKilled") => format!(
                "a higher memory limit, or a program that uses less: {}",
                self.kubectl(&format!("edit {}", remedy::template(self.pod)))
            ),
            Some("StartError" | "ContainerCannotRun") => format!(
                "correct its command or image: {}",
                self.kubectl(&format!("edit {}", remedy::template(self.pod)))
            ),
            _ => format!("the program has to keep running; its last log lines: {logs}"),
        };
        let doing = match self.kind {
            Kind::Init => "does not succeed",
            _ => "does not keep running",
        };
        let since = end
            .and_then(|end| end.finished_at.as_ref())
            .map(|time| time.0);
        let started_over = text::changed_at(self.pod.condition(pod_condition::READY));
        self.finding(
            Reason::ContainerCrashed,
            format!("{title} {doing}: {how}"),
            remedy,
        )
        .since(started_over.or(since))
    }

    fn running(&self, since: Option<Timestamp>) -> Diagnosis {
        let title = self.title();
        let container = self.container;
        let started = self.status.is_some_and(|status| status.started);
        let logs = self.logs();
        if self.kind == Kind::Init {
            return self
                .finding(
                    Reason::InitContainerRunning,
                    format!("{title} is still running"),
                    format!("it has to end with exit code 0; its output: {logs}"),
                )
                .since(since);
        }
        let (reason, message) = match (&container.startup_probe, &container.readiness_probe) {
            (Some(probe), _) if !started => (
                Reason::StartupProbe,
                format!(
                    "startup probe of {title} has not passed ({})",
                    describe_probe(probe)
                ),
            ),
            (None, _) if !started && has_post_start(container) => (
                Reason::PostStartHook,
                format!("postStart hook of {title} has not ended"),
            ),
            (_, Some(probe)) => (
                Reason::ReadinessProbe,
                format!(
                    "readiness probe of {title} does not pass ({})",
                    describe_probe(probe)
                ),
            ),
            _ => (
                Reason::ContainerStarting,
                format!("{title} has only just started"),
            ),
        };
        let remedy = match reason {
            Reason::ContainerStarting => {
                "nothing to do; it is about to be counted as ready".to_owned()
            }
            Reason::PostStartHook => {
                format!("the hook has to end; output of the container: {logs}")
            }
            _ => format!("the program has to answer the probe; its output: {logs}"),
        };
        let message = format!("{message}{}", self.last_run());
        let ready = text::changed_at(self.pod.condition(pod_condition::READY));
        self.finding(reason, message, remedy)
            .since(ready.max(since))
    }

    fn last_end(&self) -> Option<&ContainerStateTerminated> {
        self.status?.last_end.as_deref()
    }

    /// The exit of the previous run, if it failed.
    fn last_run(&self) -> String {
        match self.last_end() {
            Some(end) if end.exit_code != 0 => {
                let how = exit::describe(end, Some(self.container));
                format!("; its run before: {how}")
            }
            _ => String::new(),
        }
    }

    fn starting(&self) -> Diagnosis {
        self.finding(
            Reason::ContainerStarting,
            format!(
                "{} is being prepared: network, volumes, image",
                self.title()
            ),
            format!(
                "nothing to do unless it lasts: then see {}",
                self.describe()
            ),
        )
    }

    /// The commands that merge `change` into the container.
    fn change(&self, mut change: Value) -> Vec<String> {
        change["name"] = self.container.name.as_str().into();
        let list = match self.kind {
            Kind::Main => "containers",
            Kind::Init | Kind::Sidecar => "initContainers",
        };
        remedy::change(self.pod, json!({ list: [change] }))
    }

    fn kubectl(&self, rest: &str) -> String {
        text::kubectl(&self.pod.namespace, rest)
    }

    fn describe(&self) -> String {
        self.kubectl(&format!("describe pod {}", &self.pod.name))
    }

    fn logs(&self) -> String {
        let pod = &self.pod.name;
        self.kubectl(&format!("logs {pod} -c {}", self.container.name))
    }
}

fn has_post_start(container: &Container) -> bool {
    let lifecycle = container.lifecycle.as_ref();
    lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
}

/// The error without the back-off prefix.
fn pull_error(message: &str) -> &str {
    match message.split_once(": ErrImagePull: ") {
        Some((before, error)) if before.starts_with("Back-off pulling image") => error,
        _ if message.starts_with("Back-off pulling image") => "",
        _ => message,
    }
}

/// A readable description of a probe: `GET /healthz on port 8080`.
pub fn describe_probe(probe: &Probe) -> String {
    let port = |port: &IntOrString| match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    if let Some(http) = &probe.http_get {
        let path = http.path.as_deref().unwrap_or("/");
        return format!("GET {path} on port {}", port(&http.port));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return format!("TCP port {}", port(&tcp.port));
    }
    if let Some(grpc) = &probe.grpc {
        return format!("gRPC on port {}", grpc.port);
    }
    let command = probe.exec.as_ref().and_then(|exec| exec.command.as_ref());
    text::line(&format!(
        "command {}",
        command.cloned().unwrap_or_default().join(" ")
    ))
}
