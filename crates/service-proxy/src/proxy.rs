//! Watches Services, EndpointSlices and the pods' ports on the node, and keeps the kernel's table in
//! step.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use object_model::cidr::Cidr;
use reconcile::{Cache, WatchConfig};
use service_routing::{
    Flow, PublishedPort, Settings, Table, has_lost_endpoints, misled_flows, ports, publish,
    stale_flows, table, udp_differs,
};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::conntrack;
use crate::firewalls::{self, PodLinks};
use crate::kernel::{Kernel, KernelError};
use crate::limits;

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Six hexadecimal digits that name this instance; they name the table.
    pub instance_id: String,
    /// Name of this node, by which endpoints say where they are.
    pub node_name: String,
    /// Addresses of the pods of this node.
    pub pod_cidr: Cidr,
    /// Addresses of the pods of all nodes.
    pub cluster_cidr: Cidr,
    /// Addresses of the Services.
    pub service_cidr: Cidr,
    /// Addresses of Services that this node answers itself (the DNS server's).
    pub unmanaged: BTreeSet<Ipv4Addr>,
    /// What the names of the host's ends of the pods' links begin with; the machine's firewalls
    /// are told to let these through.
    pub pod_link_prefix: String,
    /// Ports of the node that belong to pods.
    pub host_ports: watch::Receiver<Vec<PublishedPort>>,
    /// Whether the table goes when the proxy ends; otherwise it goes on serving for the next.
    pub remove_on_shutdown: bool,
}

/// Why the proxy gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the kernel.
    #[error("program services")]
    Kernel(#[from] KernelError),
    /// The thread that talks to the kernel ended.
    #[error("talk to the kernel")]
    Lost(#[from] tokio::task::JoinError),
}

/// Runs the proxy until `shutdown`.
///
/// # Errors
/// When the kernel cannot be talked to. A refused change is not an error: the table is made anew.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let watch = || WatchConfig::default();
    let services = Cache::spawn(Api::all(client.clone()), watch(), shutdown.clone());
    let slices = Cache::spawn(Api::all(client), watch(), shutdown.clone());
    serve(services, slices, config, shutdown).await
}

/// The same over caches that someone else feeds.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    mut config: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let settings = Settings {
        pod_range: config.pod_cidr,
        cluster_range: config.cluster_cidr,
        service_range: config.service_cidr,
        unmanaged: config.unmanaged.clone(),
    };
    let kernel = Kernel::open(&config.instance_id)?;
    let proxy = Proxy {
        kernel: Arc::new(Mutex::new(kernel)),
    };
    // Pods reach the world outside from the start; a table of before serves until ours is known.
    if !proxy.with(Kernel::is_present).await?? {
        proxy.apply(table(&[], &settings)).await?;
    }
    let node_address = config.pod_cidr.nth(1);
    let links = PodLinks {
        prefix: config.pod_link_prefix.clone(),
        local_addresses: node_address
            .into_iter()
            .chain(config.unmanaged.clone())
            .collect(),
    };
    proxy.pass_firewalls(&links).await?;
    let mut check = tokio::time::interval(limits::CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let synced = async { services.wait_synced().await && slices.wait_synced().await };
    let synced = shutdown.run_until_cancelled(synced).await.unwrap_or(false);
    let mut service_changes = services.subscribe();
    let mut slice_changes = slices.subscribe();
    let mut before = Vec::new();
    let mut published_before = Vec::new();
    let mut due = synced;
    while !shutdown.is_cancelled() {
        let mut retry = false;
        if due {
            let services = services.list();
            let slices = slices.list();
            let ports = ports(
                services.iter().map(Arc::as_ref),
                slices.iter().map(Arc::as_ref),
                &config.node_name,
            );
            let published = config.host_ports.borrow_and_update().clone();
            let mut wanted = table(&ports, &settings);
            publish(&mut wanted, &published);
            retry = !proxy.apply(wanted).await?;
            if !retry {
                if has_lost_endpoints(&before, &ports) {
                    let ports = ports.clone();
                    proxy
                        .forget_flows(move |all| stale_flows(all, &ports))
                        .await?;
                }
                if udp_differs(&published_before, &published) {
                    let (former, now) = (published_before, published.clone());
                    let misled = move |all: &[Flow]| {
                        misled_flows(all, &former, &now, &conntrack::local_addresses())
                    };
                    proxy.forget_flows(misled).await?;
                }
                (before, published_before) = (ports, published);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = service_changes.next() => due = true,
            Some(_) = slice_changes.next() => due = true,
            Ok(()) = config.host_ports.changed() => due = synced,
            () = tokio::time::sleep(limits::RETRY_DELAY), if retry => due = true,
            _ = check.tick() => {
                due = retry || (synced && !proxy.with(Kernel::is_present).await??);
                proxy.pass_firewalls(&links).await?;
                continue;
            }
        }
        tokio::time::sleep(limits::DEBOUNCE).await;
        while service_changes.next().now_or_never().flatten().is_some() {}
        while slice_changes.next().now_or_never().flatten().is_some() {}
    }
    if config.remove_on_shutdown {
        proxy.with(Kernel::remove).await??;
        proxy
            .with(move |kernel| firewalls::close(kernel, &links))
            .await??;
    }
    Ok(())
}

/// Removes the table of an instance that was killed.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(instance_id: &str) -> Result<(), KernelError> {
    Kernel::open(instance_id)?.remove()
}

/// The kernel, used on threads that may block.
struct Proxy {
    kernel: Arc<Mutex<Kernel>>,
}

impl Proxy {
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let kernel = self.kernel.clone();
        let locked = move || work(&mut kernel.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(locked).await?)
    }

    /// Lets pods through other firewalls; that one of them refuses is no reason to stop.
    async fn pass_firewalls(&self, links: &PodLinks) -> Result<(), Error> {
        let links = links.clone();
        if let Err(error) = self
            .with(move |kernel| firewalls::open(kernel, &links))
            .await?
        {
            tracing::warn!(%error, "a firewall of this machine may keep pods from each other");
        }
        Ok(())
    }

    /// Ends UDP flows that no longer go where they should; the rules hold whether that works or
    /// not.
    async fn forget_flows(
        &self,
        choose: impl FnOnce(&[Flow]) -> Vec<usize> + Send + 'static,
    ) -> Result<(), Error> {
        match self
            .with(move |kernel| conntrack::forget(kernel, choose))
            .await?
        {
            Ok(count) => tracing::debug!(count, "flows to former places ended"),
            Err(error) => tracing::warn!(%error, "flows to former places may go on"),
        }
        Ok(())
    }

    /// Programs the table and says whether the kernel took it.
    async fn apply(&self, table: Table) -> Result<bool, Error> {
        let started = Instant::now();
        match self.with(move |kernel| kernel.apply(&table)).await? {
            Ok(0) => Ok(true),
            Ok(steps) => {
                let took_us = started.elapsed().as_micros();
                tracing::debug!(steps, took_us, "services programmed");
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(%error, "service rules refused; making the table anew");
                Ok(false)
            }
        }
    }
}
