//! Health checks: `/livez`, `/readyz`, `/healthz` (kubectl.md 6.8).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use mvcc_store::{Range, StoreError};
use object_model::Status;

use crate::access::authorize::Rbac;
use crate::http::query::Query;
use crate::http::refusals::unknown_path;
use crate::http::reply::Reply;
use crate::objects::storage::Objects;

const TEXT: &str = "text/plain; charset=utf-8";

/// A thing that is looked at, and whether being alive depends on it.
const CHECKS: [(&str, bool); 7] = [
    ("ping", true),
    // Lines of the log are written when they are made: there is nothing that could be stuck.
    ("log", true),
    ("store", true),
    ("rbac-index", false),
    ("default-objects", false),
    ("store-room", false),
    ("definitions-followed", false),
];

type Failing = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the server knows of its health.
#[derive(Default)]
pub(crate) struct Health {
    /// Checks of other parts of the program.
    checks: Mutex<Vec<(&'static str, Failing)>>,
    /// How often in a row following definitions and webhooks has failed.
    pub(crate) following: AtomicU32,
    /// Whether the default objects have been made.
    pub(crate) bootstrapped: AtomicBool,
}

impl Health {
    /// Adds a check; it passes while `failing` names nothing.
    pub(crate) fn add(
        &self,
        name: &'static str,
        failing: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.push((name, Box::new(failing)));
    }

    /// The names of the added checks, each with what fails.
    fn added(&self) -> Vec<(&'static str, Vec<String>)> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = checks.iter().map(|(name, failing)| (*name, failing()));
        looked.collect()
    }
}

/// After so many failures in a row what is stored may not be in force.
const FOLLOWING_FAILURES_MAX: u32 = 3;

/// Answers a health path, with or without the name of one check behind it.
pub(crate) async fn answer(
    (health, objects, rbac): (&Health, &Objects, &Rbac),
    path: &str,
    query: &Query,
) -> Result<Reply, Status> {
    let mut words = path.trim_matches('/').splitn(2, '/');
    let endpoint = words.next().unwrap_or_default();
    // The store answers to the name that it has in Kubernetes, too.
    let own_name = |name: &str| if name == "etcd" { "store" } else { name }.to_owned();
    let only = words.next().map(own_name);
    let added = match endpoint {
        "livez" => Vec::new(),
        _ => health.added(),
    };
    let mut checks: Vec<&str> = CHECKS
        .iter()
        .filter(|(_, live)| *live || endpoint != "livez")
        .map(|(name, _)| *name)
        .chain(added.iter().map(|(name, _)| *name))
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
        .map(|name| own_name(name))
        .collect();
    checks.retain(|name| !excluded.iter().any(|excluded| excluded == name));
    let mut lines = String::new();
    let mut failed = false;
    for name in checks {
        let why = match added.iter().find(|(added, _)| *added == name) {
            Some((_, failing)) => (!failing.is_empty()).then(|| failing.join("; ")),
            None => {
                (!passes((health, objects, rbac), name).await).then(|| "reason withheld".to_owned())
            }
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

/// Why the store does not work. A full store works: it waits for room (`store-room`).
pub(crate) async fn store_failure(objects: &Objects) -> Option<StoreError> {
    let range = Range {
        start: b"/health".to_vec(),
        ..Range::default()
    };
    let read = objects.store.range(range).await;
    let failure = read.err().or_else(|| objects.store.failure());
    failure.filter(|why| !matches!(why, StoreError::Full(_) | StoreError::Quota { .. }))
}

async fn passes((health, objects, rbac): (&Health, &Objects, &Rbac), check: &str) -> bool {
    match check {
        "store" => store_failure(objects).await.is_none(),
        "store-room" => objects.store.occupancy().full.is_none(),
        "definitions-followed" => health.following.load(Ordering::Relaxed) < FOLLOWING_FAILURES_MAX,
        "rbac-index" => rbac.is_synced(),
        "default-objects" => health.bootstrapped.load(Ordering::Acquire),
        _ => true,
    }
}
