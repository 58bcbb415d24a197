//! The endpoints controller: maintains EndpointSlices and Endpoints of Services.
//!
//! The first change of a Service's endpoints is written at once. Further changes are collected for a window
//! ([`controller_planners::batching`]), and changes of unused endpoints wait for a window. The Endpoints have a longer window than
//! the slices, which proxies and DNS read.

mod execute;
mod observe;

use std::time::Duration;

use controller_framework::decide;
use controller_framework::{ObjectChange, Queue, ReconcileResult, object_key, service_of};
use controller_planners::batching::{ENDPOINTS_WINDOW, WriteUrgency, window_of};
use controller_planners::endpoints::{Observed, plan, plan_slices};
use object_model::ObjectKey;
use resource_kinds::pod_view::PodView;

use crate::pacing::Pacing;
use crate::{Caches, Context};
use execute::Executor;
use observe::Observer;
pub(crate) use observe::term;

struct Endpoints {
    observer: Observer,
    executor: Executor,
    pacing: Pacing,
    pacing_of_endpoints: Pacing,
    caches: Caches,
}

pub(crate) async fn run(context: Context) {
    let controller = Endpoints {
        observer: Observer::new(&context),
        executor: Executor::new(&context),
        pacing: Pacing::default(),
        pacing_of_endpoints: Pacing::with_window(ENDPOINTS_WINDOW),
        caches: context.caches.clone(),
    };
    context.run("endpoint_slice", controller).await;
}

impl controller_framework::Controller for Endpoints {
    type Key = ObjectKey;
    type Error = execute::Error;

    /// Services processed at once; as kube-controller-manager.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.observer.wait_synced().await
    }

    /// Queues the Services affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut services = self.caches.services.subscribe();
        let mut pods = self.caches.pods.subscribe_to_changes(changes_endpoints);
        let mut slices = self.caches.slices.subscribe();
        let mut endpoints = self.caches.endpoints.subscribe();
        let mut nodes = self.caches.nodes.subscribe();
        loop {
            let mut keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = services.next() => vec![object_key(change.object().as_ref())],
                Some(change) = pods.next() => services_of(&self.observer, &change),
                Some(change) = slices.next() => {
                    service_of(change.object()).into_iter().collect()
                }
                Some(change) = endpoints.next() => vec![object_key(change.object().as_ref())],
                Some(change) = nodes.next() => match &change {
                    ObjectChange::Applied(new, Some(old))
                        if observe::zone(new) != observe::zone(old) =>
                    {
                        self.observer.all_services()
                    }
                    _ => Vec::new(),
                },
                else => return,
            };
            // A Service whose slices were written a moment ago is planned again at the end of the window in any case.
            keys.retain(|key| self.pacing.rest(key).is_none());
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, execute::Error> {
        // Changes soon after a write are collected; one plan covers all of them.
        if let Some(wait) = self.pacing.rest(key) {
            return Ok(ReconcileResult::RequeueAfter(wait));
        }
        // A plan from a snapshot without this controller's last writes would create slices twice, because their names
        // are generated, and its other writes would be refused. The arrival of these writes in the cache queues the
        // Service again.
        if let Some(wait) = self.executor.time_until_visible(key, &self.observer) {
            return Ok(ReconcileResult::RequeueAfter(wait));
        }
        let observed = self.observer.observe(key);
        let rest = self.rest_of_endpoints(key, &observed);
        let mut plan = decide(observed.pods.len(), || match rest {
            Some(_) => plan_slices(&observed),
            None => plan(&observed),
        })?;
        let late = match (rest, plan.urgency_of_endpoints(&observed)) {
            (Some(rest), _) => Some(rest),
            (None, Some(urgency)) => self.pacing_of_endpoints.wait(key, urgency),
            (None, None) => {
                self.pacing_of_endpoints.settled(key);
                None
            }
        };
        if late.is_some() {
            // The plan at that time contains the Endpoints with all changes until then.
            plan.endpoints = None;
        }
        let Some(urgency) = plan.urgency(&observed) else {
            self.pacing.settled(key);
            let rest = || self.pacing_of_endpoints.rest(key);
            return Ok(ReconcileResult::from(late.or_else(rest)));
        };
        if let Some(wait) = self.pacing.wait(key, urgency) {
            return Ok(ReconcileResult::RequeueAfter(wait));
        }
        let writes_endpoints = plan.endpoints.is_some();
        self.executor.execute(key, plan).await?;
        let window = window_of(observed.pods.len());
        self.pacing.written(key, window);
        if writes_endpoints {
            self.pacing_of_endpoints.written(key, ENDPOINTS_WINDOW);
        }
        // The pacing data of a Service without changes is removed after the window.
        let next = late.map_or(window, |late| late.min(window));
        Ok(ReconcileResult::RequeueAfter(next))
    }
}

impl Endpoints {
    /// The time for which an update of the Endpoints is not planned, because the Endpoints were written a moment ago. A
    /// change in this time counts as delayed from now on.
    fn rest_of_endpoints(&self, key: &ObjectKey, observed: &Observed) -> Option<Duration> {
        let present = observed.service.is_some() && observed.endpoints.is_some();
        let rest = self.pacing_of_endpoints.rest(key).filter(|_| present)?;
        self.pacing_of_endpoints.wait(key, WriteUrgency::Minor);
        Some(rest)
    }
}

/// The Services that select the pod, now or before the change; empty if the change does not affect endpoints.
fn services_of(observer: &Observer, change: &ObjectChange<PodView>) -> Vec<ObjectKey> {
    let ObjectChange::Applied(new, Some(old)) = change else {
        return observer.services_of(change.object());
    };
    let mut keys = observer.services_of(new);
    if new.labels != old.labels {
        keys.extend(observer.services_of(old));
    }
    keys
}

/// Whether a change of a pod from `old` to `new` can change endpoints.
fn changes_endpoints(old: Option<&PodView>, new: Option<&PodView>) -> bool {
    let same = |(old, new): (&PodView, &PodView)| {
        new.uid == old.uid
            && new.labels == old.labels
            && new.deletion == old.deletion
            && new.phase == old.phase
            && new.conditions == old.conditions
            && new.addresses == old.addresses
    };
    // A pod without an address is no endpoint.
    let mut states = old.into_iter().chain(new);
    let may_be_endpoint = states.any(|pod| !pod.addresses.is_empty());
    may_be_endpoint && !old.zip(new).is_some_and(same)
}
