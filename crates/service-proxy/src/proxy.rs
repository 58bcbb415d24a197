//! Watches Services, EndpointSlices, the pods' host ports and NetworkPolicies, and updates the
//! kernel's table and the health checks. Only changed Services are processed, however many there
//! are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use api_client::Client;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use object_model::cidr::Cidr;
use object_model::listening::Listening;
use reconcile::{Cache, Component, ServiceChanges, ServiceState};
use service_routing::{
    Connection, Protocol, ProxyNode, PublishedPort, Routes, ServiceName, ServicePort, Settings,
    Table, TableChange, UdpFlow, denied, has_lost_endpoints, health_check, misled_flows, ports,
    stale_flows, tightens, udp_differs,
};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::conntrack;
use crate::firewalls::{self, PodLinks};
use crate::health_checks::HealthChecks;
use crate::kernel::{Kernel, KernelError};
use crate::limits;
use crate::policies::{LocalPods, PolicyChanges, PolicySources};
use crate::zone;

/// The link by which nodes in namespaces of this machine reach it and, through it, other networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchLink {
    /// The name of the link.
    pub name: String,
    /// The addresses of the nodes and of the machine.
    pub range: Cidr,
}

/// The settings of the proxy.
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
    /// Addresses of Services (`clusterIP`).
    pub service_cidr: Cidr,
    /// Addresses of Services that this node answers itself (the DNS server's).
    pub unmanaged: BTreeSet<Ipv4Addr>,
    /// The common prefix of the host-side link names of pods; the machine's firewalls get rules for
    /// them.
    pub pod_link_prefix: String,
    /// The link by which encrypted packets of other nodes' pods come in; with it, plain ones are dropped.
    pub encrypted_link: Option<String>,
    /// The switch of further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// Ports of the node that belong to pods.
    pub host_ports: watch::Receiver<Vec<PublishedPort>>,
    /// The listening sockets of the node: their ports are not used for Services or pods.
    pub listening: watch::Receiver<Listening>,
    /// The pods whose connections are filtered by NetworkPolicies; without them none are.
    pub pods: Option<LocalPods>,
    /// Whether to remove the table when the proxy ends; otherwise it stays active for the next one.
    pub remove_on_shutdown: watch::Receiver<bool>,
}

/// The reason why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nftables of the kernel cannot be reached.
    #[error("write the rules of Services to nftables")]
    Kernel(#[from] KernelError),
    /// The thread that talks to the kernel ended.
    #[error("run the thread that writes to nftables")]
    Lost(#[from] tokio::task::JoinError),
}

/// Runs the proxy until its part of the program is shut down.
///
/// # Errors
/// The kernel is unreachable. A refused change is not an error: the table is replaced.
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
        let zone = zone::of(&client, &config.node_name, &component);
        serve_in_zone((services, slices), policies, zone, config, component).await
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
    let work = keep_in_step(
        (services, slices),
        None,
        zone::none(),
        config,
        component.clone(),
    );
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
    serve_in_zone(services, policies, zone::none(), config, component.into()).await
}

async fn serve_in_zone(
    services: (Cache<Service>, Cache<EndpointSlice>),
    policies: PolicySources,
    zone: watch::Receiver<Option<String>>,
    config: Config,
    component: Component,
) -> Result<(), Error> {
    let local = config.pods.clone();
    let policies = local.map(|local| PolicyChanges::new(policies, &config.node_name, local));
    let work = keep_in_step(services, policies, zone, config, component.clone());
    component.watched("the table", work).await
}

