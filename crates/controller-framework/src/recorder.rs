//! Writes `core/v1` Events in the background. A caller never waits; events beyond the bound of the queue are dropped
//! and counted. The first event after a quiet time is written at once. Later events are collected for a window, so that
//! they share commits of the store. A warning that the server cannot store, because its disk is full or it does not
//! respond, is written later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube_api_client::guarded_writes::{WriteRefusal, is_of_the_object, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Resource};
use process_telemetry::refusals::{self, Budget};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::similarity::{EventVerdict, Memory, SimilarEvents};

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Event type `Normal`.
    Normal,
    /// Event type `Warning`.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// The component that reports an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of the component, for instance `statefulset-controller`.
    pub component: String,
    /// The node of the component, if the component belongs to one node.
    pub host: Option<String>,
}

impl From<&str> for Source {
    fn from(component: &str) -> Self {
        Self {
            component: component.to_owned(),
            host: None,
        }
    }
}

/// A handle for reporting events; clones share one background task.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Report>,
    dropped: Arc<AtomicU64>,
}

struct Report {
    object: ObjectReference,
    event_type: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// A reference to an object whose kind is known at compile time.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// Starts the background task, which ends with `shutdown`.
    pub fn spawn(client: Client, source: impl Into<Source>, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(limits::EVENTS_QUEUED_MAX);
        let writer = Writer {
            client,
            source: source.into(),
            memory: Memory::default(),
            postponed: VecDeque::new(),
        };
        tokio::spawn(writer.run(receiver, shutdown));
        Self {
            sender,
            dropped: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Reports something about `object`. Returns at once.
    pub fn event(
        &self,
        object: ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        if message.len() > limits::EVENT_MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(limits::EVENT_MESSAGE_BYTES_MAX - 3));
            message.push_str("...");
        }
        let reason = reason.to_owned();
        let report = Report {
            object,
            event_type,
            reason,
            message,
            at: Timestamp::now(),
        };
        if self.sender.try_send(report).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            refusals::count(Budget::Events);
        }
    }

    /// Reports a normal event about `object`.
    pub fn normal<K>(&self, object: &K, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.event(reference(object), EventType::Normal, reason, message);
    }

    /// Reports a warning about `object`.
    pub fn warning<K>(&self, object: &K, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.event(reference(object), EventType::Warning, reason, message);
    }

    /// The number of dropped events.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    client: Client,
    source: Source,
    memory: Memory,
    /// The warnings that the server could not store.
    postponed: VecDeque<EventWrite>,
}

/// The write of one report.
struct EventWrite {
    report: Report,
    topic: SimilarEvents,
    message: String,
    /// The name and the new count of an existing event; `None` for a new event.
    stored_event: Option<(String, i32)>,
}

