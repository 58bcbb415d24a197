//! The cache of all pods, the most numerous kind with the most readers.

use futures::Stream;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, Client, Event};
use object_model::IncompleteMetadata;
use process_telemetry::Component;
use resource_kinds::pod_view::{PodView, Sharing};

use crate::{Cache, Identity, WatchConfig};

impl Cache<PodView> {
    /// A cache of the views of all pods, which ends with its component.
    pub fn of_pods(client: &Client, component: &Component) -> Self {
        let mut sharing = Sharing::default();
        let all: Api<Pod> = Api::all(client.clone());
        let view = move |pod: &[u8]| sharing.read(pod);
        Self::spawn_as(
            all,
            WatchConfig::default(),
            component.clone(),
            identity,
            view,
        )
    }

    /// A cache of views from a stream of events, which ends with the stream; see [`from_events`](Cache::from_events).
    pub fn of_pod_events(events: impl Stream<Item = Event<PodView>> + Send + 'static) -> Self {
        Self::fed(identity, events)
    }
}

/// The identity of a pod's view.
pub(crate) fn identity(pod: &PodView) -> Result<Identity<'_>, IncompleteMetadata> {
    if pod.name.is_empty() {
        return Err(IncompleteMetadata::Name);
    }
    Ok(Identity {
        namespace: &pod.namespace,
        name: &pod.name,
        uid: pod.uid.as_str(),
        version: pod.resource_version,
    })
}