/// Keeps the table in step until the end of the part.
async fn keep_in_step(
    (services, slices): (Cache<Service>, Cache<EndpointSlice>),
    mut policies: Option<PolicyChanges>,
    mut zone: watch::Receiver<Option<String>>,
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
    };
    let kernel = Kernel::open(&config.instance_id)?;
    let mut proxy = Proxy {
        kernel: Arc::new(Mutex::new(kernel)),
        in_step: false,
    };
    let mut routes = Routes::new(settings);
    // Pods reach the world outside from the start; a table of before serves until ours is known.
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
    let mut check = tokio::time::interval(limits::CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let synced = async {
        let policies = match &mut policies {
            Some(policies) => policies.wait_synced().await,
            None => true,
        };
        services.wait_synced().await && slices.wait_synced().await && policies
    };
    let synced = shutdown.run_until_cancelled(synced).await.unwrap_or(false);
    let mut changes = ServiceChanges::new(services, &slices);
    let mut flows = StaleFlows::default();
    let mut checks = HealthChecks::new(component);
    let mut due = synced;
    let mut rest = Rest::new(Instant::now());
    while !shutdown.is_cancelled() {
        let mut retry = false;
        if due {
            if zone.has_changed().unwrap_or(false) {
                changes.note_all();
            }
            let own_zone = zone.borrow_and_update().clone();
            let changed = changes.take();
            for state in &changed {
                let service = state.service.as_deref();
                let slices = state.slices.iter().map(Arc::as_ref);
                let check =
                    service.and_then(|service| health_check(service, slices, &config.node_name));
                checks.note(name_of(state), check);
            }
            let here = ProxyNode {
                node: &config.node_name,
                zone: own_zone.as_deref(),
            };
            let changed = ports_of(&changed, here);
            let published = config.host_ports.borrow_and_update().clone();
            flows.note(&routes, &changed, &published);
            let mut steps = routes.replace(changed);
            steps.extend(routes.publish(published));
            steps.extend(routes.hold(config.listening.borrow_and_update().clone()));
            let started = Instant::now();
            if let Some(policies) = &mut policies
                && let Some(filters) = policies.take().await?
            {
                let filtered = routes.filter(filters);
                flows.denied |= tightens(&filtered);
                steps.extend(filtered);
            }
            retry = !proxy.apply(&routes, steps).await?;
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
            Ok(()) = zone.changed() => {
                changes.note_all();
                due = synced;
            }
            Ok(()) = config.host_ports.changed() => due = synced,
            Ok(()) = config.listening.changed() => due = synced,
            () = tokio::time::sleep(limits::RETRY_DELAY), if retry => due = true,
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

/// Waits for a change of policies; for ever without them.
async fn wait_for(policies: &mut Option<PolicyChanges>) {
    match policies {
        Some(policies) => policies.wait().await,
        None => std::future::pending().await,
    }
}

/// Removes the table of an instance that was killed.
///
/// # Errors
/// The kernel refuses.
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

/// The end of the pause after a change; it may be in the past.
struct Rest {
    over: Instant,
}

impl Rest {
    fn new(now: Instant) -> Rest {
        Rest { over: now }
    }

    /// The end of the pause after a change that comes now.
    fn end(&self, now: Instant) -> Instant {
        self.over.max(now + limits::DEBOUNCE)
    }

    fn worked(&mut self, from: Instant, to: Instant) {
        let all_is_owed = to.checked_sub(limits::REST_OWED_MAX).unwrap_or(from);
        let rest = (to - from) * limits::REST_FACTOR;
        self.over = (self.over.max(all_is_owed) + rest).min(to + limits::REST_MAX);
    }
}

/// Flows to wrong destinations, to be removed after the next change of the rules.
#[derive(Default)]
struct StaleFlows {
    /// Policies may deny connections that are open.
    denied: bool,
    /// A Service has lost an endpoint of UDP.
    of_services: bool,
    /// The ports of the node before those of UDP changed.
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

/// The kernel, used on threads that may block.
struct Proxy {
    kernel: Arc<Mutex<Kernel>>,
    /// Whether the kernel's table is the last applied one; if not it is replaced.
    in_step: bool,
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

    /// Lets pods through other firewalls; a refusal of one of them does not stop the proxy.
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

    /// Ends UDP flows to former endpoints. A failure does not affect the rules.
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

    /// Ends the connections that policies deny, except those of the node itself.
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

    /// Ends the flows to destinations that these routes do not have.
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

    /// Says whether the table is in the kernel.
    async fn is_present(&mut self) -> Result<bool, Error> {
        let present = self.with(Kernel::is_present).await??;
        self.in_step &= present;
        Ok(present)
    }

    /// Programs the steps that led to the routes, or all of them where the kernel is not in step,
    /// and returns whether the kernel accepted them.
    async fn apply(&mut self, routes: &Routes, steps: Vec<TableChange>) -> Result<bool, Error> {
        let started = Instant::now();
        let done = if self.in_step {
            let changed = move |kernel: &mut Kernel| kernel.change(&steps).map(|()| steps.len());
            self.with(changed).await?
        } else {
            let table = routes.table();
            self.with(move |kernel| kernel.replace(&table)).await?
        };
        self.in_step = done.is_ok();
        match done {
            Ok(0) => {}
            Ok(steps) => {
                let took_us = started.elapsed().as_micros();
                tracing::debug!(steps, took_us, "services programmed");
            }
            Err(error) => tracing::warn!(%error, "service rules refused; replacing the table"),
        }
        Ok(self.in_step)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Readiness of a pod is in the rules at once: only changes of the same moment are collected.
    #[test]
    fn a_change_after_a_quiet_time_waits_for_no_batch() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rest = Rest::new(start);
        assert_eq!(rest.end(start), start + limits::DEBOUNCE);
        rest.worked(at(10), at(12));
        assert_eq!(rest.end(at(1_000)), at(1_000) + limits::DEBOUNCE);
    }

    #[test]
    fn the_kernel_rests_when_changes_do_not_end() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rest = Rest::new(start);
        rest.worked(at(10_000), at(10_040));
        rest.worked(at(10_050), at(10_090));
        assert!(rest.over <= at(10_090), "a Service and its endpoints");
        let mut now = at(10_090);
        for _ in 0..100 {
            let from = rest.over.max(now);
            now = from + Duration::from_millis(40);
            rest.worked(from, now);
        }
        let took = now - at(10_090);
        let worked = Duration::from_millis(40 * 100);
        assert!(took > worked * 3 && took < worked * 4, "{took:?}");
        rest.worked(now, now + Duration::from_secs(60));
        assert_eq!(rest.over, now + Duration::from_secs(60) + limits::REST_MAX);
    }
}