impl Writer {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>, shutdown: CancellationToken) {
        let mut again = interval(limits::EVENT_POSTPONED_RETRY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut window_end = Instant::now();
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                () = shutdown.cancelled() => return,
                received = reports.recv_many(&mut batch, limits::EVENTS_QUEUED_MAX) => if received == 0 {
                    return;
                },
                _ = again.tick(), if !self.postponed.is_empty() => {}
            }
            let write = async {
                if batch.is_empty() {
                    self.write_postponed().await;
                } else {
                    sleep_until(window_end).await;
                    batch.extend(std::iter::from_fn(|| reports.try_recv().ok()));
                    self.write_all(batch).await;
                    window_end = Instant::now() + limits::EVENT_WINDOW;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = write => {}
            }
        }
    }

    /// Writes the events of the reports. Events of different topics are written concurrently, so that they share
    /// commits of the store; events of one topic are written in order.
    async fn write_all(&mut self, reports: Vec<Report>) {
        let mut writes: Vec<EventWrite> = Vec::new();
        for report in reports {
            let topic = topic(&report);
            let same_topic = writes.iter().any(|write| write.topic == topic);
            if same_topic || writes.len() == limits::EVENTS_AT_ONCE {
                self.perform(std::mem::take(&mut writes)).await;
            }
            let (stored_event, message) =
                match self.memory.judge(&topic, &report.message, report.at) {
                    EventVerdict::Silence => continue,
                    EventVerdict::Create { message } => (None, message),
                    EventVerdict::Repeat {
                        name,
                        count,
                        message,
                    } => (Some((name, count)), message),
                };
            writes.push(EventWrite {
                report,
                topic,
                message,
                stored_event,
            });
        }
        self.perform(writes).await;
    }

    async fn perform(&mut self, writes: Vec<EventWrite>) {
        let written = join_all(writes.iter().map(|write| self.attempt(write))).await;
        for (write, written) in writes.into_iter().zip(written) {
            self.keep(write, written);
        }
    }

    /// Creates an event or increases its count. Returns the name of a new event.
    fn attempt<'a>(
        &'a self,
        write: &'a EventWrite,
    ) -> BoxFuture<'a, kube_api_client::Result<Option<String>>> {
        let EventWrite {
            report, message, ..
        } = write;
        let attempt = async move {
            if let Some((name, count)) = &write.stored_event
                && self.repeat(report, name, *count, message).await
            {
                return Ok(None);
            }
            self.create(report, message).await.map(Some)
        };
        attempt.boxed()
    }

    /// Remembers a new event, or postpones a warning that the server could not store.
    fn keep(&mut self, mut write: EventWrite, written: kube_api_client::Result<Option<String>>) {
        let EventWrite {
            topic,
            message,
            stored_event,
            ..
        } = &mut write;
        match written {
            Ok(None) => {}
            Ok(Some(name)) => self.memory.remember(topic, message, name),
            Err(error) => {
                if stored_event.take().is_some() {
                    // The event with the count was deleted.
                    self.memory.forget(topic, message);
                }
                let is_warning = write.report.event_type == EventType::Warning;
                if is_warning && !is_of_the_object(&error) {
                    self.postpone(write);
                }
            }
        }
    }

    /// Postpones a warning. Repetitions of a warning are postponed as one event with the first time.
    fn postpone(&mut self, new: EventWrite) {
        let same =
            |waiting: &EventWrite| waiting.topic == new.topic && waiting.message == new.message;
        if self.postponed.iter().any(same) {
            return;
        }
        if self.postponed.len() >= limits::EVENTS_POSTPONED_MAX {
            self.postponed.pop_front();
        }
        self.postponed.push_back(new);
    }

    /// Writes postponed warnings, the oldest first, until the server fails to store one.
    async fn write_postponed(&mut self) {
        while let Some(write) = self.postponed.pop_front() {
            let written = self.attempt(&write).await;
            match &written {
                Err(error) if !is_of_the_object(error) => {
                    self.postponed.push_front(write);
                    return;
                }
                _ => self.keep(write, written),
            }
        }
    }

    fn api(&self, report: &Report) -> Api<Event> {
        Api::namespaced(self.client.clone(), &namespace(report))
    }

    /// Creates an event. Returns its name.
    async fn create(&self, report: &Report, message: &str) -> kube_api_client::Result<String> {
        let event = self.event(report, message.to_owned());
        let name = event.metadata.name.clone().unwrap_or_default();
        let (api, params) = (self.api(report), PostParams::default());
        let written =
            attempts(|| async { api.create_written(&params, &event).await.map(drop) }).await;
        if let Err(error) = &written {
            tracing::debug!(error = %error, "event not written");
        }
        written.map(|()| name)
    }

    /// Increases the count of an event. Returns `false` if the event was deleted.
    async fn repeat(&self, report: &Report, name: &str, count: i32, message: &str) -> bool {
        let at = Time(report.at);
        let patch = json!({ "count": count, "lastTimestamp": at, "message": message });
        let (api, params) = (self.api(report), PatchParams::default());
        let patch = Patch::Strategic(&patch);
        let written =
            attempts(|| async { api.patch_written(name, &params, &patch).await.map(drop) }).await;
        match written {
            Ok(()) => true,
            Err(error) if refusal(&error) == WriteRefusal::NotFound => false,
            Err(error) => {
                tracing::debug!(error = %error, "event not counted");
                true
            }
        }
    }

    fn event(&self, report: &Report, message: String) -> Event {
        let object_name = report.object.name.clone().unwrap_or_default();
        let at = Time(Timestamp::from_second(report.at.as_second()).unwrap_or(report.at));
        Event {
            metadata: ObjectMeta {
                // The form of client-go's names: the time makes the name unique.
                name: Some(format!("{object_name}.{:x}", report.at.as_nanosecond())),
                namespace: Some(namespace(report)),
                ..ObjectMeta::default()
            },
            involved_object: report.object.clone(),
            type_: Some(report.event_type.as_str().to_owned()),
            reason: Some(report.reason.clone()),
            message: Some(message),
            source: Some(EventSource {
                component: Some(self.source.component.clone()),
                host: self.source.host.clone(),
            }),
            reporting_component: Some(self.source.component.clone()),
            reporting_instance: Some(self.source.host.clone().unwrap_or_default()),
            first_timestamp: Some(at.clone()),
            last_timestamp: Some(at),
            count: Some(1),
            ..Event::default()
        }
    }
}

