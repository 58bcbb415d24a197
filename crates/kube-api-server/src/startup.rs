//! The start of a server: its reads and writes before the first request, and its background tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use futures::future::BoxFuture;
use process_telemetry::health::Kind as Followed;
use process_telemetry::polls::watched;
use tokio_util::sync::CancellationToken;

use crate::access::authorize::{self, Sources};
use crate::aggregation::{authentication_config, availability};
use crate::bootstrap;
use crate::config::Config;
use crate::config_watches;
use crate::flow_control::config_sync;
use crate::group_services;
use crate::objects::allocations;
use crate::objects::definitions;
use crate::objects::quota;
use crate::server::{ApiServer, StartError};
use crate::store_space;

impl ApiServer {
    /// Creates a server, fills its index of roles and creates missing default objects. Then the server accepts
    /// [`local`](Self::local) callers.
    ///
    /// *Errors.* Unusable certificates, a store that fails, default objects that are refused.
    pub fn new(mut config: Config) -> BoxFuture<'static, Result<Arc<Self>, StartError>> {
        async move {
            let background = CancellationToken::new();
            let cluster = bootstrap::Cluster {
                default_objects: std::mem::take(&mut config.default_objects),
                service_ip: config.service_ip,
                advertise: std::mem::take(&mut config.advertise),
            };
            let server = Arc::new(Self::assemble(config, background.clone().drop_guard())?);
            definitions::follow(&server.objects)
                .await
                .map_err(|source| StartError::DefaultObject {
                    what: "the kinds of the definitions".to_owned(),
                    source,
                })?;
            let result = allocations::complete(&server.objects)
                .await
                .map_err(|source| StartError::DefaultObject {
                    what: "the allocations of stored objects".to_owned(),
                    source,
                });
            store_space::unless_full(&server, result)?;
            let result = bootstrap::run(server.writer(), &cluster).await;
            store_space::unless_full(&server, result)?;
            let result = authentication_config::keep(server.writer(), &server.authorities)
                .await
                .map_err(|source| StartError::DefaultObject {
                    what: "the configuration for extension API servers".to_owned(),
                    source,
                });
            store_space::unless_full(&server, result)?;
            // All default roles exist now. The index reads them while the other components start.
            let sources = Sources::of(&server.objects.catalog.snapshot().registry);
            let (rbac, store) = (&server.access.authorizer.rbac, &server.objects.store);
            let (for_roles, from) = (rbac.clone(), store.clone());
            let filling = tokio::spawn(async move {
                let filled = authorize::fill(&for_roles, from.as_ref(), &sources).await;
                filled.map(|filled| (sources, filled))
            });
            let result = group_services::follow(server.writer())
                .await
                .map_err(|source| StartError::DefaultObject {
                    what: "the objects of the groups that are served".to_owned(),
                    source,
                });
            store_space::unless_full(&server, result)?;
            config_sync::start(&server.flows, server.writer()).await;
            let following = config_watches::start(&server).await?;
            let (sources, revision) = match filling.await {
                Ok(filled) => filled?,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            };
            let component = server
                .health
                .components
                .component("API server", background.clone());
            let (rbac, store) = (rbac.clone(), store.clone());
            let fresh = authorize::keep_fresh(rbac, store, sources, revision, background);
            server.start("the index of roles", fresh);
            let streak = component.follow(Followed::Watch, "definitions, webhooks and flows");
            let follow = config_watches::run(Arc::downgrade(&server), following, streak);
            server.start("following", follow);
            let health = server.health.components.clone();
            server.add_metrics(move |page| health.write(page));
            server.start("flows", config_sync::run(Arc::downgrade(&server)));
            server.start(
                "extension API servers",
                availability::run(Arc::downgrade(&server)),
            );
            server.start("room", store_space::watch(Arc::downgrade(&server)));
            server.start(
                "quotas",
                quota::recount_periodically(Arc::downgrade(&server.objects)),
            );
            server.health.bootstrapped.store(true, Ordering::Release);
            Ok(server)
        }
        .boxed()
    }

    fn start(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(watched(self.limits.slow_polls.clone(), what, task));
    }
}
