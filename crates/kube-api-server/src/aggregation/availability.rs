//! The checks of extension API servers: the condition `Available` and the documents for discovery.
//!
//! Each APIService with a Service has a task, so a server that does not respond delays no other check.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use json_tree::Value;
use mvcc_store::{EventKind, Revision, StoreError, WatchEvents};
use object_model::Status;
use process_telemetry::backoff::Backoff;
use resource_kinds::admission::ObjectReader;
use tokio_util::task::AbortOnDropHandle;

use crate::aggregation::authentication_config;
use crate::aggregation::fetch;
use crate::aggregation::remote_service::RemoteService;
use crate::aggregation::state::{GROUP, PLURAL};
use crate::aggregation::verdict::{AvailabilityVerdict, ServicePort, check_endpoints, conditions};
use crate::bootstrap::{this_server, write_request};
use crate::handlers::verbs::update::update;
use crate::objects::storage::reading;
use crate::objects::write_request::ObjectPart;
use crate::server::ApiServer;

/// Interval of the checks of an available server (upstream's value).
const PERIOD: Duration = Duration::from_secs(30);

/// Delay before the next check of an unavailable server; the delay doubles with each failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest delay; see [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The shortest time between two checks, however often the Service and its endpoints change.
const REST: Duration = Duration::from_millis(250);

/// Interval at which the ConfigMap for extension API servers is checked (upstream's value).
const CONFIG_PERIOD: Duration = Duration::from_secs(60);

/// Checks the extension API servers for as long as this server exists.
pub(crate) async fn run(server: Weak<ApiServer>) {
    let mut tasks: BTreeMap<String, (Arc<RemoteService>, AbortOnDropHandle<()>)> = BTreeMap::new();
    loop {
        let Some(current) = server.upgrade() else {
            return;
        };
        if let Err(status) =
            authentication_config::keep(current.writer(), &current.authorities).await
        {
            let error = status.message;
            tracing::error!(
                error,
                "the configuration for extension API servers is not written"
            );
        }
        let services = current.aggregation.services();
        let services: Vec<&Arc<RemoteService>> =
            services.values().flat_map(BTreeMap::values).collect();
        tasks.retain(|_, (checked, _)| services.iter().any(|one| Arc::ptr_eq(one, checked)));
        for service in services {
            let name = &service.target.name;
            if !tasks.contains_key(name) {
                let task = tokio::spawn(keep_checked(server.clone(), service.clone()));
                let task = (service.clone(), AbortOnDropHandle::new(task));
                tasks.insert(name.clone(), task);
            }
        }
        // The wait must not keep the server alive, so it has the notification alone.
        let changed = current.aggregation.changed.clone();
        drop(current);
        drop(tokio::time::timeout(CONFIG_PERIOD, changed.notified()).await);
    }
}

/// Checks one server periodically, and at each change of its Service or endpoints.
async fn keep_checked(server: Weak<ApiServer>, service: Arc<RemoteService>) {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let Some(current) = server.upgrade() else {
            return;
        };
        // The watch starts before the check, so that no change is missed.
        let changes = watch(&current, &service);
        let available = check(&current, &service).await;
        drop(current);
        let pause = match (available, &changes) {
            (true, Ok(_)) => {
                backoff.reset();
                PERIOD
            }
            _ => backoff.fail(),
        };
        tokio::time::sleep(REST).await;
        let changed = async {
            match changes {
                Ok(changes) => first_change(changes).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changed => {}
            () = service.doubted.notified() => {}
        }
    }
}

type Changes = BoxStream<'static, Result<WatchEvents, StoreError>>;

/// The changes of the Service, and of the slices in its namespace.
fn watch(server: &ApiServer, service: &RemoteService) -> Result<Changes, StoreError> {
    let objects = &server.objects;
    let next = Revision(objects.store.current_revision().0 + 1);
    let target = &service.target;
    let mut changes: Changes = futures::stream::empty().boxed();
    if let Some(resource) = objects.catalog.any_version("", "services") {
        let key = resource.key(&target.namespace, &target.service);
        let events = objects.store.watch(key, next)?;
        changes = futures::stream::select(changes, events).boxed();
    }
    if let Some(resource) = objects
        .catalog
        .any_version("discovery.k8s.io", "endpointslices")
    {
        let events = objects
            .store
            .watch(resource.prefix(&target.namespace), next)?;
        let name = target.service.clone();
        let events = events.filter(move |events| {
            let concerns = concerns(events, &name);
            async move { concerns }
        });
        changes = futures::stream::select(changes, events).boxed();
    }
    Ok(changes)
}

