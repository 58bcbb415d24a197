//! The question, and who answers it.

use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;

use super::chain::{Chain, Explanation, Object};
use super::evidence::Evidence;
use super::pod::{Surroundings, pod_in};
use super::trail::Trail;
use super::{claims, sets, words};

/// What can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A set.
    StatefulSet,
    /// A pod, also one that a set has yet to make.
    Pod,
    /// A claim, also one that a set has yet to make.
    Claim,
}

impl TargetKind {
    /// Kind, as in manifests.
    pub fn kind(self) -> &'static str {
        match self {
            Self::StatefulSet => "StatefulSet",
            Self::Pod => "Pod",
            Self::Claim => "PersistentVolumeClaim",
        }
    }
}

/// Says why the object waits, or that it does not. None: there is no such object, nor is any set
/// to make it.
pub fn explain(kind: TargetKind, name: &str, evidence: &Evidence) -> Option<Explanation> {
    let object = evidence.object(kind.kind(), name);
    match kind {
        TargetKind::StatefulSet => {
            let set = evidence.set(name)?;
            Some(sets::explain(evidence, set, object))
        }
        TargetKind::Pod => match evidence.pod(name) {
            Some(pod) => Some(of_pod(evidence, pod, object)),
            None => sets::of_missing_pod(evidence, name, object),
        },
        TargetKind::Claim => match evidence.claim(name) {
            Some(claim) => Some(claims::explain(evidence, claim, object)),
            None => sets::of_missing_claim(evidence, name, object),
        },
    }
}

fn of_pod(evidence: &Evidence, pod: &PodView, object: Object) -> Explanation {
    let node = pod.node.as_deref().and_then(|name| evidence.node(name));
    let around = Surroundings {
        node: node.map(AsRef::as_ref),
        now: Some(evidence.now),
    };
    let mut answer = Explanation {
        object,
        summary: String::new(),
        chains: Vec::new(),
        notes: Vec::new(),
    };
    match pod_in(pod, &around) {
        Some(_) => {
            let mut trail = Trail::of(evidence);
            trail.pod(pod);
            let chain = trail.chain();
            let first = chain.links.first();
            answer.summary = first.map_or(String::new(), |link| link.reason.clone());
            answer.chains.push(chain);
        }
        None => {
            answer.chains = update_of(evidence, pod);
            answer.summary = if answer.chains.is_empty() {
                "Ready".to_owned()
            } else {
                "Ready, but not all is done that its set wants of it".to_owned()
            };
            let since = words::changed_at(pod.condition(pod_condition::READY));
            if let Some(since) = since {
                answer.notes.push(format!("Ready since {since}"));
            }
        }
    }
    answer
}

/// What a pod that is Ready may still wait for: to be available, or to be replaced.
fn update_of(evidence: &Evidence, pod: &PodView) -> Vec<Chain> {
    let Some(set) = evidence.owner(pod) else {
        return Vec::new();
    };
    sets::chains_of_pod(evidence, set, &pod.name)
}
