//! Health checks: `/livez`, `/readyz`, `/healthz` (kubectl.md 6.8).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use mvcc_store::{Range, StoreError};
use object_model::Status;
use process_telemetry::health::Kind;

use crate::access::authorize::Rbac;
use crate::http::query::Query;
use crate::http::refusals::unknown_path;
use crate::http::reply::Reply;
use crate::objects::storage::Objects;

const TEXT: &str = "text/plain; charset=utf-8";

/// The reason for clients that may not see the details.
const WITHHELD: &str = "reason withheld";

/// Longest wait for the newest revision of the store.
const NEWEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The health checks, and whether `/livez` depends on each of them.
const CHECKS: [(&str, bool); 8] = [
    ("ping", true),
    // Log lines are written synchronously, so this check always succeeds.
    ("log", true),
    // A restart of the server does not repair a store that does not respond.
    ("store", true),
    ("rbac-index", false),
    ("default-objects", false),
    ("store-room", false),
    ("watches", false),
    ("controllers", false),
];

#[derive(Default)]
pub(crate) struct Health {
    /// The health of the components of the program.
    pub(crate) components: process_telemetry::Health,
    /// Whether the default objects have been created.
    pub(crate) bootstrapped: AtomicBool,
}

/// The parts of the server that the checks read.
#[derive(Clone, Copy)]
pub(crate) struct CheckedParts<'a> {
    pub(crate) health: &'a Health,
    pub(crate) objects: &'a Objects,
    pub(crate) rbac: &'a Rbac,
}

impl CheckedParts<'_> {
    async fn passes(self, check: &str) -> bool {
        match check {
            "store" => store_failure(self.objects).await.is_none(),
            "store-room" => self.objects.store.occupancy().full.is_none(),
            "rbac-index" => self.rbac.is_synced(),
            "default-objects" => self.health.bootstrapped.load(Ordering::Acquire),
            _ => true,
        }
    }
}

/// Responds to a health path, with or without the name of a check.
pub(crate) async fn respond(
    checked: CheckedParts<'_>,
    path: &str,
    query: &Query,
) -> Result<Reply, Status> {
    let mut words = path.trim_matches('/').splitn(2, '/');
    let endpoint = words.next().unwrap_or_default();
    // The check of the store also has the name that Kubernetes uses.
    let local_name = |name: &str| if name == "etcd" { "store" } else { name }.to_owned();
    let only = words.next().map(local_name);
    let mut checks: Vec<&str> = CHECKS
        .iter()
        .filter(|(_, live)| *live || endpoint != "livez")
        .map(|(name, _)| *name)
        .collect();
    if let Some(only) = only {
        checks.retain(|name| *name == only);
        if checks.is_empty() {
            return Err(unknown_path());
        }
    }
    let excluded: Vec<String> = query
        .all("exclude")
        .iter()
        .map(|name| local_name(name))
        .collect();
    checks.retain(|name| !excluded.iter().any(|excluded| excluded == name));
    let mut lines = String::new();
    let mut failed = false;
    for name in checks {
        let why = match name {
            "watches" => named(checked.health, Kind::Watch),
            "controllers" => named(checked.health, Kind::Work),
            "store" if endpoint == "livez" => {
                let failure = local_failure(checked.objects).await;
                let failure = failure.filter(|why| !why.is_unavailable());
                failure.map(|_| WITHHELD.to_owned())
            }
            _ => (!checked.passes(name).await).then(|| WITHHELD.to_owned()),
        };
        match why {
            None => lines.push_str(&format!("[+]{name} ok\n")),
            Some(why) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    if failed {
        let text = format!("{lines}{endpoint} check failed\n");
        return Ok(Reply::bytes(TEXT, text).with_code(StatusCode::INTERNAL_SERVER_ERROR));
    }
    if query.flag("verbose") {
        return Ok(Reply::bytes(
            TEXT,
            format!("{lines}{endpoint} check passed\n"),
        ));
    }
    Ok(Reply::bytes(TEXT, "ok"))
}

/// The reason why the store does not work, or cannot return its newest state.
pub(crate) async fn store_failure(objects: &Objects) -> Option<StoreError> {
    match local_failure(objects).await {
        None => newest_failure(objects).await,
        failure => failure,
    }
}

/// The reason why the store does not work, as far as this server can tell without other members of a cluster. A full
/// store works: it waits for free space (`store-room`).
async fn local_failure(objects: &Objects) -> Option<StoreError> {
    let range = Range {
        start: b"/health".to_vec(),
        ..Range::default()
    };
    let read = objects.store.range(range).await;
    let failure = read.err().or_else(|| objects.store.failure());
    failure.filter(|why| !why.is_full())
}

/// The reason why the newest state cannot be read: a store of several members needs a majority of them.
async fn newest_failure(objects: &Objects) -> Option<StoreError> {
    match tokio::time::timeout(NEWEST_TIMEOUT, objects.store.newest()).await {
        Ok(newest) => newest.err(),
        Err(_) => {
            let text = format!("no answer within {} s", NEWEST_TIMEOUT.as_secs());
            Some(StoreError::Unavailable(text))
        }
    }
}

/// The names of the failing components. Every user may read the names.
fn named(health: &Health, kind: Kind) -> Option<String> {
    let failing = health.components.failing(kind);
    (!failing.is_empty()).then(|| failing.join("; "))
}