/// Whether events of slices may concern a Service.
fn concerns(events: &Result<WatchEvents, StoreError>, service: &str) -> bool {
    let Ok(WatchEvents::Events(events)) = events else {
        return true;
    };
    let label = memchr::memmem::Finder::new(service.as_bytes());
    events.iter().any(|event| {
        let newest = match &event.kind {
            EventKind::Put(newest) => Some(newest),
            EventKind::Delete => None,
        };
        let mut both = newest.into_iter().chain(&event.previous);
        both.any(|slice| label.find(&slice.value).is_some())
    })
}

/// Waits for the first event, or for the end of the watch.
async fn first_change(changes: Changes) {
    let mut changes = pin!(changes);
    while let Some(Ok(WatchEvents::Progress(_))) = changes.next().await {}
}

/// Checks a server, and writes the result. Returns whether the server is available.
async fn check(server: &Arc<ApiServer>, service: &RemoteService) -> bool {
    let (objects, aggregation) = (&server.objects, &server.aggregation);
    let verdict = match check_service(server, service) {
        Err(verdict) => {
            aggregation.record(objects, service, None);
            verdict
        }
        Ok(()) => {
            let outcome = fetch::documents(&aggregation.pools, objects, &service.target).await;
            let (documents, outcome) = match outcome {
                Ok(documents) => (documents, Ok(())),
                Err(error) => (None, Err(error.to_string())),
            };
            aggregation.record(objects, service, documents);
            AvailabilityVerdict::of_discovery(outcome)
        }
    };
    let writing = write(server, service, &verdict);
    let available = (service, verdict.is_available());
    if let Err(status) = aggregation.set_available(objects, available, writing).await {
        let (name, error) = (&service.target.name, status.message);
        tracing::error!(
            name,
            error,
            "the availability of an APIService is not written"
        );
        return false;
    }
    verdict.is_available()
}

/// Checks the Service and its endpoints in the store.
///
/// *Errors.* The condition of an APIService whose server cannot be reached.
fn check_service(server: &ApiServer, service: &RemoteService) -> Result<(), AvailabilityVerdict> {
    let target = &service.target;
    let of = ServicePort {
        namespace: &target.namespace,
        name: &target.service,
        port: target.port,
    };
    let observed = reading(&server.objects, |reads| {
        let found = reads.get("", "services", of.namespace, of.name);
        Ok((
            found,
            reads.all("discovery.k8s.io", "endpointslices", of.namespace),
        ))
    });
    match observed {
        Ok((service, slices)) => check_endpoints(of, service.as_deref(), &slices),
        Err(status) => Err(AvailabilityVerdict::unreadable(of, &status.message)),
    }
}

/// Writes the condition, if the APIService still names the server.
async fn write(
    server: &Arc<ApiServer>,
    service: &RemoteService,
    verdict: &AvailabilityVerdict,
) -> Result<(), Status> {
    let Some(resource) = server.objects.catalog.any_version(GROUP, PLURAL) else {
        return Ok(());
    };
    let (user, name) = (this_server(), &service.target.name);
    let request = write_request(&resource, &user, "", name);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut change = |old: &Value| {
        let mut next = old.clone();
        if old["metadata"]["uid"] == service.target.uid.as_str()
            && let Some(conditions) = conditions(&old["status"]["conditions"], verdict, &now)
        {
            next["status"]["conditions"] = conditions;
        }
        Ok(next)
    };
    // A webhook for APIServices, which may be slow or refuse everything, must not keep an old condition.
    match update(
        server.writer(),
        &request,
        ObjectPart::Trusted(&[]),
        &mut change,
    )
    .await
    {
        // The APIService was deleted during the check.
        Err(status) if status.code == 404 => Ok(()),
        written => written.map(drop),
    }
}
