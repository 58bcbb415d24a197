//! Clients that write, read and watch through several servers, and compare the responses with the history of the store.
//!
//! Each writer owns its objects. A write has the resourceVersion of the writer's last read or write as its
//! precondition, so the store never returns to a state before an acknowledged write. Readers list; watchers list once
//! and then watch. All clients move between servers at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::Request;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::ConfigMap;
use kube_api_client::guarded_writes::{WriteRefusal, refusal};
use kube_api_client::{
    Api, Client, DeleteParams, ListParams, PostParams, Preconditions, Resource, ResourceExt,
};
use mvcc_store::{Event, EventKind, WatchEvents};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::link::Servers;
use crate::random::{chance, millis};
use crate::trace;
use crate::user::NAMESPACE;

/// The label of the written objects.
const LABEL: &str = "audited";
/// The longest time until watches deliver the newest change in a healthy cluster.
const CATCH_UP: Duration = Duration::from_secs(60);

/// A change in the store.
#[derive(Clone, Debug)]
struct Change {
    revision: u64,
    name: String,
    /// The written text; `None` for a deletion.
    text: Option<String>,
}

/// The history of the store, and the newest acknowledged write.
#[derive(Clone, Default)]
pub struct Audit {
    changes: Arc<Mutex<Vec<Change>>>,
    /// The newest acknowledged revision.
    acknowledged: Arc<AtomicU64>,
    last_text: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Audit {
    /// Records a commit of the store.
    pub fn record_commit(&self, change: &WatchEvents) {
        if let WatchEvents::Events(events) = change {
            self.changes().extend(events.iter().filter_map(audited));
        }
    }

    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at a revision: each object with its revision and text.
    fn state_at(&self, revision: u64) -> BTreeMap<String, (u64, String)> {
        let mut state = BTreeMap::new();
        let changes = self.changes();
        for change in changes.iter().filter(|change| change.revision <= revision) {
            match &change.text {
                Some(text) => state.insert(change.name.clone(), (change.revision, text.clone())),
                None => state.remove(&change.name),
            };
        }
        state
    }

    /// The first change after a revision.
    fn next_after(&self, revision: u64) -> Option<Change> {
        let changes = self.changes();
        let next = changes.partition_point(|change| change.revision <= revision);
        changes.get(next).cloned()
    }

    fn acknowledge(&self, revision: u64) {
        self.acknowledged.fetch_max(revision, Ordering::Relaxed);
    }

    /// Starts the clients, each with a separate list of servers.
    pub fn start(&self, mut connect: impl FnMut(&str) -> (Client, Servers)) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..2 {
            let mut moving = |role: &str| {
                let (client, servers) = connect(&format!("{role}-{number}"));
                MovingClient { client, servers }
            };
            clients.spawn(self.clone().write(number, moving("writer")));
            clients.spawn(self.clone().watch(moving("watcher")));
            if number == 0 {
                clients.spawn(self.clone().read(moving("reader")));
            }
        }
        clients
    }

