//! The causes of a waiting pod: its claims, its node, or the status of its containers.

use k8s_openapi::api::core::v1::{Event, Node};
use pod_lifecycle::diagnosis::scheduling::claim_names;
use pod_lifecycle::diagnosis::{Diagnosis, PodContext, Reason, Remedy, pod_in, text};
use resource_kinds::annotations::SELECTED_NODE;
use resource_kinds::pod_view::{PodView, RunState};
use resource_kinds::reasons::node_condition;

use super::chain_builder::ChainBuilder;
use super::explanation::Object;
use super::observed;
use super::remedies::DiagnosedPod;

/// Exit codes of processes that a signal stopped.
const STOPPED: [i32; 2] = [137, 143];

impl ChainBuilder<'_> {
    /// Adds the cause why the pod waits, and the causes of that cause.
    pub fn pod(&mut self, pod: &PodView) {
        let name = &pod.name;
        let object = self.observed.object("Pod", name);
        if !self.visit(&object) {
            return;
        }
        let node = pod.node.as_deref();
        let node_object = node.and_then(|name| self.observed.node(name));
        let around = PodContext {
            node: node_object.map(AsRef::as_ref),
            now: Some(self.observed.now),
        };
        let Some(diagnosis) = pod_in(pod, &around) else {
            self.link(object, "Ready", "is Ready by now", None);
            self.remedy("nothing to do; it is Ready by now");
            return;
        };
        let diagnosis = self.with_volumes(pod, diagnosis);
        let diagnosis = self.killed(pod, diagnosis);
        self.link(
            object.clone(),
            diagnosis.reason.as_str(),
            &diagnosis.message,
            diagnosis.since,
        );
        self.in_container(diagnosis.container.clone());
        if diagnosis.container.is_some() && tells_of_an_end(pod, &diagnosis) {
            self.wants_log(ran_again(pod, &diagnosis));
        }
        let case = DiagnosedPod::of(self.observed, pod, &diagnosis);
        self.remedy(case.remedy().unwrap_or_else(|| diagnosis.remedy.clone()));
        self.behind(pod, &object, &diagnosis);
    }

    /// While the pod's volumes are being provisioned, the scheduler has no result.
    fn with_volumes(&self, pod: &PodView, mut diagnosis: Diagnosis) -> Diagnosis {
        if diagnosis.reason != Reason::NotScheduled {
            return diagnosis;
        }
        let chosen = |name: &&String| {
            let claim = self.observed.claim(name);
            let annotations = claim.and_then(|claim| claim.metadata.annotations.as_ref());
            annotations.is_some_and(|all| all.contains_key(SELECTED_NODE))
        };
        let names = claim_names(pod);
        if let Some(claim) = names.iter().find(chosen) {
            diagnosis.reason = Reason::WaitingForClaim;
            diagnosis.message = format!("its volumes are to be made on the chosen node ({claim})");
            diagnosis.claims = names;
        }
        diagnosis
    }

    fn behind(&mut self, pod: &PodView, object: &Object, diagnosis: &Diagnosis) {
        let case = |builder: &Self| DiagnosedPod::of(builder.observed, pod, diagnosis);
        match diagnosis.reason {
            Reason::WaitingForClaim => self.first_open_claim(&diagnosis.claims),
            Reason::NotScheduled => self.first_open_claim(&claim_names(pod)),
            Reason::Unschedulable if case(self).remedy().is_none() => self.closed_nodes(),
            Reason::NodeLost => self.node_of(pod),
            Reason::NotStarted => {
                self.node_of(pod);
                self.warning(pod, object, None);
            }
            Reason::ContainerStarting | Reason::ContainerWaiting => {
                if let Some(message) = self.warning(pod, object, None)
                    && let Some(remedy) = case(self).mount(&message)
                {
                    self.remedy(remedy);
                }
            }
            Reason::Terminating => self.stopping(pod, object),
            Reason::LivenessProbe => self.probed(pod, object, diagnosis, "Liveness probe"),
            Reason::StartupProbe => self.probed(pod, object, diagnosis, "Startup probe"),
            Reason::ReadinessProbe => self.probed(pod, object, diagnosis, "Readiness probe"),
            Reason::ContainerCrashed if was_stopped(pod, diagnosis) => {
                for kind in ["Liveness probe", "Startup probe"] {
                    if self.probe(pod, object, diagnosis, kind) {
                        let logs = format!(
                            "logs {} -c {}",
                            object.name,
                            diagnosis.container.as_deref().unwrap_or_default()
                        );
                        let logs = text::kubectl(&pod.namespace, &logs);
                        self.remedy(format!(
                            "the program has to answer the probe, or be given more time for it; \
                             its output: {logs}"
                        ));
                        break;
                    }
                }
            }
            Reason::ContainerStartError => {
                let remedy = self.proposed();
                self.warning(pod, object, diagnosis.container.as_deref());
                self.remedy(remedy);
            }
            _ => {}
        }
    }

    /// Adds the output of the container's last failed probe.
    fn probe(&mut self, pod: &PodView, object: &Object, diagnosis: &Diagnosis, kind: &str) -> bool {
        let container = diagnosis.container.as_deref();
        let is_probe_failure = |event: &Event| {
            let about = observed::container(event);
            let message = event.message.as_deref().unwrap_or_default();
            message.starts_with(kind) && (about.is_none() || about == container)
        };
        let event =
            self.observed
                .newest_event("Pod", &pod.name, Some(pod.uid.as_str()), is_probe_failure);
        if let Some(event) = event {
            self.event(event, object.clone());
        }
        event.is_some()
    }

    /// Adds a probe failure that the node reported, with a remedy from the report.
    fn probed(&mut self, pod: &PodView, object: &Object, diagnosis: &Diagnosis, kind: &str) {
        if !self.probe(pod, object, diagnosis, kind) {
            return;
        }
        let field = match diagnosis.reason {
            Reason::LivenessProbe => "livenessProbe",
            Reason::StartupProbe => "startupProbe",
            _ => "readinessProbe",
        };
        let message = self.last_message().to_owned();
        if let Some(remedy) = DiagnosedPod::of(self.observed, pod, diagnosis).probe(field, &message)
        {
            self.remedy(remedy);
        }
    }

    /// Adds the node's report on a pod that is being deleted.
    fn stopping(&mut self, pod: &PodView, object: &Object) {
        let remedy = self.proposed();
        let Some(message) = self.warning(pod, object, None) else {
            return;
        };
        if message.contains("the shim of sandbox") {
            self.say(
                "the process that looks after its containers (their shim) does not answer: it is \
                 stopped, or waits for a disk",
            );
            self.remedy(
                "nothing to do: the node kills the pod without its shim when the grace is over; if \
                 it still stays, a disk does not answer",
            );
        } else if message.contains("PreStopHook") {
            self.remedy(remedy);
        }
    }

    /// Adds the last warning about the pod: mounts, sandbox, hooks. Returns the message of the warning.
    fn warning(
        &mut self,
        pod: &PodView,
        object: &Object,
        container: Option<&str>,
    ) -> Option<String> {
        let is_warning = |event: &Event| {
            let other = container.is_some() && observed::container(event) != container;
            event.type_.as_deref() == Some("Warning")
                && event.reason.as_deref() != Some("FailedScheduling")
                && !other
        };
        let event =
            self.observed
                .newest_event("Pod", &pod.name, Some(pod.uid.as_str()), is_warning)?;
        let describe = format!("describe pod {}", object.name);
        let describe = text::kubectl(&pod.namespace, &describe);
        self.event(event, object.clone());
        self.remedy(format!(
            "correct the cause of that warning; more in {describe}"
        ));
        event.message.clone()
    }

    fn first_open_claim(&mut self, claims: &[String]) {
        let open = |name: &&String| {
            let claim = self.observed.claim(name);
            claim.is_none_or(|claim| {
                let status = claim.status.as_ref();
                let phase = status.and_then(|status| status.phase.as_deref());
                phase != Some("Bound") || claim.metadata.deletion_timestamp.is_some()
            })
        };
        if let Some(claim) = claims.iter().find(open) {
            self.claim(claim);
        }
    }

    /// Adds cordoned nodes, if the scheduler found no feasible node.
    fn closed_nodes(&mut self) {
        // One cordoned node is enough for the explanation.
        let mut nodes = self.observed.cluster.nodes.iter().flatten();
        let closed_node = nodes.find_map(|node| Some((text::name(&node.metadata), closed(node)?)));
        let Some((name, (reason, message, remedy))) = closed_node else {
            return;
        };
        let object = Object::new("Node", None, name);
        if self.visit(&object) {
            self.link(object, reason, message, None).remedy(remedy);
        }
    }

    /// Adds the pod's node, if it is unhealthy.
    pub fn node_of(&mut self, pod: &PodView) {
        if let Some(name) = pod.node.as_deref() {
            self.node(name);
        }
    }

    /// Adds a node, if it is unhealthy: then the node is the cause. Returns whether the node is unhealthy.
    pub fn node(&mut self, name: &str) -> bool {
        let Some(nodes) = &self.observed.cluster.nodes else {
            return false;
        };
        let object = Object::new("Node", None, name);
        let node = nodes.iter().find(|node| text::name(&node.metadata) == name);
        let Some(node) = node else {
            if self.visit(&object) {
                self.link(object, "NotFound", "does not exist", None);
                self.remedy("nothing to do; pods of a deleted node are removed 50 seconds after its last heartbeat");
            }
            return true;
        };
        let status = node.status.as_ref();
        let mut conditions = status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten());
        let ready = conditions.find(|condition| condition.type_ == node_condition::READY);
        let Some(ready) = ready.filter(|ready| ready.status != "True") else {
            return false;
        };
        if self.visit(&object) {
            let since = ready.last_transition_time.as_ref().map(|time| time.0);
            let message = text::then(": ", ready.message.as_deref().unwrap_or_default());
            let reason = ready.reason.clone().unwrap_or_default();
            self.link(object, reason, format!("is not Ready{message}"), since);
        }
        true
    }
}

