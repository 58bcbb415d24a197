//! Services without endpoints or addresses, and Ingresses: from the address that clients use to the
//! pods.

use std::collections::BTreeMap;

use json_tree::json;
use k8s_openapi::api::core::v1::{Event, Service, ServicePort};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::discovery::service_of;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::service as reasons;

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{CauseChain, Explanation, Object};
use super::kinds::TargetKind;
use super::observed::{ObservedNamespace, named};
use super::workloads::of_pods;

type Labels = BTreeMap<String, String>;

pub(super) fn explain(
    observed: &ObservedNamespace,
    service: &Service,
    object: Object,
) -> Explanation {
    if let Some(chain) = blocked_deletion(observed, &object, &service.metadata) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.unwrap_or_default();
        return Explanation::fine(
            object,
            format!("an alias of {name}, outside of the cluster"),
        );
    }
    let view = View {
        observed,
        service,
        object: object.clone(),
    };
    let ready = view.endpoints();
    if ready == 0 && view.is_of_cluster() {
        return Explanation::fine(object, "the cluster itself answers, without endpoints");
    }
    let mut explanation = Explanation::fine(
        object,
        match ready {
            0 => "no endpoints".to_owned(),
            1 => "1 endpoint".to_owned(),
            many => format!("{many} endpoints"),
        },
    );
    explanation = match spec.selector.filter(|selector| !selector.is_empty()) {
        None if ready == 0 && !is_answered_by_nodes(service) => {
            explanation.waits([view.without_selector()])
        }
        None => explanation,
        Some(selector) => view.with_selector(explanation, &selector),
    };
    explanation = explanation.waits(view.balancer());
    if spec.external_traffic_policy.as_deref() == Some("Local") && ready > 0 {
        explanation = explanation.note(
            "externalTrafficPolicy Local: from outside only nodes that have an endpoint answer",
        );
    }
    explanation
}

/// Whether the Service is the cluster's DNS, which each node serves without endpoints.
fn is_answered_by_nodes(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let name = labels.and_then(|labels| labels.get("kubernetes.io/name"));
    name.is_some_and(|name| name == "mainstay-dns")
}

struct View<'e> {
    observed: &'e ObservedNamespace,
    service: &'e Service,
    object: Object,
}

/// `app=web,tier=front`
fn text(labels: &Labels) -> String {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.join(",")
}

fn covers(selector: &Labels, label: impl Fn(&str) -> Option<String>) -> bool {
    let mut pairs = selector.iter();
    pairs.all(|(key, value)| label(key).as_ref() == Some(value))
}

impl<'e> View<'e> {
    fn kubectl(&self, rest: &str) -> String {
        text::kubectl(&self.observed.namespace, rest)
    }

