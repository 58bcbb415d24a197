//! Dispatch of a question about an object to the module of its kind.

use pod_lifecycle::diagnosis::{PodContext, Reason, pod_in, text};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;

use super::chain_builder::ChainBuilder;
use super::explanation::{CauseChain, Explanation, Object};
use super::kinds::TargetKind;
use super::observed::{ObservedNamespace, named};
use super::{
    api, claims, components, jobs, namespaces, nodes, scaling, services, sets, snapshots, volumes,
    workloads,
};

/// Explains why the object waits, or that it does not wait. `None` if there is no such object and no controller will
/// create it.
pub fn explain(kind: TargetKind, name: &str, observed: &ObservedNamespace) -> Option<Explanation> {
    let namespace = kind.is_namespaced().then_some(&*observed.namespace);
    let object = Object::new(kind.kind(), namespace, name);
    let e = observed;
    let cluster = &*e.cluster;
    match kind {
        TargetKind::StatefulSet => {
            let set = e.set(name)?;
            Some(sets::explain(e, set, object))
        }
        TargetKind::Pod => match e.pod(name) {
            Some(pod) => Some(of_pod(e, pod, object)),
            None => sets::of_missing_pod(e, name, object.clone())
                .or_else(|| workloads::of_missing_pod(e, name, object)),
        },
        TargetKind::Claim => match e.claim(name) {
            Some(claim) => Some(claims::explain(e, claim, object)),
            None => sets::of_missing_claim(e, name, object),
        },
        TargetKind::Deployment => named(&e.deployments, name)
            .map(|deployment| workloads::deployment(e, deployment, object)),
        TargetKind::ReplicaSet => {
            named(&e.replica_sets, name).map(|set| workloads::replica_set(e, set, object))
        }
        TargetKind::ReplicationController => named(&e.replication_controllers, name)
            .map(|controller| workloads::replication_controller(e, controller, object)),
        TargetKind::DaemonSet => {
            named(&e.daemon_sets, name).map(|set| workloads::daemon_set(e, set, object))
        }
        TargetKind::Job => named(&e.jobs, name).map(|job| jobs::job(e, job, object)),
        TargetKind::CronJob => {
            named(&e.cron_jobs, name).map(|cron_job| jobs::cron_job(e, cron_job, object))
        }
        TargetKind::Service => {
            named(&e.services, name).map(|service| services::explain(e, service, object))
        }
        TargetKind::Ingress => {
            named(&e.ingresses, name).map(|ingress| services::ingress(e, ingress, object))
        }
        TargetKind::Snapshot => {
            let mut snapshots = e.snapshots.iter();
            snapshots
                .find(|snapshot| text::name(&snapshot.metadata) == name)
                .map(|snapshot| snapshots::explain(e, snapshot, object))
        }
        TargetKind::Autoscaler => {
            named(&e.autoscalers, name).map(|scaler| scaling::autoscaler(e, scaler, object))
        }
        TargetKind::Budget => {
            named(&e.budgets, name).map(|budget| scaling::budget(e, budget, object))
        }
        TargetKind::Node => match e.node(name) {
            Some(node) => Some(nodes::explain(e, node, object)),
            None => nodes::missing(e, object),
        },
        TargetKind::Volume => e
            .volume(name)
            .map(|volume| volumes::explain(e, volume, object)),
        TargetKind::StorageClass => e.class(name).map(|class| volumes::class(e, class, object)),
        TargetKind::Namespace => named(cluster.namespaces.as_deref()?, name)
            .map(|namespace| namespaces::explain(e, namespace, object)),
        TargetKind::SigningRequest => named(cluster.signing_requests.as_deref()?, name)
            .map(|request| api::signing_request(e, request, object)),
        TargetKind::Definition => named(cluster.definitions.as_deref()?, name)
            .map(|definition| api::definition(e, definition, object)),
        TargetKind::ApiService => named(cluster.api_services.as_deref()?, name)
            .map(|service| api::api_service(e, service, object)),
        TargetKind::Component => named(cluster.components.as_deref()?, name)
            .map(|component| components::explain(e, component, object)),
    }
}

fn of_pod(observed: &ObservedNamespace, pod: &PodView, object: Object) -> Explanation {
    let node = pod.node.as_deref().and_then(|name| observed.node(name));
    let around = PodContext {
        node: node.map(AsRef::as_ref),
        now: Some(observed.now),
    };
    let mut explanation = Explanation::fine(object, "");
    let claims = pod.claims.iter();
    let claims = claims.filter_map(|used| observed.claim(&used.name));
    let copies = claims.filter_map(|claim| {
        let state = claims::replication(observed, claim)?;
        Some(format!("claim {}: {state}", text::name(&claim.metadata)))
    });
    explanation.notes.extend(copies);
    match pod_in(pod, &around) {
        Some(done) if done.reason == Reason::Completed => {
            explanation.summary = done.reason.to_string();
            explanation.notes.push(done.message);
        }
        Some(_) => {
            let mut builder = ChainBuilder::of(observed);
            builder.pod(pod);
            let chain = builder.chain();
            let first = chain.links.first();
            explanation.summary = first.map_or(String::new(), |link| link.reason.clone());
            explanation.chains.push(chain);
        }
        None => {
            explanation.chains = update_of(observed, pod);
            explanation.summary = if explanation.chains.is_empty() {
                "Ready".to_owned()
            } else {
                "Ready, but some actions of its set are pending".to_owned()
            };
            let since = text::changed_at(pod.condition(pod_condition::READY));
            if let Some(since) = since {
                explanation.notes.push(format!("Ready since {since}"));
            }
            let node = pod.node.as_deref().unwrap_or_default();
            let silence = nodes::silence(observed, node, pod.ends_with_lease());
            explanation.notes.extend(silence);
        }
    }
    explanation
}

/// The causes why a Ready pod still waits: to become available, or to be replaced.
fn update_of(observed: &ObservedNamespace, pod: &PodView) -> Vec<CauseChain> {
    let Some(set) = observed.owner(pod) else {
        return Vec::new();
    };
    sets::chains_of_pod(observed, set, &pod.name)
}
