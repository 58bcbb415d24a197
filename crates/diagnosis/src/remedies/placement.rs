//! Pods that are not scheduled: no node is feasible, or a gate delays their scheduling.

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Container, Node};
use object_model::Quantity;
use pod_lifecycle::diagnosis::remedy::{self, quoted};
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::labels::HOSTNAME;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;
use resource_kinds::volume_fit::only_node;

use super::DiagnosedPod;

/// The scheduler of pods without `schedulerName`.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

impl DiagnosedPod<'_> {
    pub(super) fn gates(&self) -> Remedy {
        let gates = self.pod.spec.scheduling_gates.iter().flatten();
        let gates: Vec<&str> = gates.map(|gate| gate.name.as_str()).collect();
        let patch =
            quoted(&json!([{ "op": "remove", "path": "/spec/schedulingGates" }]).to_string());
        let patch = format!("patch pod {} --type json -p {patch}", self.pod.name);
        Remedy::new(format!(
            "the owner of the scheduling gates {} must remove them; to remove them yourself",
            gates.join(", ")
        ))
        .with(self.kubectl(&patch))
    }

    pub(super) fn readiness_gates(&self) -> Remedy {
        let gates = self.pod.spec.readiness_gates.iter().flatten();
        let names: Vec<&str> = gates.map(|gate| gate.condition_type.as_str()).collect();
        let closed = names.iter().filter(|name| {
            let condition = self.pod.condition(name);
            condition.is_none_or(|condition| !condition.holds())
        });
        let conditions: Vec<Value> = closed
            .clone()
            .map(|name| json!({ "type": name, "status": "True" }))
            .collect();
        let closed: Vec<&str> = closed.copied().collect();
        let patch = quoted(&json!({ "status": { "conditions": conditions } }).to_string());
        let patch = format!(
            "patch pod {} --subresource status -p {patch}",
            self.pod.name
        );
        Remedy::new(format!(
            "the controller of the pod's condition {} must set it to True; to set it yourself",
            closed.join(", ")
        ))
        .with(self.kubectl(&patch))
    }

    /// The remedy for a pod whose scheduler does not run.
    pub(super) fn scheduler(&self) -> Option<Remedy> {
        let name = self.pod.spec.scheduler_name.as_deref()?;
        if name.is_empty() || name == DEFAULT_SCHEDULER {
            return None;
        }
        let text =
            format!("start the scheduler {name}; or have the pod placed by {DEFAULT_SCHEDULER}");
        let change = json!({ "schedulerName": DEFAULT_SCHEDULER });
        Some(self.by(text, self.change(change)))
    }

    /// The remedy for a pod without a feasible node, from the scheduler's message.
    pub(super) fn unschedulable(&self) -> Option<Remedy> {
        let message = &self.diagnosis.message;
        let about = |text: &str| message.contains(text);
        if self.pod.nominated.is_some() {
            None
        } else if about("PersistentVolume's node affinity") {
            self.node_of_volume()
        } else if about("node affinity/selector") {
            Some(self.selector())
        } else if about("existing pods anti-affinity") {
            self.repelled()
        } else if about("pod anti-affinity") {
            let text = "another node, or pods that only prefer to be apart";
            Some(self.by(text, self.change(without_required("podAntiAffinity"))))
        } else if about("pod affinity") {
            let text = "the pods that it wants to be with; or a pod that only prefers that";
            Some(self.by(text, self.change(without_required("podAffinity"))))
        } else if about("topology spread constraints") {
            self.spread()
        } else if about("free ports") {
            self.port()
        } else if about("Insufficient ") {
            self.resources()
        } else if about("ReadWriteOncePod") {
            self.holder()
        } else if about("max volume count") {
            self.attach_limit()
        } else if about("enough free storage") {
            self.free_storage()
        } else {
            None
        }
    }

    /// The first node, for a message: with one machine the pod has no choice.
    fn a_node(&self) -> Option<&Node> {
        let mut nodes = self.observed.nodes().iter();
        nodes.next().map(AsRef::as_ref)
    }

    /// The remedy for a pod whose claim has a volume on one node only.
    fn node_of_volume(&self) -> Option<Remedy> {
        let (claim, volume, host) = self.pod.claims.iter().find_map(|used| {
            let claim = self.observed.claim(&used.name)?;
            let volume = self
                .observed
                .volume(claim.spec.as_ref()?.volume_name.as_deref()?)?;
            Some((
                &*used.name,
                text::name(&volume.metadata),
                only_node(volume)?,
            ))
        })?;
        let tied = format!("volume {volume} of its claim {claim} can only be used on node {host}");
        let mut nodes = self.observed.nodes().iter();
        let node = nodes.find(|node| {
            let labels = node.metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get(HOSTNAME))
                .map(String::as_str)
                == Some(host)
        });
        let Some(node) = node else {
            let text = format!("{tied}, which does not exist: start mainstay on its machine");
            return Some(Remedy::new(text));
        };
        let name = text::name(&node.metadata);
        let describe = format!("kubectl describe node {name}");
        let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        Some(if node_conditions::is_lost(node) {
            Remedy::new(format!(
                "{tied}, which does not respond: it has to come back"
            ))
            .with(describe)
        } else if is_cordoned {
            Remedy::new(format!("{tied}, which is cordoned: allow pods on it again"))
                .with(format!("kubectl uncordon {name}"))
        } else {
            let text = "free resources for the pod on that node, or remove the obstacle";
            Remedy::new(format!("{tied}: {text}")).with(describe)
        })
    }

    fn selector(&self) -> Remedy {
        let labels = |node: &Node, key: &str| -> Option<String> {
            node.metadata.labels.as_ref()?.get(key).cloned()
        };
        let node = self.a_node();
        let required = self.pod.spec.node_selector.iter().flatten();
        let missing = required.filter(|(key, value)| {
            node.is_none_or(|node| labels(node, key).as_ref() != Some(*value))
        });
        let missing: Vec<String> = missing
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        if missing.is_empty() {
            let text = "a node as its nodeAffinity requires it; or a pod that only prefers that";
            return self.by(text, self.change(without_required("nodeAffinity")));
        }
        let text = "a node with the labels of its nodeSelector; or another nodeSelector";
        let name = node.map_or("NODE", |node| text::name(&node.metadata));
        let missing = missing.concat();
        Remedy::new(text).with(format!("kubectl label --overwrite node {name}{missing}"))
    }

    /// The remedy if the anti-affinity of existing pods excludes the pod.
    fn repelled(&self) -> Option<Remedy> {
        let mut pods = self.observed.pods.iter();
        let other = pods.find(|other| {
            let affinity = other.spec.affinity.as_ref();
            let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
            let required = apart.and_then(|apart| {
                apart
                    .required_during_scheduling_ignored_during_execution
                    .as_ref()
            });
            other.name != self.pod.name && other.node.is_some() && required.is_some()
        })?;
        let text = format!(
            "pod {} keeps it away with its podAntiAffinity: let that only prefer it",
            other.name
        );
        let commands = remedy::change(other, without_required("podAntiAffinity"));
        Some(self.by(text, commands))
    }

    fn spread(&self) -> Option<Remedy> {
        let constraints = self.pod.spec.topology_spread_constraints.iter().flatten();
        let strict: Vec<_> = constraints
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .collect();
        let missing_label = self.diagnosis.message.contains("missing required label");
        if let (Some(node), Some(first), true) = (self.a_node(), strict.first(), missing_label) {
            let label = format!("{}=VALUE", first.topology_key);
            let name = text::name(&node.metadata);
            return Some(
                Remedy::new("nodes with the label that the pods are spread by")
                    .with(format!("kubectl label node {name} {label}")),
            );
        }
        let loose: Result<Vec<Value>, serde_json::Error> = strict
            .into_iter()
            .map(|constraint| {
                let mut loose = constraint.clone();
                loose.when_unsatisfiable = "ScheduleAnyway".to_owned();
                let mut loose = json_tree::to_value(loose)?;
                // `minDomains` is valid only with `DoNotSchedule`.
                if constraint.min_domains.is_some() {
                    loose["minDomains"] = Value::Null;
                }
                Ok(loose)
            })
            .collect();
        let change = json!({ "topologySpreadConstraints": loose.ok()? });
        let text = "more nodes to spread over; or a spread that is only preferred";
        Some(self.by(text, self.change(change)))
    }

    /// The remedy for a host port in use.
    fn port(&self) -> Option<Remedy> {
        let (container, port) = self.pod.spec.containers.iter().find_map(|container| {
            let mut ports = container.ports.iter().flatten();
            Some((container, ports.find(|port| port.host_port.is_some())?))
        })?;
        let host_port = port.host_port?;
        let mut pods = self.observed.pods.iter();
        let other = pods.find(|other| {
            let ports = other.spec.containers.iter();
            let mut ports = ports.flat_map(|container| container.ports.iter().flatten());
            other.node.is_some()
                && !other.has_ended()
                && ports.any(|port| port.host_port == Some(host_port))
        });
        let whose = other.map_or("another pod".to_owned(), |pod| format!("pod {}", pod.name));
        let change = json!({ "ports": [
            { "containerPort": port.container_port, "hostPort": "PORT" },
        ] });
        Some(self.by(
            format!("port {host_port} of the node is in use by {whose}: use another one"),
            self.change_of(&container.name, change),
        ))
    }

    /// Smaller requests of the resources that nodes lack.
    fn resources(&self) -> Option<Remedy> {
        let message = &self.diagnosis.message;
        let (_, rest) = message.split_once("Insufficient ")?;
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        let resource = rest.get(..end)?.trim_end_matches('.');
        let containers = self.pod.spec.containers.iter();
        let largest = containers.max_by_key(|container| amount(container, resource))?;
        let mut resources = json!({ "requests": { resource: "AMOUNT" } });
        let limits = largest.resources.as_ref();
        let limits = limits.and_then(|resources| resources.limits.as_ref());
        if limits.is_some_and(|limits| limits.contains_key(resource)) {
            resources["limits"] = json!({ resource: "AMOUNT" });
        }
        let text = format!(
            "request less {resource}, or free some (kubectl describe nodes shows the nodes' resources and their users)"
        );
        let change = json!({ "resources": resources });
        Some(self.by(text, self.change_of(&largest.name, change)))
    }

    /// The remedy for a ReadWriteOncePod claim that another pod uses.
    fn holder(&self) -> Option<Remedy> {
        let uses = |other: &PodView, name: &str| other.claims.iter().any(|it| &*it.name == name);
        let mut pods = self.observed.pods.iter();
        let other = pods.find(|other| {
            let running = other.node.is_some() && !other.has_ended();
            let mut claims = self.pod.claims.iter();
            other.name != self.pod.name && running && claims.any(|it| uses(other, &it.name))
        })?;
        let text = format!(
            "pod {} uses the claim, which is for one pod at a time (ReadWriteOncePod); to release it",
            other.name
        );
        Some(Remedy::new(text).with(remedy::delete(other)))
    }
}

/// A patch that removes the required terms of an affinity.
fn without_required(kind: &str) -> Value {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    json!({ "affinity": { kind: { required: null } } })
}

fn amount(container: &Container, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let of = |list: &Option<std::collections::BTreeMap<String, _>>| {
        list.as_ref()?.get(resource).cloned()
    };
    let quantity: k8s_openapi::apimachinery::pkg::api::resource::Quantity =
        of(&resources.requests).or_else(|| of(&resources.limits))?;
    quantity.0.parse().ok()
}