    fn builder(&self, reason: &str, message: impl Into<String>) -> ChainBuilder<'e> {
        let mut builder = ChainBuilder::of(self.observed);
        builder.link(self.object.clone(), reason, message, None);
        builder
    }

    /// Number of ready endpoints.
    fn endpoints(&self) -> usize {
        let is_of_service = |slice: &&std::sync::Arc<_>| {
            service_of(slice) == Some((&*self.observed.namespace, &*self.object.name))
        };
        let slices = self.observed.slices.iter().filter(is_of_service);
        let endpoints = slices.flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|one| one.ready).unwrap_or(true)
        });
        ready.count()
    }

    /// Whether the Service is the cluster's DNS, which has no pods.
    fn is_of_cluster(&self) -> bool {
        let labels = self.service.metadata.labels.as_ref();
        let marked = labels.and_then(|labels| labels.get("kubernetes.io/cluster-service"));
        let selector = self
            .service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        marked.is_some_and(|marked| marked == "true") && selector.is_none()
    }

    fn without_selector(&self) -> CauseChain {
        let message = "it has no selector and no endpoints";
        let mut builder = self.builder("NoSelector", message);
        let set = self.kubectl(&format!(
            "set selector service {} {}",
            self.object.name,
            self.likely_labels()
        ));
        builder.remedy(
            Remedy::new("set a selector for its pods, or create an EndpointSlice").with(set),
        );
        builder.chain()
    }

    /// The labels of the pods that the selector most likely means.
    fn likely_labels(&self) -> String {
        let all = self.workloads();
        let same = all.iter().find(|(_, name, _)| *name == self.object.name);
        match (same, all.as_slice()) {
            (Some((.., labels)), _) | (None, [(.., labels)]) => text(labels),
            _ => "KEY=VALUE".to_owned(),
        }
    }

    /// The workloads of the namespace, with their pods' labels.
    fn workloads(&self) -> Vec<(TargetKind, String, Labels)> {
        let e = self.observed;
        let labels = |template: &k8s_openapi::api::core::v1::PodTemplateSpec| {
            let meta = template.metadata.as_ref();
            meta.and_then(|meta| meta.labels.clone())
                .unwrap_or_default()
        };
        let sets = e.sets.iter().filter_map(|set| {
            let template = &set.spec.as_ref()?.template;
            Some((TargetKind::StatefulSet, &set.metadata, labels(template)))
        });
        let deployments = e.deployments.iter().filter_map(|deployment| {
            let template = &deployment.spec.as_ref()?.template;
            Some((
                TargetKind::Deployment,
                &deployment.metadata,
                labels(template),
            ))
        });
        let daemons = e.daemon_sets.iter().filter_map(|set| {
            let template = &set.spec.as_ref()?.template;
            Some((TargetKind::DaemonSet, &set.metadata, labels(template)))
        });
        let all = sets.chain(deployments).chain(daemons);
        all.map(|(kind, meta, labels)| (kind, text::name(meta).to_owned(), labels))
            .filter(|(.., labels)| !labels.is_empty())
            .collect()
    }

    fn with_selector(&self, explanation: Explanation, selector: &Labels) -> Explanation {
        let selected = |pod: &&PodView| {
            !pod.has_ended() && covers(selector, |key| pod.label(key).map(str::to_owned))
        };
        let pods = self.observed.pods.iter().map(AsRef::as_ref);
        let pods: Vec<&PodView> = pods.filter(selected).collect();
        if pods.is_empty() {
            return self.no_pods(explanation, selector);
        }
        let (ready, unready): (Vec<&PodView>, Vec<&PodView>) = pods
            .into_iter()
            .partition(|pod| pod.ready().is_some() && !pod.is_deleting());
        if !ready.is_empty() {
            let explanation = explanation.waits(self.ports(&ready));
            return match unready.len() {
                0 => explanation,
                1 => explanation.note("1 more pod is not Ready"),
                many => explanation.note(format!("{many} more pods are not Ready")),
            };
        }
        let count = unready.len();
        let chains = of_pods(self.observed, unready.into_iter());
        let chains = chains.into_iter().map(|mut chain| {
            let message = match count {
                1 => "its pod is not Ready".to_owned(),
                count => format!("none of its {count} pods is Ready"),
            };
            let head = self.builder("NoReadyPods", message).chain();
            chain.links.splice(0..0, head.links);
            chain
        });
        explanation.waits(chains)
    }

    /// The explanation if the selector matches no pods: the selector is wrong, or the pods are not created.
    fn no_pods(&self, explanation: Explanation, selector: &Labels) -> Explanation {
        let all = self.workloads();
        let maker = all
            .iter()
            .find(|(.., labels)| covers(selector, |key| labels.get(key).cloned()));
        if let Some((kind, name, _)) = maker {
            let owner = format!("{}/{name}", kind.short());
            let explained = super::explain(*kind, name, self.observed);
            let chains = explained
                .map(|explained| explained.chains)
                .unwrap_or_default();
            if chains.is_empty() {
                return explanation.note(format!("{owner}, which makes its pods, wants none"));
            }
            let chains = chains.into_iter().map(|mut chain| {
                let head = self.builder("NoPods", format!("its pods do not exist: {owner}"));
                chain.links.splice(0..0, head.chain().links);
                chain
            });
            return explanation.waits(chains);
        }
        let selector_text = text(selector);
        let message = format!("no pod has the labels of its selector ({selector_text})");
        let mut builder = self.builder("NoPods", message);
        let likely = self.likely_labels();
        let remedy = if all.is_empty() {
            Remedy::new(format!("pods with the labels {selector_text}"))
        } else {
            let set = format!("set selector service {} {likely}", self.object.name);
            Remedy::new("the labels that its pods have").with(self.kubectl(&set))
        };
        builder.remedy(remedy);
        explanation.waits([builder.chain()])
    }

    /// The chains for target ports that no container names.
    fn ports(&self, pods: &[&PodView]) -> Vec<CauseChain> {
        let spec = self.service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_ref());
        let named_ports: Vec<(&str, i32)> = pods
            .iter()
            .flat_map(|pod| &pod.spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .map(|port| {
                (
                    port.name.as_deref().unwrap_or_default(),
                    port.container_port,
                )
            })
            .collect();
        let unknown = |(_, port): &(usize, &ServicePort)| match &port.target_port {
            Some(IntOrString::String(name)) => !named_ports.iter().any(|(one, _)| one == name),
            _ => false,
        };
        let ports = ports.into_iter().flatten().enumerate().filter(unknown);
        let chains = ports.map(|(index, port)| {
            let target = match &port.target_port {
                Some(IntOrString::String(name)) => name.as_str(),
                _ => "",
            };
            let mut builder = self.builder(
                "NoSuchPort",
                format!("no container of its pods has a port of the name {target:?}"),
            );
            let value = match named_ports.as_slice() {
                [(name, _), ..] if !name.is_empty() => json!(name).to_string(),
                [(_, number), ..] => number.to_string(),
                [] => "PORT".to_owned(),
            };
            let patch = format!(
                "patch service {} --type json -p \
                 '[{{\"op\":\"replace\",\"path\":\"/spec/ports/{index}/targetPort\",\
                 \"value\":{value}}}]'",
                self.object.name
            );
            let text = "set a targetPort that the containers have";
            builder.remedy(Remedy::new(text).with(self.kubectl(&patch)));
            builder.chain()
        });
        chains.collect()
    }

    fn event(&self, reason: &str) -> Option<&'e Event> {
        let uid = self.service.metadata.uid.as_deref();
        let has_reason = |event: &Event| event.reason.as_deref() == Some(reason);
        self.observed
            .newest_event(&self.object.kind, &self.object.name, uid, has_reason)
    }

    fn another_port(&self, field: &str) -> String {
        self.kubectl(&format!(
            "patch service {} --type json -p \
             '[{{\"op\":\"replace\",\"path\":\"/spec/ports/0/{field}\",\"value\":PORT}}]'",
            self.object.name
        ))
    }

    /// The chain for addresses and ports of the machine that the Service does not get.
    fn balancer(&self) -> Option<CauseChain> {
        let spec = self.service.spec.as_ref()?;
        let status = self.service.status.as_ref();
        let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let served = ingress.is_some_and(|ingress| !ingress.is_empty());
        if spec.type_.as_deref() == Some("LoadBalancer") && !served {
            return Some(self.no_address(spec.load_balancer_class.as_deref()));
        }
        let event = self.event(reasons::PORT_IN_USE)?;
        let message = event.message.as_deref().unwrap_or_default();
        let port = spec.ports.iter().flatten().find(|port| {
            let number = port.node_port.unwrap_or(port.port);
            message.contains(&format!("port {number}/"))
        })?;
        let mut builder = ChainBuilder::of(self.observed);
        builder.event(event, self.object.clone());
        let field = if port.node_port.is_some() {
            "nodePort"
        } else {
            "port"
        };
        let text = "end the program that listens there, or choose another port";
        builder.remedy(Remedy::new(text).with(self.another_port(field)));
        Some(builder.chain())
    }

    fn no_address(&self, class: Option<&str>) -> CauseChain {
        let name = &self.object.name;
        let mut builder = self.builder("Pending", "no load balancer has given it an address");
        let is_of_node =
            class.is_none_or(|class| class == controller_planners::load_balancer::CLASS);
        if let Some(class) = class.filter(|_| !is_of_node) {
            builder.remedy(format!(
                "install the controller of the class {class}; the machine's own \
                 addresses are for Services without a class or of the class {}",
                controller_planners::load_balancer::CLASS
            ));
            return builder.chain();
        }
        builder.remedy("nothing to do; the controller is about to give it one");
        if let Some(event) = self.event(reasons::SYNC_LOAD_BALANCER_FAILED) {
            let message = event.message.as_deref().unwrap_or_default();
            let remedy = if message.contains("is no address of a node") {
                let patch =
                    format!("patch service {name} -p '{{\"spec\":{{\"loadBalancerIP\":null}}}}'");
                Remedy::new("leave the choice of the address out").with(self.kubectl(&patch))
            } else if message.contains("is taken by") {
                Remedy::new("use another port, or free this one").with(self.another_port("port"))
            } else {
                Remedy::new("a node that is Ready").with("kubectl get nodes")
            };
            builder.event(event, self.object.clone());
            builder.remedy(remedy);
        }
        builder.chain()
    }
}

