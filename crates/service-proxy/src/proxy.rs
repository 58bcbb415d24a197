//! Watches Services, EndpointSlices, the pods' host ports and NetworkPolicies, and updates the kernel's
//! table and the health checks. Only changed Services are processed, independent of their total number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use controller_framework::{Cache, ServiceChanges, ServiceState};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::Interrupted;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::Client;
use object_model::cidr::Cidr;
use object_model::listening::Listening;
use process_telemetry::Component;
use service_routing::{
    MachineAddresses, ProxyNode, PublishedPort, Routes, ServiceName, ServicePort, Settings,
    TableChange, TunnelGuard, health_check, ports, tightens,
};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::firewalls::{self, PodLinks};
use crate::health_checks::HealthChecks;
use crate::kernel::{Kernel, KernelError};
use crate::kernel_table::{KernelTable, StaleFlows};
use crate::limits;
use crate::nodes::{self, NodeFacts, NodeReceiver};
use crate::policies::{LocalPods, PolicyChanges, PolicySources};
use crate::refusals::{Refusals, Reports};
use crate::rest::Rest;
use crate::service_ranges::FurtherRanges;

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
    /// Further addresses of Services.
    pub further_ranges: FurtherRanges,
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
        let nodes = nodes::watch(&client, &config.node_name, &component);
        let reports = Reports::to(client, &config.node_name, &component);
        let inputs = Inputs {
            services,
            slices,
            policies: policy_changes(policies, &config),
            nodes,
        };
        serve_inputs(inputs, reports, config, component).await
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
    let inputs = Inputs {
        services,
        slices,
        policies: None,
        nodes: nodes::none(),
    };
    let reports = Reports::to_nobody(&component);
    serve_inputs(inputs, reports, config, component).await
}

/// The caches of Services and of their endpoints.
pub struct ServiceCaches {
    pub services: Cache<Service>,
    pub slices: Cache<EndpointSlice>,
}

/// Runs the proxy with existing caches.
///
/// # Errors
/// As [`run`].
pub async fn serve_with_policies(
    caches: ServiceCaches,
    policies: PolicySources,
    config: Config,
    component: impl Into<Component>,
) -> Result<(), Error> {
    let component = component.into();
    let inputs = Inputs {
        services: caches.services,
        slices: caches.slices,
        policies: policy_changes(policies, &config),
        nodes: nodes::none(),
    };
    let reports = Reports::to_nobody(&component);
    serve_inputs(inputs, reports, config, component).await
}

/// The changes of NetworkPolicies; `None` if the proxy filters no pods.
fn policy_changes(policies: PolicySources, config: &Config) -> Option<PolicyChanges> {
    let pods = config.pods.clone()?;
    Some(PolicyChanges::new(policies, &config.node_name, pods))
}

async fn serve_inputs(
    inputs: Inputs,
    reports: Reports,
    config: Config,
    component: Component,
) -> Result<(), Error> {
    let work = keep_table_current(inputs, reports, config, component.clone());
    component.watched("the table", work).await
}

/// The watched objects from which the routes are computed.
struct Inputs {
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    /// `None` without filters of NetworkPolicies.
    policies: Option<PolicyChanges>,
    nodes: NodeReceiver,
}

impl Inputs {
    /// Waits until the first lists are complete; `false` if a watch has ended before.
    async fn wait_synced(&mut self) -> bool {
        let policies = match &mut self.policies {
            Some(policies) => policies.wait_synced().await,
            None => true,
        };
        let nodes = self.nodes.wait_for(Option::is_some).await.is_ok();
        self.services.wait_synced().await && self.slices.wait_synced().await && policies && nodes
    }
}

