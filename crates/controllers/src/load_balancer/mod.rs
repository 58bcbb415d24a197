//! The controller of Services of the type `LoadBalancer`.

use std::collections::BTreeMap;
use std::time::Duration;

use api_client::{Api, Patch, PatchParams, ResourceExt};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use object_model::listening::Listening;
use planners::load_balancer::{API_SERVER, Notice, Observed, concerned, plan};
use reconcile::execute::unless_outrun;
use reconcile::{Cache, Index, Key, Recorder, service_of};
use serde_json::json;
use tokio::sync::watch;

use crate::Context;
use crate::context::Caches;
use crate::endpoints::term;

/// Several changes within this time are processed together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Time until a retry after a failed write.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// The index term of the Services that are concerned.
const CONCERNED: &str = "concerned";

/// The indexes for the planner's input.
struct Observer {
    services: Index<Service>,
    slices: Index<EndpointSlice>,
    nodes: Cache<Node>,
    listening: Option<watch::Receiver<Listening>>,
}

impl Observer {
    fn new(caches: &Caches, listening: Option<watch::Receiver<Listening>>) -> Self {
        let found_as = |service: &Service| concerned(service).then(|| CONCERNED.to_owned());
        Self {
            services: caches
                .services
                .index(move |service| found_as(service).into_iter().collect()),
            slices: caches
                .slices
                .index(|slice| service_of(slice).iter().map(term).collect()),
            nodes: caches.nodes.clone(),
            listening,
        }
    }

    fn observe(&self) -> Observed {
        let services = self.services.get(CONCERNED);
        let keys = services.iter().map(|service| Key::of(service.as_ref()));
        let keys = keys.chain([Key::new(API_SERVER.0, API_SERVER.1)]);
        Observed {
            slices: keys.flat_map(|key| self.slices.get(&term(&key))).collect(),
            services,
            nodes: self.nodes.list(),
            listening: match &self.listening {
                Some(known) => known.borrow().clone(),
                None => Listening::default(),
            },
        }
    }
}

pub(crate) async fn run(context: Context) {
    let caches = &context.caches;
    let synced = caches.services.wait_synced().await
        && caches.slices.wait_synced().await
        && caches.nodes.wait_synced().await;
    if !synced {
        return;
    }
    let mut listening = context.config.listening.clone();
    let observer = Observer::new(caches, listening.clone());
    let recorder = context.recorder("service-controller");
    let mut services = caches.services.subscribe();
    let mut slices = caches.slices.subscribe();
    let mut nodes = caches.nodes.subscribe();
    // The same event for a Service is not repeated.
    let mut told: BTreeMap<Key, Notice> = BTreeMap::new();
    loop {
        let mut failed = false;
        let mut telling = BTreeMap::new();
        for decision in plan(&observer.observe()) {
            let service = decision.service.as_ref();
            let key = Key::of(service);
            if let Some(status) = &decision.status
                && let Err(error) = write(&context, service, status).await
            {
                let Key { namespace, name } = key;
                tracing::warn!(%namespace, %name, %error, "addresses not written");
                failed = true;
            } else if let Some(notice) = decision.notice {
                if told.get(&key) != Some(&notice) {
                    tell(&recorder, service, &notice);
                }
                telling.insert(key, notice);
            }
        }
        told = telling;
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            Some(_) = services.next() => {}
            Some(_) = slices.next() => {}
            Some(_) = nodes.next() => {}
            Some(()) = changed(&mut listening) => {}
            () = tokio::time::sleep(RETRY_DELAY), if failed => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
        while services.next().now_or_never().flatten().is_some() {}
        while slices.next().now_or_never().flatten().is_some() {}
        while nodes.next().now_or_never().flatten().is_some() {}
    }
}

/// Waits for a change of the listening sockets; `None` if they are no longer reported.
async fn changed(listening: &mut Option<watch::Receiver<Listening>>) -> Option<()> {
    listening.as_mut()?.changed().await.ok()
}

async fn write(
    context: &Context,
    service: &Service,
    status: &LoadBalancerStatus,
) -> api_client::Result<()> {
    let patch = json!({
        "metadata": {"resourceVersion": service.metadata.resource_version},
        "status": {"loadBalancer": {"ingress": status.ingress}},
    });
    let namespace = service.namespace().unwrap_or_default();
    let api: Api<Service> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams::default();
    let patch = Patch::Merge(patch);
    let written = api.patch_status(&service.name_any(), &params, &patch).await;
    unless_outrun(written).map(drop)
}

fn tell(recorder: &Recorder, service: &Service, notice: &Notice) {
    if notice.warning {
        recorder.warning(service, notice.reason, notice.message.clone());
    } else {
        recorder.normal(service, notice.reason, notice.message.clone());
    }
}
