//! The Node object of a node whose agent has not started yet.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::guarded_writes::{WriteRefusal, refusal};
use kube_api_client::{Api, Client, PostParams};

use crate::machine::machine_info::architecture;

/// A node before its agent starts.
#[derive(Clone, Debug, Default)]
pub struct NewNode {
    pub name: String,
    /// Labels of the Node in addition to the standard labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Node that the node manages: the value, or `None` if the annotation must be
    /// absent.
    pub annotations: BTreeMap<String, Option<String>>,
    pub taints: Vec<Taint>,
    /// The pod range of the node; the API server chooses a range if it is `None`.
    pub pod_cidr: Option<String>,
}

impl NewNode {
    /// Creates the Node object, unless it exists. Returns the stored object.
    ///
    /// # Errors
    /// The API server rejects the node, or does not respond.
    pub async fn register(&self, client: &Client) -> Result<Node, kube_api_client::Error> {
        let api: Api<Node> = Api::all(client.clone());
        match api.create(&PostParams::default(), &self.object()).await {
            Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => {
                api.get(&self.name).await
            }
            created => created,
        }
    }

    pub(crate) fn object(&self) -> Node {
        let mut labels = self.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        let annotations = self.annotations.iter();
        let annotations: BTreeMap<String, String> = annotations
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
            .collect();
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                annotations: (!annotations.is_empty()).then_some(annotations),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: self.pod_cidr.clone(),
                pod_cidrs: self.pod_cidr.clone().map(|cidr| vec![cidr]),
                taints: (!self.taints.is_empty()).then(|| self.taints.clone()),
                ..NodeSpec::default()
            }),
            status: None,
        }
    }
}
