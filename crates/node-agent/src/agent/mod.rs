//! The agent as a whole: registers the node, starts its tasks, and waits for their end.

mod admission;
mod dispatcher;
pub(crate) mod left_pods;

use std::sync::{Arc, Mutex};

use api_client::Client;
use container_runtime::Runtime;
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::block_in_place;
use pod_lifecycle::environment::resolv_conf::Resolver;
use pod_lifecycle::record::Volumes;
use process_telemetry::Component;
use reconcile::{Recorder, Source};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::answer_cache::CachedAnswer;
use crate::api::events::PodEvents;
use crate::api::objects::ApiObjects;
use crate::clock::Clock;
use crate::config::Config;
use crate::csi_volumes::{CsiVolumes, LivePod, clean_up, keep_shown, keep_up, watch_plugins};
use crate::error::Error;
use crate::images::Puller;
use crate::kubelet_api::{
    self, HttpsServer, KubeletAuthorizer, KubeletContext, NodeService, PodSessions,
};
use crate::machine::machine_info::MachineInfo;
use crate::machine::pressure::Monitor;
use crate::node::lease::{self, LeaseFiles, NodeLease};
use crate::node::registration::NodeKeeper;
use crate::node_context::NodeContext;
use crate::paths::pods_dir;
use crate::volumes::{fs_group, keep_images_growing};
use crate::worker::WorkerContext;
use dispatcher::Dispatcher;

/// A running node agent, the counterpart of kubelet.
pub struct NodeAgent {
    kubelet: Arc<KubeletContext>,
    task: JoinHandle<()>,
}

/// Runs a node agent until its component is shut down, and until its pods are stopped if requested.
///
/// # Errors
/// It cannot start.
pub async fn run(config: Config, client: Client, component: Component) -> Result<(), Error> {
    NodeAgent::start(config, client, component)
        .await?
        .finished()
        .await;
    Ok(())
}

