//! The owner of a pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use meta::{ObjectMeta, OwnerReference};
use object_model::{IncompleteMetadata, LabelSelector, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use super::PodAction;
use crate::ownership::controller;

/// The kind of an owner, as in owner references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerKind {
    pub api_version: &'static str,
    pub kind: &'static str,
}

/// The owner of the pods.
#[derive(Clone, Debug)]
pub struct Owner<'a> {
    pub kind: OwnerKind,
    /// Name of the owner.
    pub name: &'a str,
    /// Namespace of the owner and of its pods.
    pub namespace: &'a str,
    /// UID of the owner.
    pub uid: Uid,
    /// Whether the owner is being deleted.
    pub deleting: bool,
    /// The selector; `None` if it is invalid or selects everything.
    pub selector: Option<LabelSelector>,
}

impl<'a> Owner<'a> {
    /// The owner with this metadata and selector.
    pub fn new(
        kind: OwnerKind,
        metadata: &'a ObjectMeta,
        selector: &meta::LabelSelector,
    ) -> Result<Self, IncompleteMetadata> {
        Ok(Self {
            kind,
            name: metadata.object_name()?,
            namespace: metadata.object_namespace()?,
            uid: metadata.object_uid()?,
            deleting: metadata.deletion_timestamp.is_some(),
            selector: LabelSelector::of(selector).filter(|selector| !selector.is_everything()),
        })
    }

    /// Whether the selector matches labels; false without a selector.
    pub fn selects(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.matches_by(|key| labels?.get(key).map(String::as_str)))
    }

    /// Whether the selector matches the pod.
    pub fn selects_pod(&self, pod: &PodView) -> bool {
        let selector = self.selector.as_ref();
        selector.is_some_and(|selector| selector.matches_by(|key| pod.label(key)))
    }

    /// Whether this owner controls the object.
    pub fn owns(&self, metadata: &ObjectMeta) -> bool {
        let owners = metadata.owner_references.as_deref();
        controller(owners).is_some_and(|owner| self.uid == *owner.uid.as_str())
    }

    /// Whether the object has no controller, and this owner may adopt it.
    pub fn claims(&self, metadata: &ObjectMeta) -> bool {
        controller(metadata.owner_references.as_deref()).is_none()
            && !self.deleting
            && metadata.deletion_timestamp.is_none()
            && metadata.namespace.as_deref() == Some(self.namespace)
            && self.selects(metadata.labels.as_ref())
    }

    /// Selects this owner's pods, and plans adoptions and releases.
    pub fn sort<'p>(&self, pods: &'p [Arc<PodView>]) -> Sorted<'p> {
        let mut sorted = Sorted::default();
        let mut adopts = false;
        for pod in pods {
            if *pod.namespace != *self.namespace {
                continue;
            }
            sorted.names.push(pod.name.to_string());
            let (name, uid) = (pod.name.to_string(), pod.uid.clone());
            let selected = self.selects_pod(pod);
            match &pod.controller {
                Some(owner) if self.uid == owner.uid => {
                    if selected || self.deleting || self.selector.is_none() {
                        sorted.mine.push(pod);
                    } else {
                        sorted.actions.push(PodAction::Release { name, uid });
                    }
                }
                None if selected && !self.deleting && !pod.is_deleting() => {
                    adopts = true;
                    sorted.mine.push(pod);
                    sorted.actions.push(PodAction::Adopt { name, uid });
                }
                _ => {}
            }
        }
        // An owner that is being deleted must not adopt pods: the garbage collector releases them.
        if adopts {
            sorted.actions.insert(0, PodAction::ConfirmOwner);
        }
        sorted
    }
}

/// The owner's pods, with adoptions and releases.
#[derive(Clone, Debug, Default)]
pub struct Sorted<'p> {
    /// Pods that the owner controls, including pods to adopt.
    pub mine: Vec<&'p PodView>,
    /// Adoptions and releases to write.
    pub actions: Vec<PodAction>,
    /// Names of all pods in the namespace, which new pods may not have.
    pub names: Vec<String>,
}

/// The owner reference for an object that the owner controls.
pub fn owner_reference(owner: &Owner<'_>) -> OwnerReference {
    OwnerReference {
        api_version: owner.kind.api_version.to_owned(),
        kind: owner.kind.kind.to_owned(),
        name: owner.name.to_owned(),
        uid: owner.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
