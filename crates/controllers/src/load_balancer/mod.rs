//! Gives Services of the type `LoadBalancer` addresses of the nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use planners::load_balancer::{Notice, Observed, plan};
use reconcile::execute::unless_outrun;
use reconcile::{Key, Recorder};
use serde_json::json;

use crate::Context;

/// Several changes in one go are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// After a write that failed.
const RETRY_DELAY: Duration = Duration::from_secs(5);

pub(crate) async fn run(context: Context) {
    let caches = &context.caches;
    let synced = caches.services.wait_synced().await
        && caches.slices.wait_synced().await
        && caches.nodes.wait_synced().await;
    if !synced {
        return;
    }
    let recorder = context.recorder("service-controller");
    let mut services = caches.services.subscribe();
    let mut slices = caches.slices.subscribe();
    let mut nodes = caches.nodes.subscribe();
    // What was told of a Service last is not told again.
    let mut told: BTreeMap<Key, Notice> = BTreeMap::new();
    loop {
        let observed = Observed {
            services: caches.services.list(),
            slices: caches.slices.list(),
            nodes: caches.nodes.list(),
        };
        let mut failed = false;
        let mut telling = BTreeMap::new();
        for decision in plan(&observed) {
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
            () = tokio::time::sleep(RETRY_DELAY), if failed => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
        while services.next().now_or_never().flatten().is_some() {}
        while slices.next().now_or_never().flatten().is_some() {}
        while nodes.next().now_or_never().flatten().is_some() {}
    }
}

async fn write(
    context: &Context,
    service: &Service,
    status: &LoadBalancerStatus,
) -> kube::Result<()> {
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
