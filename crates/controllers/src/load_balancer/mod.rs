//! The controller of Services of the type `LoadBalancer`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_framework::{
    Cache, Index, Queue, ReconcileResult, Recorder, object_key, service_of,
};
use controller_planners::load_balancer::{
    API_SERVER, LoadBalancerEvent, Observed, concerned, plan,
};
use json_tree::json;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{Api, Patch, PatchParams};
use object_model::ObjectKey;
use object_model::listening::Listening;
use resource_kinds::MetadataIdentity;
use tokio::sync::watch;

use crate::Context;
use crate::context::Caches;
use crate::endpoints::term;

/// Several changes within this time are processed together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The index term of the Services that the planner reads.
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
        let index_key = |service: &Service| concerned(service).then(|| CONCERNED.to_owned());
        Self {
            services: caches
                .services
                .index(move |service| index_key(service).into_iter().collect()),
            slices: caches
                .slices
                .index(|slice| service_of(slice).iter().map(term).collect()),
            nodes: caches.nodes.clone(),
            listening,
        }
    }

    fn observe(&self) -> Observed {
        let services = self.services.get(CONCERNED);
        let keys = services.iter().map(|service| object_key(service.as_ref()));
        let keys = keys.chain([ObjectKey::new(API_SERVER.0, API_SERVER.1)]);
        Observed {
            slices: keys.flat_map(|key| self.slices.get(&term(&key))).collect(),
            services,
            nodes: self.nodes.list(),
            listening: match &self.listening {
                Some(receiver) => receiver.borrow().clone(),
                None => Listening::default(),
            },
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the addresses of {services} Services are not written")]
struct Error {
    services: usize,
}

/// The only key: all Services are decided together, because a port of the node is given to one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct AllServices;

struct LoadBalancers {
    context: Context,
    observer: Observer,
    recorder: Recorder,
    /// The last event of each Service, so that an equal event is not repeated.
    reported: Mutex<BTreeMap<ObjectKey, LoadBalancerEvent>>,
}

pub(crate) async fn run(context: Context) {
    let controller = LoadBalancers {
        observer: Observer::new(&context.caches, context.config.listening.clone()),
        recorder: context.recorder("service-controller"),
        reported: Mutex::default(),
        context: context.clone(),
    };
    context.run("service", controller).await;
}

impl controller_framework::Controller for LoadBalancers {
    type Key = AllServices;
    type Error = Error;

    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        caches.services.wait_synced().await
            && caches.slices.wait_synced().await
            && caches.nodes.wait_synced().await
    }

    /// Queues the decision about all Services when one of its inputs changes.
    async fn feed(&self, queue: &Queue<AllServices>) {
        let caches = &self.context.caches;
        let mut services = caches.services.subscribe();
        let mut slices = caches.slices.subscribe();
        let mut nodes = caches.nodes.subscribe();
        let mut listening = self.observer.listening.clone();
        queue.add(AllServices);
        loop {
            tokio::select! {
                Some(_) = services.next() => {}
                Some(_) = slices.next() => {}
                Some(_) = nodes.next() => {}
                Some(()) = changed(&mut listening) => {}
                else => return,
            }
            queue.add_after(AllServices, DEBOUNCE);
        }
    }

    async fn reconcile(&self, _: &AllServices) -> Result<ReconcileResult, Error> {
        let mut failed = 0;
        let mut reported = BTreeMap::new();
        for decision in plan(&self.observer.observe()) {
            let service = decision.service.as_ref();
            let key = object_key(service);
            if let Some(status) = &decision.status
                && let Err(error) = write(&self.context, service, status).await
            {
                let ObjectKey { namespace, name } = key;
                tracing::warn!(%namespace, %name, %error, "addresses not written");
                failed += 1;
            } else if let Some(notice) = decision.notice {
                if self.reported().get(&key) != Some(&notice) {
                    report(&self.recorder, service, &notice);
                }
                reported.insert(key, notice);
            }
        }
        *self.reported() = reported;
        match failed {
            0 => Ok(ReconcileResult::Done),
            services => Err(Error { services }),
        }
    }
}

impl LoadBalancers {
    fn reported(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, LoadBalancerEvent>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a change of the listening sockets; `None` if changes are no longer reported.
async fn changed(listening: &mut Option<watch::Receiver<Listening>>) -> Option<()> {
    listening.as_mut()?.changed().await.ok()
}

async fn write(
    context: &Context,
    service: &Service,
    status: &LoadBalancerStatus,
) -> kube_api_client::Result<()> {
    let patch = json!({
        "metadata": {"resourceVersion": service.metadata.object_version()?},
        "status": {"loadBalancer": {"ingress": status.ingress}},
    });
    let namespace = service.metadata.object_namespace()?;
    let name = service.metadata.object_name()?;
    let api: Api<Service> = Api::namespaced(context.client.clone(), namespace);
    let params = PatchParams::default();
    let patch = Patch::Merge(patch);
    let written = api.patch_status(name, &params, &patch).await;
    unless_outrun(written).map(drop)
}

fn report(recorder: &Recorder, service: &Service, notice: &LoadBalancerEvent) {
    if notice.warning {
        recorder.warning(service, notice.reason, notice.message.clone());
    } else {
        recorder.normal(service, notice.reason, notice.message.clone());
    }
}
