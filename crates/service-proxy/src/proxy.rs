//! Watches Services, EndpointSlices, the pods' host ports and NetworkPolicies, and updates the kernel's
//! table and the health checks. Only changed Services are processed, independent of their total number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use controller_framework::{Cache, ServiceChanges, ServiceState};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::{Interrupted, blocking_value};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::Client;
use object_model::cidr::Cidr;
use object_model::listening::Listening;
use process_telemetry::Component;
use service_routing::{
    Connection, MachineAddresses, Protocol, ProxyNode, PublishedPort, Routes, ServiceName,
    ServicePort, Settings, Table, TableChange, TunnelGuard, UdpFlow, denied, has_lost_endpoints,
    health_check, misled_flows, ports, stale_flows, tightens, udp_differs,
};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::conntrack;
use crate::firewalls::{self, PodLinks};
use crate::health_checks::HealthChecks;
use crate::kernel::{Kernel, KernelError};
use crate::limits;
use crate::nodes::{self, NodeFacts, NodeReceiver};
use crate::policies::{LocalPods, PolicyChanges, PolicySources};
use crate::refusals::{Refusals, Reports};
use crate::rest::Rest;

/// The link through which nodes in namespaces of this machine reach the machine and other networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchLink {
    pub name: String,
    /// The addresses of the nodes and of the machine on the link.
    pub range: Cidr,
}

/// The Service of the API server: namespace and name.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// The settings of the proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Six hexadecimal digits that identify this instance in the name of the table.
    pub instance_id: String,
    /// Name of this node, as in the endpoints of EndpointSlices.
    pub node_name: String,
    /// Addresses of the pods of this node.
    pub pod_cidr: Cidr,
    /// Addresses of the pods of all nodes.
    pub cluster_cidr: Cidr,
    /// Addresses of Services (`clusterIP`).
    pub service_cidr: Cidr,
    /// Addresses of Services that this node serves itself, such as the DNS server's.
    pub unmanaged: BTreeSet<Ipv4Addr>,
    /// The prefix of the host's link names of pods. The machine's firewalls get rules for these links.
    pub pod_link_prefix: String,
    /// The link that receives encrypted packets of other nodes' pods. If it is set, plain packets are
    /// dropped.
    pub encrypted_link: Option<String>,
    /// The link to further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// The tunnel to other nodes, if there is one. Only packets from its other ends are accepted.
    pub tunnel: watch::Receiver<Option<TunnelGuard>>,
    /// Host ports of pods.
    pub host_ports: watch::Receiver<Vec<PublishedPort>>,
    /// The listening sockets of the node, whose ports are not used for Services or pods.
    pub listening: watch::Receiver<Listening>,
    /// The pods whose connections are filtered by NetworkPolicies; `None` disables the filters.
    pub pods: Option<LocalPods>,
    /// Whether the table is removed when the proxy stops; otherwise the table stays active for the next
    /// proxy.
    pub remove_on_shutdown: watch::Receiver<bool>,
}

/// The reason why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's nftables cannot be used.
    #[error("write the rules of Services to nftables")]
    Kernel(#[from] KernelError),
    /// The thread for blocking work panicked.
    #[error("run the thread that writes to nftables")]
    Lost(#[from] Interrupted),
}

/// Runs the proxy until its part of the program is shut down.
///
/// # Errors
/// The kernel's nftables cannot be used. A rejected change is not an error: the table is replaced.
pub fn run(
    client: Client,
    config: Config,
    component: Component,
) -> BoxFuture<'static, Result<(), Error>> {
    async move {
        let services = Cache::spawn_all(&client, &component);
        let slices = Cache::spawn_all(&client, &component);
        if config.pods.is_none() {
            return serve(services, slices, config, component).await;
        }
        let policies = PolicySources::watch(&client, &component);
        let nodes = nodes::of(&client, &config.node_name, &component);
        let reports = Reports::to(client, &config.node_name, &component);
        let around = Around { nodes, reports };
        serve_among((services, slices), policies, around, config, component).await
    }
    .boxed()
}

/// Runs the proxy with existing caches, and without NetworkPolicies.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    config: Config,
    component: impl Into<Component>,
) -> Result<(), Error> {
    let component = component.into();
    let around = Around::alone(&component);
    let work = keep_in_step((services, slices), None, around, config, component.clone());
    component.watched("the table", work).await
}

/// Runs the proxy with existing caches.
///
/// # Errors
/// As [`run`].
pub async fn serve_with_policies(
    services: (Cache<Service>, Cache<EndpointSlice>),
    policies: PolicySources,
    config: Config,
    component: impl Into<Component>,
) -> Result<(), Error> {
    let component = component.into();
    let around = Around::alone(&component);
    serve_among(services, policies, around, config, component).await
}