/// Whether the diagnosis is about a process that exited, so that its last log lines help.
fn tells_of_an_end(pod: &PodView, diagnosis: &Diagnosis) -> bool {
    let all = pod.containers.iter().chain(&pod.init_containers);
    let mut statuses = all.filter(|status| Some(&*status.name) == diagnosis.container.as_deref());
    let ended = statuses.any(|status| status.end().is_some() || status.last_end.is_some());
    match diagnosis.reason {
        Reason::ContainerCrashed | Reason::Failed => true,
        Reason::LivenessProbe | Reason::StartupProbe | Reason::PostStartHook => ended,
        _ => false,
    }
}

/// Whether the diagnosis is about the exit of the previous run.
fn ran_again(pod: &PodView, diagnosis: &Diagnosis) -> bool {
    let all = pod.containers.iter().chain(&pod.init_containers);
    let mut statuses = all.filter(|status| Some(&*status.name) == diagnosis.container.as_deref());
    statuses.any(|status| matches!(status.state, RunState::Running(_)))
}

/// Whether a signal ended the container's last run.
fn was_stopped(pod: &PodView, diagnosis: &Diagnosis) -> bool {
    let all = pod.containers.iter().chain(&pod.init_containers);
    let mut statuses = all.filter(|status| Some(&*status.name) == diagnosis.container.as_deref());
    statuses.any(|status| {
        let ends = status.end().into_iter().chain(status.last_end.as_deref());
        let mut ends = ends.filter(|end| end.reason.as_deref() != Some("OOMKilled"));
        ends.any(|end| STOPPED.contains(&end.exit_code))
    })
}

/// The reason why a node accepts no new pods, and the remedy.
fn closed(node: &Node) -> Option<(&'static str, String, Remedy)> {
    let name = text::name(&node.metadata);
    let spec = node.spec.as_ref()?;
    if spec.unschedulable == Some(true) {
        return Some((
            "Cordoned",
            "is cordoned: it takes no new pods".to_owned(),
            Remedy::new("allow pods on it again").with(format!("kubectl uncordon {name}")),
        ));
    }
    let mut taints = spec.taints.iter().flatten();
    let taint = taints.find(|taint| taint.effect != "PreferNoSchedule")?;
    let (key, effect) = (&taint.key, &taint.effect);
    Some((
        "Tainted",
        format!("has the taint {key}:{effect}, which pods have to tolerate"),
        Remedy::new("add a toleration to the pod; or remove the taint")
            .with(format!("kubectl taint node {name} {key}:{effect}-")),
    ))
}