/// The namespace of the event: `default` for cluster-scoped objects.
fn namespace(report: &Report) -> String {
    let object_namespace = report
        .object
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty());
    object_namespace.unwrap_or_else(|| "default".to_owned())
}

fn topic(report: &Report) -> SimilarEvents {
    let object = &report.object;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let object = [
        part(&object.kind),
        part(&object.namespace),
        part(&object.name),
        part(&object.uid),
        part(&object.field_path),
    ];
    SimilarEvents {
        object: object.join("/"),
        event_type: report.event_type.as_str(),
        reason: report.reason.clone(),
    }
}

/// Makes several attempts while the server is unreachable. A response of the server is final.
async fn attempts<F, Fut>(write: F) -> kube_api_client::Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = kube_api_client::Result<()>>,
{
    let mut delay = Duration::from_millis(100);
    for _ in 1..limits::EVENT_ATTEMPTS_MAX {
        match write().await {
            Err(error) if !matches!(error, kube_api_client::Error::Api(_)) => {
                tracing::debug!(error = %error, "event to be written again");
            }
            result => return result,
        }
        tokio::time::sleep(delay).await;
        delay *= 4;
    }
    write().await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use k8s_openapi::api::core::v1::Pod;
    use kube_api_client::Body;

    use super::*;

    /// A server that stores the reasons of events unless its disk is full.
    #[derive(Clone, Default)]
    struct Server {
        full: Arc<std::sync::atomic::AtomicBool>,
        stored: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            let respond = move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .expect("a body")
                        .to_bytes();
                    let event: Event = serde_json::from_slice(&body).expect("an event");
                    let (code, respond) = match server.full.load(Ordering::Relaxed) {
                        true => {
                            let status = json!({ "apiVersion": "v1", "kind": "Status",
                                "status": "Failure", "reason": "InternalError",
                                "message": "no space left on device", "code": 500 });
                            (500, status)
                        }
                        false => {
                            let reason = event.reason.clone().expect("a reason");
                            server.stored.lock().expect("a lock").push(reason);
                            (201, json_tree::to_value(&event).expect("JSON"))
                        }
                    };
                    let respond = Body::from(respond.to_string().into_bytes());
                    let response = Response::builder().status(code).body(respond);
                    Ok::<_, Infallible>(response.expect("a response"))
                }
            };
            Client::new(tower::service_fn(respond), "default")
        }

        fn stored(&self) -> Vec<String> {
            self.stored.lock().expect("a lock").clone()
        }
    }

    /// findings R25: an event from the time of a full disk is written when there is space again.
    #[tokio::test(start_paused = true)]
    async fn warnings_that_cannot_be_stored_are_written_later() {
        let server = Server::default();
        server.full.store(true, Ordering::Relaxed);
        let end = CancellationToken::new();
        let recorder = Recorder::spawn(server.client(), "kubelet", end.clone());
        let pod: Pod = json_tree::from_value(json!({ "metadata":
            { "name": "web-0", "namespace": "default", "uid": "u" } }))
        .expect("a pod");
        for _ in 0..3 {
            recorder.warning(&pod, "Evicted", "The node was low on resource");
        }
        recorder.normal(&pod, "Killing", "Stopping container main");
        tokio::time::sleep(limits::EVENT_POSTPONED_RETRY * 5).await;
        assert!(server.stored().is_empty());
        server.full.store(false, Ordering::Relaxed);
        tokio::time::sleep(limits::EVENT_POSTPONED_RETRY * 2).await;
        assert_eq!(server.stored(), ["Evicted"]);
        // A later event is written at once.
        recorder.normal(&pod, "Scheduled", "to node a");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(server.stored(), ["Evicted", "Scheduled"]);
        end.cancel();
    }

    /// Events in quick succession are written together and share commits of the store.
    #[tokio::test(start_paused = true)]
    async fn events_within_a_window_are_written_at_its_end() {
        let server = Server::default();
        let end = CancellationToken::new();
        let recorder = Recorder::spawn(server.client(), "scheduler", end.clone());
        let report = |name: &str| recorder.normal(&Pod::default(), name, "to a node");
        let moment = limits::EVENT_WINDOW / 10;
        report("First");
        tokio::time::sleep(moment).await;
        assert_eq!(server.stored(), ["First"]);
        for name in ["Second", "Third"] {
            report(name);
            tokio::time::sleep(moment).await;
        }
        assert_eq!(server.stored(), ["First"]);
        tokio::time::sleep(limits::EVENT_WINDOW).await;
        assert_eq!(server.stored(), ["First", "Second", "Third"]);
        tokio::time::sleep(limits::EVENT_WINDOW).await;
        report("Fourth");
        tokio::time::sleep(moment).await;
        assert_eq!(server.stored()[3..], ["Fourth"]);
        end.cancel();
    }

    /// Events about different objects share commits of the store; those about one object keep their order.
    #[tokio::test(start_paused = true)]
    async fn events_of_different_topics_are_written_at_once() {
        let (under_way, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let messages = Arc::new(Mutex::new(Vec::new()));
        let (most_seen, stored) = (most.clone(), messages.clone());
        let respond = move |request: Request<Body>| {
            let (under_way, most, stored) = (under_way.clone(), most.clone(), stored.clone());
            async move {
                let body = request.into_body().collect().await.expect("a body");
                let event: Event = serde_json::from_slice(&body.to_bytes()).expect("an event");
                most.fetch_max(
                    under_way.fetch_add(1, Ordering::Relaxed) + 1,
                    Ordering::Relaxed,
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
                under_way.fetch_sub(1, Ordering::Relaxed);
                stored
                    .lock()
                    .expect("a lock")
                    .push(event.message.clone().unwrap_or_default());
                let respond = serde_json::to_vec(&event).expect("JSON");
                let response = Response::builder().status(201).body(Body::from(respond));
                Ok::<_, Infallible>(response.expect("a response"))
            }
        };
        let client = Client::new(tower::service_fn(respond), "default");
        let end = CancellationToken::new();
        let recorder = Recorder::spawn(client, "scheduler", end.clone());
        for pod in ["a", "b", "c"] {
            let metadata = json!({ "name": pod, "namespace": "default", "uid": pod });
            let pod: Pod = json_tree::from_value(json!({ "metadata": metadata })).expect("a pod");
            recorder.normal(&pod, "Scheduled", "to a node");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(most_seen.load(Ordering::Relaxed), 3);
        most_seen.store(0, Ordering::Relaxed);
        for message in ["1", "2", "3"] {
            recorder.normal(&Pod::default(), "Created", message);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(most_seen.load(Ordering::Relaxed), 1);
        assert_eq!(messages.lock().expect("a lock")[3..], ["1", "2", "3"]);
        end.cancel();
    }
}
