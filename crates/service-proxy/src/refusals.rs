//! Parts of the table that the kernel rejects. Trials find these parts, and only they are left out: a
//! Service without its part is not served, and a NetworkPolicy without its part allows nothing to the pods
//! that it selects. All other parts stay up to date.
//!
//! The object of a rejected part gets an event. Until the kernel accepts the part, or the object is
//! deleted, `/readyz` and the metric `mainstay_failures_in_a_row` report the rejection, and the part is
//! tried again at an interval.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use controller_framework::{EventType, Recorder, Source};
use k8s_openapi::api::core::v1::ObjectReference;
use kube_api_client::Client;
use process_telemetry::Component;
use process_telemetry::health::{FailureStreak, Kind};
use service_routing::{PolicyObjects, Routes, ServiceName, Table, TableOwner, filters, isolate};

use crate::kernel::{Kernel, KernelError};
use crate::kernel_table::KernelTable;
use crate::limits;
use crate::policies::PolicyChanges;
use crate::proxy::Error;

/// The reason of the event of an object whose rules the kernel rejects.
const REFUSED: &str = "RulesRefused";

/// The reason of the event of a Service that does not get an external address.
const WITHHELD: &str = "ExternalIPWithheld";

/// The receivers of reports about rejected parts.
pub(crate) struct Reports {
    recorder: Option<Recorder>,
    node: String,
    health: FailureStreak,
}

impl Reports {
    /// Reports by events of the cluster and the health of the component.
    pub(crate) fn to(client: Client, node: &str, component: &Component) -> Reports {
        let source = Source {
            component: "mainstay-proxy".to_owned(),
            host: Some(node.to_owned()),
        };
        let recorder = Recorder::spawn(client, source, component.shutdown.clone());
        Reports {
            recorder: Some(recorder),
            node: node.to_owned(),
            ..Reports::to_nobody(component)
        }
    }

    /// Reports only by the health of the component.
    pub(crate) fn to_nobody(component: &Component) -> Reports {
        Reports {
            recorder: None,
            node: String::new(),
            health: component.follow(Kind::Work, "rules that the kernel refuses"),
        }
    }

    fn refused(&self, object: ObjectReference) {
        let effect = match object.kind.as_deref() {
            Some("NetworkPolicy") => "the policy allows nothing to the pods that it selects",
            _ => "the Service is not served",
        };
        let node = &self.node;
        let (namespace, name) = (&object.namespace, &object.name);
        tracing::warn!(
            kind = object.kind,
            namespace,
            name,
            "the kernel refuses the rules of an object"
        );
        let message = format!("The kernel of node {node} refuses the rules: {effect} there.");
        if let Some(recorder) = &self.recorder {
            recorder.event(object, EventType::Warning, REFUSED, message);
        }
    }
}

impl Reports {
    fn withheld(&self, service: ObjectReference, addresses: &BTreeSet<Ipv4Addr>) {
        let addresses: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
        let addresses = addresses.join(", ");
        let message = format!(
            "The external addresses {addresses} are not served: pods, Services, nodes or servers have them, or an older \
             Service with the same port."
        );
        if let Some(recorder) = &self.recorder {
            recorder.event(service, EventType::Warning, WITHHELD, message);
        }
    }
}

/// The parts that are left out.
pub(crate) struct Refusals {
    reports: Reports,
    /// The external addresses that Services do not get, and about which events were sent.
    withheld: BTreeMap<ServiceName, BTreeSet<Ipv4Addr>>,
    left_out: BTreeSet<TableOwner>,
    /// The time of the next trial.
    next: Instant,
}

impl Refusals {
    pub(crate) fn new(reports: Reports) -> Refusals {
        Refusals {
            reports,
            withheld: BTreeMap::new(),
            left_out: BTreeSet::new(),
            next: Instant::now(),
        }
    }

    /// Sends events about external addresses that these Services do not get.
    pub(crate) fn report_withheld(
        &mut self,
        routes: &Routes,
        services: impl IntoIterator<Item = ServiceName>,
    ) {
        for service in services {
            let now = routes.withheld(&service);
            let owner = TableOwner::Service(service.clone());
            let reported = match now.is_empty() {
                true => self.withheld.remove(&service),
                false => self.withheld.insert(service, now.clone()),
            };
            if now.is_empty() || reported.as_ref() == Some(&now) {
                continue;
            }
            if let Some(object) = reference(&owner, routes, &PolicyObjects::default()) {
                self.reports.withheld(object, &now);
            }
        }
    }