/// Keeps the kernel's table equal to the routes until the component is shut down.
async fn keep_table_current(
    mut inputs: Inputs,
    reports: Reports,
    config: Config,
    component: Component,
) -> Result<(), Error> {
    let shutdown = component.shutdown.clone();
    let mut table = KernelTable::open(&config.instance_id)?;
    let routes = Routes::new(settings(&config));
    // Pods can reach other networks from the start. The table of a former process stays active until the
    // new table is complete.
    if !table.is_present().await? {
        table.apply(&routes, Vec::new()).await?;
    }
    let links = pod_links(&config);
    table.pass_firewalls(&links).await?;
    table.keep_half_closed().await?;
    let mut check = tokio::time::interval(limits::CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_synced = shutdown.run_until_cancelled(inputs.wait_synced()).await;
    let mut updates = TableUpdates {
        changes: ServiceChanges::new(inputs.services, &inputs.slices),
        policies: inputs.policies,
        nodes: inputs.nodes,
        config,
        table,
        routes,
        links,
        flows: StaleFlows::default(),
        checks: HealthChecks::new(component),
        rest: Rest::new(Instant::now()),
        refusals: Refusals::new(reports),
        surroundings: Surroundings::default(),
    };
    updates
        .run(is_synced.unwrap_or(false), check, &shutdown)
        .await?;
    updates.stop().await
}

fn settings(config: &Config) -> Settings {
    Settings {
        pod_range: config.pod_cidr,
        cluster_range: config.cluster_cidr,
        service_range: config.service_cidr,
        further_ranges: Vec::new(),
        unmanaged: config.unmanaged.clone(),
        pod_links: config.pod_link_prefix.clone(),
        encrypted_link: config.encrypted_link.clone(),
        switch_range: config.switch.as_ref().map(|switch| switch.range),
        machines: MachineAddresses::default(),
    }
}

fn pod_links(config: &Config) -> PodLinks {
    let node_address = config.pod_cidr.nth(1);
    let switch = config.switch.iter().map(|switch| switch.name.clone());
    PodLinks {
        prefixes: switch.chain([config.pod_link_prefix.clone()]).collect(),
        local_addresses: node_address
            .into_iter()
            .chain(config.unmanaged.clone())
            .collect(),
    }
}

/// The kernel's table, and the changes that are applied to it.
struct TableUpdates {
    config: Config,
    changes: ServiceChanges,
    /// `None` without filters of NetworkPolicies.
    policies: Option<PolicyChanges>,
    nodes: NodeReceiver,
    table: KernelTable,
    routes: Routes,
    links: PodLinks,
    flows: StaleFlows,
    checks: HealthChecks,
    rest: Rest,
    refusals: Refusals,
    surroundings: Surroundings,
}

impl TableUpdates {
    /// Updates the table until `shutdown`. If the inputs are not synced, the table only passes the firewalls.
    async fn run(
        &mut self,
        is_synced: bool,
        mut check: Interval,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let mut is_due = is_synced;
        while !shutdown.is_cancelled() {
            let mut retry = false;
            if is_due {
                retry = !self.update().await?;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.changes.wait() => is_due = true,
                () = wait_for(&mut self.policies) => is_due = is_synced,
                Ok(()) = self.nodes.changed() => is_due = is_synced,
                Ok(()) = self.config.host_ports.changed() => is_due = is_synced,
                Ok(()) = self.config.listening.changed() => is_due = is_synced,
                Ok(()) = self.config.tunnel.changed() => is_due = is_synced,
                Ok(()) = self.config.further_ranges.changed() => is_due = is_synced,
                () = tokio::time::sleep(limits::RETRY_DELAY), if retry => is_due = true,
                () = self.refusals.wait() => is_due = is_synced,
                _ = check.tick() => {
                    is_due = retry || (is_synced && !self.table.is_present().await?);
                    self.checks.update(self.table.is_current()).await;
                    self.table.pass_firewalls(&self.links).await?;
                    continue;
                }
            }
            let rest = tokio::time::sleep_until(self.rest.end(Instant::now()).into());
            shutdown.run_until_cancelled(rest).await;
        }
        Ok(())
    }

    /// Applies the changes of the inputs. Returns whether the kernel has accepted them.
    async fn update(&mut self) -> Result<bool, Error> {
        let mut steps = self.update_routes();
        let started = Instant::now();
        if let Some(policies) = &mut self.policies
            && let Some(filters) = policies.changed_filters().await?
        {
            let filtered = self.routes.filter(filters);
            self.flows.denied |= tightens(&filtered);
            steps.extend(filtered);
        }
        let mut is_applied = self.table.apply(&self.routes, steps).await?;
        if !is_applied || self.refusals.are_due(Instant::now()) {
            let policies = self.policies.as_mut();
            let refusals = &mut self.refusals;
            is_applied = refusals
                .leave_out(&mut self.table, &mut self.routes, policies)
                .await?;
        }
        self.rest.worked(started, Instant::now());
        if is_applied {
            let stale = std::mem::take(&mut self.flows);
            self.table.delete_stale_flows(stale, &self.routes).await?;
            if let Some(policies) = &self.policies {
                policies.report();
            }
        }
        self.checks.update(self.table.is_current()).await;
        Ok(is_applied)
    }

    /// Updates the routes from the changed Services, nodes, ports and tunnel. Returns the changes of the table.
    fn update_routes(&mut self) -> Vec<TableChange> {
        let mut change = self.surroundings.update_nodes(&mut self.nodes);
        if change.is_some_and(|change| change.zone) {
            self.changes.note_all();
        }
        let changed = self.changes.take();
        change = self.surroundings.update_servers(&changed).or(change);
        for state in &changed {
            let service = state.service.as_deref();
            let slices = state.slices.iter().map(Arc::as_ref);
            let node = &self.config.node_name;
            let check = service.and_then(|service| health_check(service, slices, node));
            self.checks.set(name_of(state), check);
        }
        let node = ProxyNode {
            node: &self.config.node_name,
            zone: self.surroundings.nodes.zone.as_deref(),
        };
        let changed = ports_of(&changed, node);
        let published = self.config.host_ports.borrow_and_update().clone();
        self.flows.record(&self.routes, &changed, &published);
        let services: Vec<ServiceName> = changed.keys().cloned().collect();
        let mut steps = self.routes.replace(changed);
        self.refusals.report_withheld(&self.routes, services);
        let further = self.config.further_ranges.borrow_and_update().clone();
        let has_other_ranges = further != self.routes.further_ranges();
        if has_other_ranges {
            steps.extend(self.routes.set_further_ranges(further));
        }
        if change.is_some() {
            steps.extend(self.routes.set_machines(self.surroundings.machines()));
        }
        if has_other_ranges || change.is_some() {
            let services: Vec<ServiceName> = self.routes.services().cloned().collect();
            self.refusals.report_withheld(&self.routes, services);
        }
        steps.extend(self.routes.publish(published));
        let listening = self.config.listening.borrow_and_update().clone();
        steps.extend(self.routes.hold(listening));
        let tunnel = self.config.tunnel.borrow_and_update().clone();
        steps.extend(self.routes.guard(tunnel));
        steps
    }

    /// Removes the table, if the configuration requests the removal.
    async fn stop(self) -> Result<(), Error> {
        let is_removed = *self.config.remove_on_shutdown.borrow();
        if is_removed {
            self.table.with(Kernel::remove).await??;
            let links = self.links;
            self.table
                .with(move |kernel| firewalls::close(kernel, &links))
                .await??;
        }
        Ok(())
    }
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
    node: ProxyNode<'_>,
) -> BTreeMap<ServiceName, Vec<ServicePort>> {
    let changed = changed.iter().map(|state| {
        let service = state.service.iter().map(Arc::as_ref);
        let slices = state.slices.iter().map(Arc::as_ref);
        (name_of(state), ports(service, slices, node))
    });
    changed.collect()
}

fn name_of(state: &ServiceState) -> ServiceName {
    ServiceName {
        namespace: state.key.namespace.to_string(),
        name: state.key.name.to_string(),
    }
}

/// The observed nodes and API servers.
#[derive(Default)]
struct Surroundings {
    nodes: NodeFacts,
    /// The addresses of the API servers.
    servers: BTreeSet<Ipv4Addr>,
}

/// The properties that have changed.
#[derive(Clone, Copy)]
struct SurroundingsChange {
    zone: bool,
}

impl Surroundings {
    /// Updates the properties of the nodes; `None` if they have not changed.
    fn update_nodes(&mut self, nodes: &mut NodeReceiver) -> Option<SurroundingsChange> {
        let current = nodes.borrow_and_update().clone().unwrap_or_default();
        if current == self.nodes {
            return None;
        }
        let zone = current.zone != self.nodes.zone;
        self.nodes = current;
        Some(SurroundingsChange { zone })
    }

    /// Updates the addresses of the servers; `None` if they have not changed.
    fn update_servers(&mut self, changed: &[ServiceState]) -> Option<SurroundingsChange> {
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
        differs.then_some(SurroundingsChange { zone: false })
    }

    fn machines(&self) -> MachineAddresses {
        MachineAddresses {
            local: self.nodes.local.clone(),
            others: self.nodes.others.union(&self.servers).copied().collect(),
        }
    }
}
