//! The table of this instance in the kernel, and the removal of flows to former endpoints.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use host_kernel::blocking_value;
use service_routing::{
    Connection, Protocol, PublishedPort, Routes, ServiceName, ServicePort, Table, TableChange,
    UdpFlow, denied, has_lost_endpoints, misled_flows, stale_flows, udp_differs,
};

use crate::conntrack;
use crate::firewalls::{self, PodLinks};
use crate::kernel::{Kernel, KernelError};
use crate::proxy::Error;

/// Kinds of flows to former destinations, which are removed after the next change of the rules.
#[derive(Default)]
pub(crate) struct StaleFlows {
    /// Policies may now deny open connections.
    pub denied: bool,
    /// A Service has lost a UDP endpoint.
    of_services: bool,
    /// The host ports before a change of UDP ports.
    published_before: Option<Vec<PublishedPort>>,
}

impl StaleFlows {
    pub(crate) fn record(
        &mut self,
        routes: &Routes,
        changed: &BTreeMap<ServiceName, Vec<ServicePort>>,
        published: &[PublishedPort],
    ) {
        self.of_services |= changed
            .iter()
            .any(|(service, ports)| has_lost_endpoints(routes.ports_of(service), ports));
        if udp_differs(routes.published(), published) && self.published_before.is_none() {
            self.published_before = Some(routes.published().to_vec());
        }
    }
}

/// The kernel's table, which is changed on threads for blocking work.
pub(crate) struct KernelTable {
    kernel: Arc<Mutex<Kernel>>,
    /// Whether the kernel's table equals the last applied table; if not, it is replaced.
    is_current: bool,
}

impl KernelTable {
    /// # Errors
    /// The kernel's nftables cannot be used.
    pub(crate) fn open(instance_id: &str) -> Result<KernelTable, KernelError> {
        let kernel = Kernel::open(instance_id)?;
        Ok(KernelTable {
            kernel: Arc::new(Mutex::new(kernel)),
            is_current: false,
        })
    }

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
    pub(crate) async fn pass_firewalls(&self, links: &PodLinks) -> Result<(), Error> {
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
    pub(crate) async fn keep_half_closed(&self) -> Result<(), Error> {
        if let Err(error) = self.with(|_| conntrack::keep_half_closed()).await? {
            tracing::warn!(%error, "connections of which one end is closed are lost after a minute");
        }
        Ok(())
    }

    /// Removes UDP flows to former endpoints. A failure does not affect the rules.
    async fn delete_flows(
        &self,
        choose: impl FnOnce(&[UdpFlow]) -> Vec<usize> + Send + 'static,
    ) -> Result<(), Error> {
        match self
            .with(move |kernel| conntrack::forget(kernel, choose))
            .await?
        {
            Ok(count) => tracing::debug!(count, "flows to former endpoints ended"),
            Err(error) => tracing::warn!(%error, "flows to former endpoints may continue"),
        }
        Ok(())
    }

    /// Removes the connections that policies deny, except the connections of the node itself.
    async fn delete_denied(&self, filters: Table) -> Result<(), Error> {
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
    pub(crate) async fn delete_stale_flows(
        &self,
        stale: StaleFlows,
        routes: &Routes,
    ) -> Result<(), Error> {
        if stale.of_services {
            let udp = routes.ports().filter(|port| port.protocol == Protocol::Udp);
            let udp: Vec<ServicePort> = udp.cloned().collect();
            self.delete_flows(move |all| stale_flows(all, &udp)).await?;
        }
        if let Some(former) = stale.published_before {
            let current = routes.published().to_vec();
            let misled = move |all: &[UdpFlow]| {
                misled_flows(all, &former, &current, &conntrack::local_addresses())
            };
            self.delete_flows(misled).await?;
        }
        if stale.denied {
            let filters = routes.filters().clone();
            self.delete_denied(filters).await?;
        }
        Ok(())
    }

    /// Whether the kernel has the table.
    pub(crate) async fn is_present(&mut self) -> Result<bool, Error> {
        let present = self.with(Kernel::is_present).await??;
        self.is_current &= present;
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
        if self.is_current {
            let changed = move |kernel: &mut Kernel| kernel.change(&steps).map(|()| steps.len());
            let result = self.with(changed).await?;
            self.is_current = result.is_ok();
            self.log(started, &result);
        }
        if self.is_current {
            return Ok(true);
        }
        let result = {
            let table = routes.table();
            self.with(move |kernel| kernel.replace(&table)).await?
        };
        self.is_current = result.is_ok();
        self.log(started, &result);
        Ok(self.is_current)
    }

    fn log(&self, started: Instant, result: &Result<usize, KernelError>) {
        match result {
            Ok(0) => {}
            Ok(steps) => {
                let took_us = started.elapsed().as_micros();
                tracing::debug!(steps, took_us, "services programmed");
            }
            Err(error) => tracing::warn!(%error, "the kernel refuses the rules"),
        }
    }

    /// Whether the kernel's table equals the last applied table.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current
    }

    /// Lets the next change replace the whole table.
    pub(crate) fn replace_next(&mut self) {
        self.is_current = false;
    }
}
