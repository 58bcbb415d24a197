//! Watches of CustomResourceDefinitions, APIServices, webhooks, policies and FlowSchemas. The watches apply stored objects,
//! including those of another server. A request that writes such an object also applies it before its response
//! (`routing.rs`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use mvcc_store::{Revision, StoreError, WatchEvents};
use object_model::Status;
use process_telemetry::backoff::Backoff;
use process_telemetry::health::FailureStreak;
use resource_kinds::{admissionregistration, flowcontrol};

use crate::aggregation::state;
use crate::flow_control::config_sync;
use crate::group_services;
use crate::objects::definitions;
use crate::server::{ApiServer, StartError};

/// Delay before the first retry of a failed watch or update; the delay doubles with each further failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(12_800);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Definitions,
    Registrations,
    Flows,
    ApiServices,
}

const ALL: [What; 4] = [
    What::Definitions,
    What::Registrations,
    What::Flows,
    What::ApiServices,
];

impl What {
    fn text(self) -> &'static str {
        match self {
            Self::Definitions => "the kinds of the definitions",
            Self::Registrations => "the webhooks and policies",
            Self::Flows => "the flows of requests",
            Self::ApiServices => "the extension API servers",
        }
    }
}

type Changes = BoxStream<'static, (What, Result<WatchEvents, StoreError>)>;

/// A watch; the writes before its start are in force.
pub(crate) struct Following(SelectAll<Changes>);

/// Starts a watch, and applies the objects that were written before.
///
/// *Errors.* An object that cannot be read.
pub(crate) async fn start(server: &Arc<ApiServer>) -> Result<Following, StartError> {
    let following = Following(watch(server)?);
    for what in ALL {
        put_in_force(server, what)
            .await
            .map_err(|source| StartError::DefaultObject {
                what: what.text().to_owned(),
                source,
            })?;
    }
    Ok(following)
}

/// Follows the store for as long as the server exists.
pub(crate) async fn run(server: Weak<ApiServer>, first: Following, streak: FailureStreak) {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let mut begun = Some(first);
    streak.succeeded();
    loop {
        match follow(&server, begun.take(), &streak).await {
            Ok(()) | Err(WatchEnd::ShutDown) => return,
            Err(WatchEnd::Failed(why)) => {
                streak.failed(&why);
            }
            // The watch was successful until now, so the next failure starts with the smallest delay.
            Err(WatchEnd::Watch) => backoff.reset(),
        }
        tokio::time::sleep(backoff.fail()).await;
    }
}

enum WatchEnd {
    ShutDown,
    /// The store ended the watch.
    Watch,
    Failed(String),
}

async fn follow(
    server: &Weak<ApiServer>,
    begun: Option<Following>,
    streak: &FailureStreak,
) -> Result<(), WatchEnd> {
    let mut changes = match begun {
        Some(Following(changes)) => changes,
        None => again(server, streak).await?,
    };
    while let Some((what, events)) = changes.next().await {
        match events {
            Ok(WatchEvents::Progress(_)) => continue,
            Ok(WatchEvents::Events(_)) => {}
            Err(_) => return Err(WatchEnd::Watch),
        }
        let server = server.upgrade().ok_or(WatchEnd::ShutDown)?;
        put_in_force(&server, what)
            .await
            .map_err(|status| WatchEnd::Failed(status.message))?;
        streak.succeeded();
    }
    Err(WatchEnd::ShutDown)
}

/// Starts another watch after one has ended.
async fn again(
    server: &Weak<ApiServer>,
    streak: &FailureStreak,
) -> Result<SelectAll<Changes>, WatchEnd> {
    let server = server.upgrade().ok_or(WatchEnd::ShutDown)?;
    let changes = watch(&server).map_err(|error| match error {
        StoreError::Closed => WatchEnd::ShutDown,
        error => WatchEnd::Failed(error.to_string()),
    })?;
    // Applies the objects that were written before the watch started.
    for what in ALL {
        put_in_force(&server, what)
            .await
            .map_err(|status| WatchEnd::Failed(status.message))?;
    }
    streak.succeeded();
    Ok(changes)
}

fn watch(server: &ApiServer) -> Result<SelectAll<Changes>, StoreError> {
    let next = Revision(server.objects.store.current_revision().0 + 1);
    let served = server.objects.catalog.snapshot();
    let mut streams = Vec::new();
    for resource in served.registry.resources() {
        let info = resource.info();
        let what = match (info.group, info.plural) {
            (custom_resources::GROUP, custom_resources::PLURAL) => What::Definitions,
            (admissionregistration::GROUP, _) => What::Registrations,
            (flowcontrol::GROUP, _) => What::Flows,
            (state::GROUP, state::PLURAL) => What::ApiServices,
            _ => continue,
        };
        let events = server.objects.store.watch(resource.prefix(""), next)?;
        streams.push(events.map(move |events| (what, events)).boxed());
    }
    Ok(select_all(streams))
}

async fn put_in_force(server: &Arc<ApiServer>, what: What) -> Result<(), Status> {
    match what {
        What::Registrations => server.admission.follow_registrations(),
        What::Flows => config_sync::follow(&server.flows, server.writer()).await?,
        What::Definitions => {
            definitions::follow(&server.objects).await?;
            group_services::follow(server.writer()).await?;
        }
        What::ApiServices => {
            server.aggregation.follow(&server.objects).await?;
            group_services::follow(server.writer()).await?;
        }
    }
    Ok(())
}
