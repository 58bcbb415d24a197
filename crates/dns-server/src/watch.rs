//! Keeps the zone in step with Services, EndpointSlices and namespaces.

use std::sync::Arc;

use dns_records::{Settings, Zone};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use reconcile::{Cache, WatchConfig};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::resolve::CurrentZone;

const FORBIDDEN: u16 = 403;

/// What the zone is made of.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) namespaces: Cache<PartialObjectMeta<Namespace>>,
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
}

impl Watched {
    fn zone(&self, settings: &Settings) -> Zone {
        let namespaces = self.namespaces.list();
        let services = self.services.list();
        let slices = self.slices.list();
        Zone::build(
            settings,
            namespaces
                .iter()
                .filter_map(|namespace| namespace.metadata.name.as_deref()),
            services.iter().map(Arc::as_ref),
            slices.iter().map(Arc::as_ref),
        )
    }

    /// Namespaces are not waited for: without them all names of Services and pods are known.
    async fn wait_synced(&self) -> bool {
        self.services.wait_synced().await && self.slices.wait_synced().await
    }
}

/// Watches namespaces if that is allowed. They only tell "no such namespace" from "nothing in
/// it"; namespaces with a Service are known without.
pub(crate) async fn watch_namespaces(
    client: Client,
    shutdown: CancellationToken,
) -> Cache<PartialObjectMeta<Namespace>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces
        .list_metadata(&ListParams::default().limit(1))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
            tracing::info!("namespaces may not be watched; only those with Services are known");
            Cache::from_events(futures::stream::pending())
        }
        _ => Cache::spawn(Api::all(client), WatchConfig::default(), shutdown),
    }
}

/// Builds the zone anew on each change, until `shutdown`.
pub(crate) async fn follow(
    watched: Watched,
    settings: Settings,
    zone: CurrentZone,
    shutdown: CancellationToken,
) {
    if !shutdown
        .run_until_cancelled(watched.wait_synced())
        .await
        .unwrap_or(false)
    {
        return;
    }
    let mut namespaces = watched.namespaces.subscribe();
    let mut services = watched.services.subscribe();
    let mut slices = watched.slices.subscribe();
    loop {
        let built = watched.zone(&settings);
        tracing::debug!(names = built.len(), "zone built");
        zone.set(built);
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = namespaces.next() => {}
            Some(_) = services.next() => {}
            Some(_) = slices.next() => {}
        }
        tokio::time::sleep(limits::DEBOUNCE).await;
        while namespaces.next().now_or_never().flatten().is_some() {}
        while services.next().now_or_never().flatten().is_some() {}
        while slices.next().now_or_never().flatten().is_some() {}
    }
}
