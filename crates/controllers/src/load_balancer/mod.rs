//! Gives Services of the type `LoadBalancer` addresses of the nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use planners::load_balancer::{Decision, Notice, Observed, plan};
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
    let mut told: BTreeMap<(String, String), Notice> = BTreeMap::new();
    loop {
        let observed = Observed {
            services: caches.services.list(),
            slices: caches.slices.list(),
            nodes: caches.nodes.list(),
        };
        let mut failed = false;
        let mut telling = BTreeMap::new();
        for mut decision in plan(&observed) {
            let notice = decision.notice.take();
            if let Err(error) = write(&context, &observed, &decision).await {
                let (namespace, name) = &decision.key;
                tracing::warn!(namespace, name, %error, "addresses not written");
                failed = true;
            } else if let Some(notice) = notice {
                if told.get(&decision.key) != Some(&notice) {
                    tell(&recorder, &observed, &decision, &notice);
                }
                telling.insert(decision.key, notice);
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

fn find<'o>(observed: &'o Observed, decision: &Decision) -> Option<&'o Service> {
    let key = Key::new(&decision.key.0, &decision.key.1);
    let mut services = observed.services.iter();
    services
        .find(|service| Key::of(service.as_ref()) == key)
        .map(AsRef::as_ref)
}

async fn write(context: &Context, observed: &Observed, decision: &Decision) -> kube::Result<()> {
    let (namespace, name) = &decision.key;
    let (Some(status), Some(service)) = (&decision.status, find(observed, decision)) else {
        return Ok(());
    };
    let balancer = status.load_balancer.clone().unwrap_or_default();
    let patch = json!({
        "metadata": {"resourceVersion": service.metadata.resource_version},
        "status": {"loadBalancer": {"ingress": balancer.ingress}},
    });
    let api: Api<Service> = Api::namespaced(context.client.clone(), namespace);
    let params = PatchParams::default();
    let written = api.patch_status(name, &params, &Patch::Merge(patch)).await;
    unless_outrun(written).map(drop)
}

fn tell(recorder: &Recorder, observed: &Observed, decision: &Decision, notice: &Notice) {
    let Some(service) = find(observed, decision) else {
        return;
    };
    if notice.warning {
        recorder.warning(service, notice.reason, notice.message.clone());
    } else {
        recorder.normal(service, notice.reason, notice.message.clone());
    }
}