    /// Stops the clients. A watch that does not deliver all changes is a violation.
    pub async fn stop(&self, mut clients: JoinSet<()>) {
        self.is_over.store(true, Ordering::Relaxed);
        while clients.join_next().await.is_some() {}
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    async fn write(self, number: u64, client: MovingClient) {
        let mut writer = OwnedObject {
            audit: self.clone(),
            client,
            number,
            generation: 0,
            may_be_created: false,
            stored: Stored::Absent,
            possible: Vec::new(),
        };
        while !self.is_over() && !trace::is_broken() {
            sleep(millis(100, 8_000)).await;
            if let Err(error) = writer.act().await {
                trace!("writer {number}: {error:#}");
            }
        }
        if let Err(error) = writer.read_object().await {
            trace::broken(format!("the last state cannot be read: {error:#}"));
        }
    }

    /// Lists. The result must equal the state at its revision, and contain all writes that were acknowledged before the
    /// request.
    async fn read(self, client: MovingClient) {
        while !self.is_over() && !trace::is_broken() {
            sleep(millis(500, 15_000)).await;
            if let Err(error) = self.list(&client).await {
                trace!("reader: {error:#}");
            }
        }
    }

    async fn list(&self, client: &MovingClient) -> Result<u64> {
        client.sometimes_select_next();
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let selected = ListParams::default().labels(LABEL);
        let list = client.api().list(&selected).await?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let revision: u64 = version.parse().context("the version of a list")?;
        if revision < acknowledged {
            let lost = format!("a list at {revision} is older than a write at {acknowledged}");
            trace::broken(lost);
        }
        let items = list.items.iter();
        let listed: BTreeMap<_, _> = items.map(|item| (item.name_any(), text_of(item))).collect();
        let state = self.state_at(revision);
        if listed != state {
            let differs = format!("a list at {revision} has {listed:?} instead of {state:?}");
            trace::broken(differs);
        }
        Ok(revision)
    }

    /// Watches across moves and broken connections. Each change must arrive once and in order.
    async fn watch(self, client: MovingClient) {
        let mut last_revision = None;
        let mut over_since = None;
        while !trace::is_broken() {
            let from = match last_revision {
                Some(from) => from,
                None => match self.list(&client).await {
                    Ok(revision) => *last_revision.insert(revision),
                    Err(error) => {
                        trace!("watcher: {error:#}");
                        sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                },
            };
            let mut at = from;
            let longest = millis(1_000, 60_000);
            let followed = timeout(longest, self.follow(&client, &mut at)).await;
            last_revision = Some(at);
            match followed {
                Ok(Err(error)) if error.to_string() == EXPIRED => {
                    trace!("a watch at {at} is too old");
                    last_revision = None;
                }
                Ok(Err(error)) => {
                    trace!("watcher: {error:#}");
                    sleep(millis(100, 2_000)).await;
                }
                Ok(Ok(())) | Err(_) => {}
            }
            client.servers.select_next();
            if self.is_over() {
                if self.next_after(at).is_none() {
                    return;
                }
                let since = *over_since.get_or_insert_with(Instant::now);
                if since.elapsed() > CATCH_UP + longest {
                    return trace::broken(format!("a watch stays at {at}"));
                }
            }
        }
    }

    async fn follow(&self, client: &MovingClient, at: &mut u64) -> Result<()> {
        let path = format!(
            "/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&allowWatchBookmarks=true\
             &labelSelector={LABEL}&resourceVersion={at}"
        );
        let request = Request::get(path).body(Bytes::new())?;
        let mut lines = client.client.lines(request).await?;
        while let Some(line) = lines.next().await? {
            let event: Value = serde_json::from_slice(&line)?;
            let object = &event["object"];
            let kind = event["type"].as_str().unwrap_or_default();
            if kind == "ERROR" {
                match object["code"].as_u64() {
                    Some(410) => bail!(EXPIRED),
                    _ => bail!("{object}"),
                }
            }
            let version = object["metadata"]["resourceVersion"].as_str();
            let revision: u64 = version.unwrap_or_default().parse()?;
            let due = self.next_after(*at);
            if kind == "BOOKMARK" {
                if due.is_some_and(|due| due.revision <= revision) {
                    trace::broken(format!("a bookmark at {revision} skips events after {at}"));
                }
                *at = revision.max(*at);
                continue;
            }
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let text = object["data"]["text"].as_str();
            let is_due = due.is_some_and(|due| {
                let has_due_text = due.text.as_deref() == text.filter(|_| kind != "DELETED");
                (due.revision, due.name.as_str()) == (revision, name) && has_due_text
            });
            if !is_due {
                let wrong = format!("after {at}, a watch has {kind} of {name} at {revision}");
                trace::broken(wrong);
            }
            *at = revision;
            if chance(5) || (self.is_over() && self.next_after(*at).is_none()) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The reason for a new list.
const EXPIRED: &str = "the watch is too old";

/// A client that moves between servers.
struct MovingClient {
    client: Client,
    servers: Servers,
}

impl MovingClient {
    fn sometimes_select_next(&self) {
        if chance(30) {
            self.servers.select_next();
        }
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

/// The object of a writer after its last acknowledged write or read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stored {
    /// The object was not created yet.
    Absent,
    Present {
        revision: u64,
        text: String,
    },
    Deleted,
}

/// A writer and its current object.
struct OwnedObject {
    audit: Audit,
    client: MovingClient,
    number: u64,
    /// The number of deleted objects of the writer. The number is a part of the name, so a name is used once.
    generation: u64,
    /// The outcome of a creation is unknown. The server may store the object later, so a deletion now may come before
    /// the creation.
    may_be_created: bool,
    stored: Stored,
    /// The states that the store may have because of writes with an unknown outcome.
    possible: Vec<Option<String>>,
}

impl OwnedObject {
    fn name(&self) -> String {
        format!("audit-{}-{}", self.number, self.generation)
    }

    async fn act(&mut self) -> Result<()> {
        self.client.sometimes_select_next();
        match self.stored.clone() {
            _ if chance(if self.possible.is_empty() { 30 } else { 60 }) => self.read_object().await,
            Stored::Absent => self.write_object(None).await,
            Stored::Present { revision, .. } if !self.may_be_created && chance(15) => {
                self.delete(revision).await
            }
            Stored::Present { revision, .. } => self.write_object(Some(revision)).await,
            Stored::Deleted => {
                self.generation += 1;
                self.stored = Stored::Absent;
                Ok(())
            }
        }
    }

    /// Creates the object, or replaces its state at the given revision.
    async fn write_object(&mut self, replaced_revision: Option<u64>) -> Result<()> {
        let text = format!("{}", self.audit.last_text.fetch_add(1, Ordering::Relaxed));
        let object = json!({
            "metadata": {
                "name": self.name(),
                "labels": { LABEL: "" },
                "resourceVersion": replaced_revision.map(|revision| revision.to_string()),
            },
            "data": { "text": text },
        });
        let object: ConfigMap = json_tree::from_value(object)?;
        let (api, params) = (self.client.api(), PostParams::default());
        let name = self.name();
        let written = match replaced_revision {
            None => api.create(&params, &object).await,
            Some(_) => api.replace(&name, &params, &object).await,
        };
        match written {
            Ok(stored) => {
                let revision = revision_of(&stored)?;
                if replaced_revision.is_some_and(|before| before >= revision) {
                    trace::broken(format!(
                        "{name} was at {replaced_revision:?} and is now at {revision}"
                    ));
                }
                self.record_stored(Stored::Present { revision, text });
                Ok(())
            }
            Err(error) => Err(self.failed(&error, Some(text))),
        }
    }

    async fn delete(&mut self, revision: u64) -> Result<()> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: None,
                resource_version: Some(revision.to_string()),
            }),
            ..DeleteParams::default()
        };
        match self.client.api().delete(&self.name(), &params).await {
            Ok(_) => {
                self.record_stored(Stored::Deleted);
                Ok(())
            }
            Err(error) => Err(self.failed(&error, None)),
        }
    }

    /// A conflict is correct only if an earlier write of the same writer has an unknown outcome.
    fn failed(&mut self, error: &kube_api_client::Error, tried: Option<String>) -> anyhow::Error {
        let is_refused = matches!(
            refusal(error),
            WriteRefusal::Conflict | WriteRefusal::AlreadyExists | WriteRefusal::NotFound
        );
        if !is_refused {
            self.may_be_created |= self.stored == Stored::Absent;
            self.possible.push(tried);
        } else if self.possible.is_empty() {
            let (name, stored) = (self.name(), &self.stored);
            trace::broken(format!("{name} is {stored:?} and was refused: {error}"));
        }
        anyhow!("{error}")
    }

    fn record_stored(&mut self, stored: Stored) {
        if let Stored::Present { revision, .. } = &stored {
            self.audit.acknowledge(*revision);
        }
        self.stored = stored;
        self.possible.clear();
    }

    /// Reads the object. The result must be the last acknowledged state, or the state of a write with an unknown
    /// outcome.
    async fn read_object(&mut self) -> Result<()> {
        let object = self.client.api().get_opt(&self.name()).await?;
        let object = object
            .map(|object| Ok::<_, anyhow::Error>((revision_of(&object)?, text_of(&object).1)));
        let object = object.transpose()?;
        let text = object.as_ref().map(|(_, text)| text.clone());
        let is_unchanged = match (&self.stored, &object) {
            (Stored::Present { revision, .. }, Some((now, _))) if revision == now => true,
            (Stored::Absent | Stored::Deleted, None) => true,
            _ => false,
        };
        if !is_unchanged && !self.possible.contains(&text) {
            let (name, stored, possible) = (self.name(), &self.stored, &self.possible);
            trace::broken(format!(
                "{name} is {object:?} and not {stored:?}, nor any of {possible:?}"
            ));
        }
        if is_unchanged {
            // A write with an unknown outcome may be stored later: the next write or the next read detects it.
            return Ok(());
        }
        let stored = match object {
            Some((revision, text)) => Stored::Present { revision, text },
            None => Stored::Deleted,
        };
        self.record_stored(stored);
        Ok(())
    }
}

fn revision_of(object: &ConfigMap) -> Result<u64> {
    let version = object.meta().resource_version.clone().unwrap_or_default();
    version.parse().context("a resourceVersion")
}

fn text_of(object: &ConfigMap) -> (u64, String) {
    let data = object.data.as_ref();
    let text = data.and_then(|data| data.get("text")).cloned();
    (
        revision_of(object).unwrap_or_default(),
        text.unwrap_or_default(),
    )
}

/// The change of a written object.
fn audited(event: &Event) -> Option<Change> {
    let last = match &event.kind {
        EventKind::Put(pair) => pair,
        EventKind::Delete => event.previous.as_ref()?,
    };
    let object: Value = serde_json::from_slice(&last.value).ok()?;
    if object["kind"] != "ConfigMap" || object["metadata"]["labels"][LABEL].is_null() {
        return None;
    }
    let text = object["data"]["text"].as_str().unwrap_or_default();
    Some(Change {
        revision: event.revision.0,
        name: object["metadata"]["name"].as_str()?.to_owned(),
        text: matches!(event.kind, EventKind::Put(_)).then(|| text.to_owned()),
    })
}