impl NodeAgent {
    /// Registers the node, adopts the pods of a former agent, and starts to run pods.
    ///
    /// # Errors
    /// The runtime does not open, directories cannot be created, the kubelet API cannot be served, or
    /// the API refuses the node.
    pub fn start(
        mut config: Config,
        client: Client,
        component: Component,
    ) -> BoxFuture<'static, Result<Self, Error>> {
        async move {
        let server = match &mut config.kubelet_api {
            Some(api) => {
                let access = KubeletAuthorizer::new(&config.node_name, client.clone());
                HttpsServer::bind_if_possible(api, access).await?
            }
            None => None,
        };
        if server.is_none() {
            config.kubelet_api = None;
        }
        let pods = pods_dir(&config.data_dir);
        let made = block_in_place(|| host_kernel::tree::make_private(&pods));
        made.map_err(|source| Error::Directory {
            path: pods.clone(),
            source,
        })?;
        let found = block_in_place(|| crate::pods::recovery::found(&config.data_dir))
            .map_err(|source| Error::Directory { path: pods, source })?;
        let runtime = Runtime::open(config.runtime.clone()).map_err(Error::Runtime)?;
        let sandboxes = runtime.sandboxes().await.map_err(Error::Runtime)?;
        let lease_length = lease::length_with(config.lease_length, &sandboxes);
        if lease_length > config.lease_length {
            tracing::warn!(
                seconds = lease_length.seconds(),
                "pods run that were started with a longer lease of this node: it keeps this length until the next start"
            );
            config.lease_length = lease_length;
        }
        let machine = MachineInfo::read(&config.data_dir);
        let clock = Clock::open(&config.data_dir, &machine.boot_id);
        let clock = clock.map_err(|source| Error::Directory {
            path: config.data_dir.clone(),
            source,
        })?;
        let monitor = Monitor::new(
            config.eviction.clone(),
            clock,
            &pods_dir(&config.data_dir),
            config.images.directory(),
        );
        let groups = runtime.clone();
        let monitor = Arc::new(
            monitor.with_group_check(move || groups.check_groups().map_err(|e| e.to_string())),
        );
        let lease_gate = Arc::new(tokio::sync::RwLock::default());
        let lease = block_in_place(|| {
            let name = config.node_name.clone();
            let files = LeaseFiles::of(&config.data_dir, &machine.boot_id);
            NodeLease::open(
                client.clone(),
                name,
                lease_length,
                runtime.clone(),
                files,
                lease_gate.clone(),
            )
        });
        let lease = lease.map_err(|source| Error::Directory {
            path: config.data_dir.clone(),
            source,
        })?;
        let csi = block_in_place(|| {
            let node = config.node_name.clone();
            CsiVolumes::open(client.clone(), node, &config.data_dir)
        });
        let csi = Arc::new(csi.map_err(|source| Error::Directory {
            path: config.data_dir.clone(),
            source,
        })?);
        let keeper = NodeKeeper::register(
            client.clone(),
            config.clone(),
            machine.clone(),
            monitor.clone(),
            clock,
            lease,
            csi.in_use().changes(),
        )
        .await?;
        let node_uid = keeper.uid_changes();
        // Watches, events and heartbeats continue while pods are being stopped.
        let background = component.with_shutdown(CancellationToken::new());
        let source = Source {
            component: "kubelet".to_owned(),
            host: Some(config.node_name.clone()),
        };
        let resolver = block_in_place(|| std::fs::read_to_string(&config.resolv_conf)).unwrap_or_default();
        let api_objects = Arc::new(ApiObjects::new(client.clone(), background.clone()));
        let images = Puller::new(&config, api_objects.clone(), monitor.clone());
        let node = Arc::new(NodeContext {
            recorder: Recorder::spawn(client.clone(), source, background.shutdown.clone()),
            resolver: Resolver::parse(&resolver),
            machine,
            clock,
            config,
        });
        let kubelet = Arc::new(KubeletContext {
            node: node.clone(),
            pods: Arc::default(),
            usage: Arc::default(),
            disk: Arc::default(),
            probes: Arc::default(),
            csi: csi.clone(),
            sessions: PodSessions::default(),
            summary: CachedAnswer::default(),
            reads: Default::default(),
        });
        let context = Arc::new(WorkerContext {
            node,
            client,
            runtime,
            api_objects,
            images: Arc::new(images),
            csi: csi.clone(),
            pods: kubelet.pods.clone(),
            monitor: monitor.clone(),
            disk: kubelet.disk.clone(),
            probes: kubelet.probes.clone(),
            allocation: Mutex::default(),
            lease_gate,
            abandon: CancellationToken::new(),
        });
        if let Some(server) = server {
            let service = kubelet_api::service(kubelet.clone());
            let serve = server.serve(service, background.shutdown.clone());
            tokio::spawn(background.watched("kubelet API", serve));
        }
        let (objects, live) = (context.api_objects.clone(), context.clone());
        let live = move || live_pods(&live);
        let care = keep_up(csi.clone(), objects, live, background.shutdown.clone());
        tokio::spawn(background.watched("CSI volumes", care));
        let (objects, live) = (context.api_objects.clone(), context.clone());
        let name = context.node.config.node_name.clone();
        let data_dir = context.node.config.data_dir.clone();
        let live = move || live_pods(&live);
        let shutdown = background.shutdown.clone();
        let images = keep_images_growing(objects, name, data_dir, live, shutdown);
        tokio::spawn(background.watched("images of Ceph", images));
        let shown = keep_shown(csi.clone(), node_uid, background.shutdown.clone());
        tokio::spawn(background.watched("shown CSI drivers", shown));
        let left_over = clean_up(csi.clone(), background.shutdown.clone());
        tokio::spawn(background.watched("left CSI volumes", left_over));
        let plugins = watch_plugins(csi, background.shutdown.clone());
        tokio::spawn(background.watched("CSI drivers", plugins));
        let dispatcher = Dispatcher::new(context, monitor, kubelet.usage.clone(), &background);
        let run = dispatcher.run(
            found,
            sandboxes,
            keeper,
            background.shutdown.clone(),
            component.shutdown,
        );
        let task = tokio::spawn(async move { background.watched("dispatcher", run).await });
        Ok(Self { kubelet, task })
    }.boxed()
    }

    /// The kubelet's API: logs, exec, attach, pods, health.
    pub fn kubelet_api(&self) -> NodeService {
        kubelet_api::service(self.kubelet.clone())
    }

    /// Waits for the agent's end.
    pub async fn finished(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "node agent ended unexpectedly");
        }
    }
}

/// The pods whose volumes are ready, and stay.
fn live_pods(context: &WorkerContext) -> Vec<LivePod> {
    let views = context.pods.list();
    let live = views.iter().filter(|view| {
        let ends = view.pod.metadata.deletion_timestamp.is_some() || view.has_ended();
        !ends && view.record.volumes == Volumes::Ready
    });
    live.map(|view| LivePod {
        pod: view.pod.clone(),
        group: fs_group(&view.pod),
        events: PodEvents::of(&context.node.recorder, &view.pod),
    })
    .collect()
}