    /// Whether parts that are left out should be tried again.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        !self.left_out.is_empty() && self.next <= now
    }

    /// Waits until the left-out parts should be tried again. Never returns if there are none.
    pub(crate) async fn wait(&self) {
        match self.left_out.is_empty() {
            true => std::future::pending().await,
            false => tokio::time::sleep_until(self.next.into()).await,
        }
    }

    /// Finds the parts that the kernel rejects, leaves them out and programs the others. Returns whether
    /// the kernel accepted the others.
    ///
    /// # Errors
    /// The kernel's nftables cannot be used.
    pub(crate) async fn leave_out(
        &mut self,
        table: &mut KernelTable,
        routes: &mut Routes,
        mut policies: Option<&mut PolicyChanges>,
    ) -> Result<bool, Error> {
        let state = policies.as_ref().map(|policies| policies.state().clone());
        let state = state.unwrap_or_default();
        let all = owners(routes, &state);
        let mut former = self.left_out.clone();
        former.retain(|owner| all.contains(owner));
        // If the kernel has all other parts, only the parts that were left out before are tried.
        let suspects = match table.is_current() {
            true => former,
            false => all,
        };
        let (base, of_trial) = (routes.clone(), state.clone());
        let find = move |kernel: &mut Kernel| find(kernel, &base, &of_trial, &suspects);
        let culprits = match table.with(find).await? {
            Ok(culprits) => culprits,
            Err(error) => {
                tracing::warn!(%error, "the refused rules are not found");
                None
            }
        };
        self.next = Instant::now() + limits::REFUSED_RETRY;
        let Some(culprits) = culprits else {
            self.reports
                .health
                .failed(&"the kernel refuses the rules of the node itself");
            return Ok(false);
        };
        for owner in culprits.difference(&self.left_out) {
            if let Some(object) = reference(owner, routes, &state) {
                self.reports.refused(object);
            }
        }
        match culprits.is_empty() {
            true => self.reports.health.succeeded(),
            false => {
                let count = culprits.len();
                self.reports
                    .health
                    .failed(&format!("the rules of {count} objects are refused"));
            }
        }
        if culprits == self.left_out && table.is_current() {
            return Ok(true);
        }
        self.left_out = culprits;
        let (services, uids) = split(&self.left_out);
        routes.leave_out(services);
        if let Some(policies) = &mut policies {
            policies.leave_out(uids);
            if let Some(filters) = policies.changed_filters().await? {
                routes.filter(filters);
            }
        }
        table.replace_next();
        table.apply(routes, Vec::new()).await
    }
}

/// The objects whose parts may be left out.
fn owners(routes: &Routes, state: &PolicyObjects) -> BTreeSet<TableOwner> {
    let services = routes.services().cloned().map(TableOwner::Service);
    let policies = state.policies.keys().cloned().map(TableOwner::Policy);
    services.chain(policies).collect()
}

fn split(owners: &BTreeSet<TableOwner>) -> (BTreeSet<ServiceName>, BTreeSet<String>) {
    let (mut services, mut policies) = (BTreeSet::new(), BTreeSet::new());
    for owner in owners {
        match owner {
            TableOwner::Service(service) => _ = services.insert(service.clone()),
            TableOwner::Policy(uid) => _ = policies.insert(uid.clone()),
        }
    }
    (services, policies)
}

fn find(
    kernel: &mut Kernel,
    routes: &Routes,
    state: &PolicyObjects,
    suspects: &BTreeSet<TableOwner>,
) -> Result<Option<BTreeSet<TableOwner>>, KernelError> {
    let mut routes = routes.clone();
    let mut state = state.clone();
    isolate(suspects, |left_out| {
        kernel.accepts(&table_without(&mut routes, &mut state, left_out))
    })
}

/// The table without the parts of some objects.
fn table_without(
    routes: &mut Routes,
    state: &mut PolicyObjects,
    left_out: &BTreeSet<TableOwner>,
) -> Table {
    let (services, policies) = split(left_out);
    routes.leave_out(services);
    state.left_out = policies;
    routes.filter(filters(state));
    routes.table()
}

/// The reference to an object in events.
fn reference(
    owner: &TableOwner,
    routes: &Routes,
    state: &PolicyObjects,
) -> Option<ObjectReference> {
    let (version, kind, namespace, name, uid) = match owner {
        TableOwner::Service(service) => {
            let uid = routes
                .ports_of(service)
                .first()?
                .age
                .uid
                .as_ref()?
                .to_string();
            ("v1", "Service", &service.namespace, &service.name, uid)
        }
        TableOwner::Policy(uid) => {
            let policy = state.policies.get(uid)?;
            let version = "networking.k8s.io/v1";
            (
                version,
                "NetworkPolicy",
                &policy.namespace,
                &policy.name,
                uid.clone(),
            )
        }
    };
    Some(ObjectReference {
        api_version: Some(version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        uid: Some(uid),
        ..ObjectReference::default()
    })
}