pub(super) fn ingress(
    observed: &ObservedNamespace,
    ingress: &Ingress,
    object: Object,
) -> Explanation {
    if let Some(chain) = blocked_deletion(observed, &object, &ingress.metadata) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let spec = ingress.spec.clone().unwrap_or_default();
    let rules = spec
        .rules
        .iter()
        .flatten()
        .filter_map(|rule| rule.http.as_ref());
    let paths = rules.flat_map(|http| &http.paths).map(|path| &path.backend);
    let backends = spec.default_backend.iter().chain(paths);
    let services = backends.filter_map(|backend| backend.service.as_ref());
    let mut explanation = Explanation::fine(object.clone(), "its Services are there");
    for backend in services {
        let name = backend.name.as_str();
        if explanation.chains.iter().any(|chain| {
            let mut links = chain.links.iter();
            links.any(|link| link.object.kind == "Service" && link.object.name == name)
        }) {
            continue;
        }
        let of_service = observed.object("Service", name);
        let Some(service) = named(&observed.services, name) else {
            let mut builder = ChainBuilder::of(observed);
            builder.link(of_service, "NotFound", "does not exist", None);
            let port = backend.port.as_ref().and_then(|port| port.number);
            let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
            let create = format!("create service clusterip {name} --tcp={port}");
            let create = text::kubectl(&observed.namespace, &create);
            builder.remedy(Remedy::new("the Service must exist").with(create));
            explanation = explanation.waits([builder.chain()]);
            continue;
        };
        let chains = explain(observed, service, of_service.clone()).chains;
        explanation = explanation.waits(chains.into_iter().map(|mut chain| {
            let mut builder = ChainBuilder::of(observed);
            let message = format!("its Service {name} does not answer");
            builder.link(object.clone(), "NoBackend", message, None);
            chain.links.splice(0..0, builder.chain().links);
            chain
        }));
    }
    let status = ingress
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let served = status.is_some_and(|status| status.ingress.iter().flatten().count() > 0);
    if !served {
        let mut builder = ChainBuilder::of(observed);
        let class = spec
            .ingress_class_name
            .map_or(String::new(), |class| format!(" of class {class}"));
        let message = format!("no ingress controller{class} has taken it");
        builder.link(object, "NoController", message, None);
        builder.remedy(
            "install an ingress controller (a cluster has none by default); or use a Service of the type LoadBalancer",
        );
        explanation = explanation.waits([builder.chain()]);
    }
    explanation
}