/// The proxy's inputs and outputs apart from Services and policies.
struct Around {
    nodes: NodeReceiver,
    reports: Reports,
}

impl Around {
    /// A proxy without other nodes, which reports only the health of its component.
    fn alone(component: &Component) -> Around {
        Around {
            nodes: nodes::none(),
            reports: Reports::to_nobody(component),
        }
    }
}

async fn serve_among(
    services: (Cache<Service>, Cache<EndpointSlice>),
    policies: PolicySources,
    around: Around,
    config: Config,
    component: Component,
) -> Result<(), Error> {
    let local = config.pods.clone();
    let policies = local.map(|local| PolicyChanges::new(policies, &config.node_name, local));
    let work = keep_in_step(services, policies, around, config, component.clone());
    component.watched("the table", work).await
}

/// Keeps the kernel's table equal to the routes until the component is shut down.
async fn keep_in_step(
    (services, slices): (Cache<Service>, Cache<EndpointSlice>),
    mut policies: Option<PolicyChanges>,
    Around { mut nodes, reports }: Around,
    mut config: Config,
    component: Component,
) -> Result<(), Error> {
    let shutdown = component.shutdown.clone();
    let settings = Settings {
        pod_range: config.pod_cidr,
        cluster_range: config.cluster_cidr,
        service_range: config.service_cidr,
        unmanaged: config.unmanaged.clone(),
        pod_links: config.pod_link_prefix.clone(),
        encrypted_link: config.encrypted_link.clone(),
        switch_range: config.switch.as_ref().map(|switch| switch.range),
        machines: MachineAddresses::default(),
    };
    let kernel = Kernel::open(&config.instance_id)?;
    let mut proxy = Proxy {
        kernel: Arc::new(Mutex::new(kernel)),
        in_step: false,
    };
    let mut routes = Routes::new(settings);
    // Pods can reach other networks from the start. The table of a former process stays active until the
    // new table is complete.
    if !proxy.is_present().await? {
        proxy.apply(&routes, Vec::new()).await?;
    }
    let node_address = config.pod_cidr.nth(1);
    let switch = config.switch.iter().map(|switch| switch.name.clone());
    let links = PodLinks {
        prefixes: switch.chain([config.pod_link_prefix.clone()]).collect(),
        local_addresses: node_address
            .into_iter()
            .chain(config.unmanaged.clone())
            .collect(),
    };
    proxy.pass_firewalls(&links).await?;
    proxy.keep_half_closed().await?;
    let mut check = tokio::time::interval(limits::CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let synced = async {
        let policies = match &mut policies {
            Some(policies) => policies.wait_synced().await,
            None => true,
        };
        let nodes = nodes.wait_for(Option::is_some).await.is_ok();
        services.wait_synced().await && slices.wait_synced().await && policies && nodes
    };
    let synced = shutdown.run_until_cancelled(synced).await.unwrap_or(false);
    let mut changes = ServiceChanges::new(services, &slices);
    let mut flows = StaleFlows::default();
    let mut checks = HealthChecks::new(component);
    let mut due = synced;
    let mut rest = Rest::new(Instant::now());
    let mut refusals = Refusals::new(reports);
    let mut surroundings = Surroundings::default();
    while !shutdown.is_cancelled() {
        let mut retry = false;
        if due {
            let mut moved = surroundings.take_nodes(&mut nodes);
            if moved.is_some_and(|moved| moved.zone) {
                changes.note_all();
            }
            let changed = changes.take();
            moved = surroundings.take_servers(&changed).or(moved);
            for state in &changed {
                let service = state.service.as_deref();
                let slices = state.slices.iter().map(Arc::as_ref);
                let check =
                    service.and_then(|service| health_check(service, slices, &config.node_name));
                checks.note(name_of(state), check);
            }
            let here = ProxyNode {
                node: &config.node_name,
                zone: surroundings.nodes.zone.as_deref(),
            };
            let changed = ports_of(&changed, here);
            let published = config.host_ports.borrow_and_update().clone();
            flows.note(&routes, &changed, &published);
            let services: Vec<ServiceName> = changed.keys().cloned().collect();
            let mut steps = routes.replace(changed);
            refusals.tell_withheld(&routes, services);
            if moved.is_some() {
                steps.extend(routes.place(surroundings.machines()));
                let services: Vec<ServiceName> = routes.services().cloned().collect();
                refusals.tell_withheld(&routes, services);
            }
            steps.extend(routes.publish(published));
            steps.extend(routes.hold(config.listening.borrow_and_update().clone()));
            steps.extend(routes.guard(config.tunnel.borrow_and_update().clone()));
            let started = Instant::now();
            if let Some(policies) = &mut policies
                && let Some(filters) = policies.take().await?
            {
                let filtered = routes.filter(filters);
                flows.denied |= tightens(&filtered);
                steps.extend(filtered);
            }
            let mut is_done = proxy.apply(&routes, steps).await?;
            if !is_done || refusals.are_due(Instant::now()) {
                let left_out = refusals.leave_out(&mut proxy, &mut routes, policies.as_mut());
                is_done = left_out.await?;
            }
            retry = !is_done;
            rest.worked(started, Instant::now());
            if !retry {
                let stale = std::mem::take(&mut flows);
                proxy.forget_stale(stale, &routes).await?;
                if let Some(policies) = &policies {
                    policies.report();
                }
            }
            checks.answer(proxy.in_step).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = changes.wait() => due = true,
            () = wait_for(&mut policies) => due = synced,
            Ok(()) = nodes.changed() => due = synced,
            Ok(()) = config.host_ports.changed() => due = synced,
            Ok(()) = config.listening.changed() => due = synced,
            Ok(()) = config.tunnel.changed() => due = synced,
            () = tokio::time::sleep(limits::RETRY_DELAY), if retry => due = true,
            () = refusals.wait() => due = synced,
            _ = check.tick() => {
                due = retry || (synced && !proxy.is_present().await?);
                checks.answer(proxy.in_step).await;
                proxy.pass_firewalls(&links).await?;
                continue;
            }
        }
        let resting = tokio::time::sleep_until(rest.end(Instant::now()).into());
        shutdown.run_until_cancelled(resting).await;
    }
    let is_removed = *config.remove_on_shutdown.borrow();
    if is_removed {
        proxy.with(Kernel::remove).await??;
        proxy
            .with(move |kernel| firewalls::close(kernel, &links))
            .await??;
    }
    Ok(())
}

/// Waits for a change of policies. Never returns without policies.
async fn wait_for(policies: &mut Option<PolicyChanges>) {
    match policies {
        Some(policies) => policies.wait().await,
        None => std::future::pending().await,
    }
}

/// Removes the table of an instance that was killed.
///
/// # Errors
/// The kernel rejects the removal.
pub fn remove(instance_id: &str) -> Result<(), KernelError> {
    Kernel::open(instance_id)?.remove()
}

/// The ports that Services have now.
fn ports_of(
    changed: &[ServiceState],
    here: ProxyNode<'_>,
) -> BTreeMap<ServiceName, Vec<ServicePort>> {
    let changed = changed.iter().map(|state| {
        let service = state.service.iter().map(Arc::as_ref);
        let slices = state.slices.iter().map(Arc::as_ref);
        (name_of(state), ports(service, slices, here))
    });
    changed.collect()
}

fn name_of(state: &ServiceState) -> ServiceName {
    ServiceName {
        namespace: state.key.namespace.to_string(),
        name: state.key.name.to_string(),
    }
}

/// The nodes and API servers, if they are known.
#[derive(Default)]
struct Surroundings {
    nodes: NodeFacts,
    /// The addresses of the API servers.
    servers: BTreeSet<Ipv4Addr>,
}

/// The properties that have changed.
#[derive(Clone, Copy)]
struct Moved {
    zone: bool,
}

impl Surroundings {
    /// Updates the properties of the nodes; `None` if they have not changed.
    fn take_nodes(&mut self, nodes: &mut NodeReceiver) -> Option<Moved> {
        let now = nodes.borrow_and_update().clone().unwrap_or_default();
        if now == self.nodes {
            return None;
        }
        let zone = now.zone != self.nodes.zone;
        self.nodes = now;
        Some(Moved { zone })
    }

    /// Updates the addresses of the servers; `None` if they have not changed.
    fn take_servers(&mut self, changed: &[ServiceState]) -> Option<Moved> {
        let mut all = changed.iter();
        let api = all.find(|state| (&*state.key.namespace, &*state.key.name) == API_SERVER)?;
        let endpoints = api
            .slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let texts = endpoints.flat_map(|endpoint| &endpoint.addresses);
        let servers = texts.filter_map(|text| text.parse().ok()).collect();
        let differs = self.servers != servers;
        self.servers = servers;
        differs.then_some(Moved { zone: false })
    }

    fn machines(&self) -> MachineAddresses {
        MachineAddresses {
            own: self.nodes.own.clone(),
            others: self.nodes.others.union(&self.servers).copied().collect(),
        }
    }
}

/// Kinds of flows to former destinations, which are removed after the next change of the rules.
#[derive(Default)]
struct StaleFlows {
    /// Policies may now deny open connections.
    denied: bool,
    /// A Service has lost a UDP endpoint.
    of_services: bool,
    /// The host ports before a change of UDP ports.
    published_before: Option<Vec<PublishedPort>>,
}

impl StaleFlows {
    fn note(
        &mut self,
        routes: &Routes,
        changed: &BTreeMap<ServiceName, Vec<ServicePort>>,
        published: &[PublishedPort],
    ) {
        self.of_services |= changed
            .iter()
            .any(|(service, now)| has_lost_endpoints(routes.ports_of(service), now));
        if udp_differs(routes.published(), published) && self.published_before.is_none() {
            self.published_before = Some(routes.published().to_vec());
        }
    }
}

/// The kernel's table, which is changed on threads for blocking work.
pub(crate) struct Proxy {
    kernel: Arc<Mutex<Kernel>>,
    /// Whether the kernel's table equals the last applied table; if not, it is replaced.
    in_step: bool,
}

impl Proxy {
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let kernel = self.kernel.clone();
        let locked = move || {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut kernel)
        };
        Ok(blocking_value(locked).await?)
    }

    /// Lets the packets of pods pass other firewalls. If the kernel rejects a rule, the proxy continues.
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

    /// Makes the kernel retain half-closed connections. If that fails, the proxy continues.
    async fn keep_half_closed(&self) -> Result<(), Error> {
        if let Err(error) = self.with(|_| conntrack::keep_half_closed()).await? {
            tracing::warn!(%error, "connections of which one end is closed are lost after a minute");
        }
        Ok(())
    }

    /// Removes UDP flows to former endpoints. A failure does not affect the rules.
    async fn forget_flows(
        &self,
        choose: impl FnOnce(&[UdpFlow]) -> Vec<usize> + Send + 'static,
    ) -> Result<(), Error> {
        match self
            .with(move |kernel| conntrack::forget(kernel, choose))
            .await?
        {
            Ok(count) => tracing::debug!(count, "flows to former places ended"),
            Err(error) => tracing::warn!(%error, "flows to former endpoints may continue"),
        }
        Ok(())
    }

    /// Removes the connections that policies deny, except the connections of the node itself.
    async fn cut_denied(&self, filters: Table) -> Result<(), Error> {
        let choose = move |all: &[Connection]| {
            let local = conntrack::local_addresses();
            denied(&filters, all, |address| local.contains(&address))
        };
        match self
            .with(move |kernel| conntrack::cut(kernel, choose))
            .await?
        {
            Ok(count) => tracing::debug!(count, "denied connections ended"),
            Err(error) => tracing::warn!(%error, "denied connections may continue"),
        }
        Ok(())
    }

    /// Removes the flows to destinations that are not in the routes.
    async fn forget_stale(&self, stale: StaleFlows, routes: &Routes) -> Result<(), Error> {
        if stale.of_services {
            let udp = routes.ports().filter(|port| port.protocol == Protocol::Udp);
            let udp: Vec<ServicePort> = udp.cloned().collect();
            self.forget_flows(move |all| stale_flows(all, &udp)).await?;
        }
        if let Some(former) = stale.published_before {
            let now = routes.published().to_vec();
            let misled = move |all: &[UdpFlow]| {
                misled_flows(all, &former, &now, &conntrack::local_addresses())
            };
            self.forget_flows(misled).await?;
        }
        if stale.denied {
            let filters = routes.filters().clone();
            self.cut_denied(filters).await?;
        }
        Ok(())
    }

    /// Whether the kernel has the table.
    async fn is_present(&mut self) -> Result<bool, Error> {
        let present = self.with(Kernel::is_present).await??;
        self.in_step &= present;
        Ok(present)
    }

    /// Programs the steps that led to the routes, or the whole table if the kernel's table is not equal to
    /// the last one. Returns whether the kernel accepted the change.
    pub(crate) async fn apply(
        &mut self,
        routes: &Routes,
        steps: Vec<TableChange>,
    ) -> Result<bool, Error> {
        let started = Instant::now();
        if self.in_step {
            let changed = move |kernel: &mut Kernel| kernel.change(&steps).map(|()| steps.len());
            let done = self.with(changed).await?;
            self.in_step = done.is_ok();
            self.note(started, &done);
        }
        if self.in_step {
            return Ok(true);
        }
        let done = {
            let table = routes.table();
            self.with(move |kernel| kernel.replace(&table)).await?
        };
        self.in_step = done.is_ok();
        self.note(started, &done);
        Ok(self.in_step)
    }

    fn note(&self, started: Instant, done: &Result<usize, KernelError>) {
        match done {
            Ok(0) => {}
            Ok(steps) => {
                let took_us = started.elapsed().as_micros();
                tracing::debug!(steps, took_us, "services programmed");
            }
            Err(error) => tracing::warn!(%error, "the kernel refuses the rules"),
        }
    }

    /// Whether the kernel's table equals the last applied table.
    pub(crate) fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// Lets the next change replace the whole table.
    pub(crate) fn renew(&mut self) {
        self.in_step = false;
    }
}
