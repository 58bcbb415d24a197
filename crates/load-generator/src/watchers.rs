//! The time from a write until its event reaches all watchers, and the cost of each watcher for the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Request;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use kube::Client;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::http2::SharedConnection;
use crate::memory::Memory;
use crate::processor::{self, AFTER_THE_REPLY};
use crate::statistics::{Summary, percentile};
use crate::target::BenchNamespace;

/// Number of writes whose watch events are measured.
const WRITES: u32 = 50;
/// Connections that are opened concurrently.
const OPENING: usize = 32;
/// Maximum delay of an event.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this time the server's memory is stable.
pub const SETTLED: Duration = Duration::from_secs(1);
const NAME: &str = "watched";

/// From a sent write to a received event.
#[derive(Debug)]
pub struct FanOut {
    pub watchers: u32,
    /// For each write, the time of the median watcher.
    pub median_watcher: Summary,
    /// For each write, the time of the last watcher.
    pub last_watcher: Summary,
    /// Memory of the server for each watcher.
    pub bytes_per_watcher: Option<u64>,
    /// Processor time of the server for each event of a watcher.
    pub processor_per_event: Option<Duration>,
}

/// Opens watches, sends writes, and waits for all watches after each write.
pub async fn measure(
    target: &BenchNamespace,
    watchers: u32,
    per_connection: u32,
    server: &[u32],
) -> Result<FanOut> {
    allow_many_connections()?;
    let pods = target.objects();
    let pod = pods.create(NAME).json(&target.client).await?;
    let version = pod["metadata"]["resourceVersion"].as_str();
    let uri = pods.watch(version.context("a pod without a resourceVersion")?);
    let weighed = !server.is_empty();
    let before = weighed.then(|| Memory::of(server)).transpose()?;
    let (events, mut received) = mpsc::unbounded_channel();
    let watching = if per_connection > 1 {
        open_shared(target, &uri, watchers, per_connection, &events).await?
    } else {
        // A separate client, whose connections are closed with it.
        let client = target.clients(1).await?.remove(0);
        open(&client, &uri, watchers, &events).await?
    };
    drop(events);
    tokio::time::sleep(SETTLED).await;
    let after = weighed.then(|| Memory::of(server)).transpose()?;
    let processor_before = processor::time(server)?;
    let mut medians = Vec::new();
    let mut lasts = Vec::new();
    for write in 0..WRITES {
        let sent = Instant::now();
        let patch = pods.patch(NAME, &write.to_string());
        let acknowledged = tokio::spawn({
            let client = target.client.clone();
            async move { patch.send(&client).await }
        });
        let arrivals = collect(&mut received, watchers, sent).await?;
        acknowledged.await.context("the writer broke")??;
        medians.push(percentile(&arrivals, 50));
        lasts.push(percentile(&arrivals, 100));
    }
    let mut processor_per_event = None;
    if weighed {
        tokio::time::sleep(AFTER_THE_REPLY).await;
        let spent = processor::time(server)?.saturating_sub(processor_before);
        processor_per_event = Some(spent / WRITES / watchers);
    }
    drop(watching);
    pods.delete(NAME).send(&target.client).await?;
    Ok(FanOut {
        watchers,
        median_watcher: Summary::of(medians),
        last_watcher: Summary::of(lasts),
        bytes_per_watcher: before
            .zip(after)
            .map(|(before, after)| after.grown_per(before, watchers)),
        processor_per_event,
    })
}

/// The time of an event, or the reason why no further event will come.
type Arrival = Result<Instant>;

/// Returns when the server has responded to all watch requests.
async fn open(
    client: &Client,
    uri: &str,
    watchers: u32,
    events: &mpsc::UnboundedSender<Arrival>,
) -> Result<JoinSet<()>> {
    let doors = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..watchers {
        let (client, doors, uri) = (client.clone(), doors.clone(), uri.to_owned());
        opening.spawn(async move {
            let _door = doors.acquire_owned().await.context("nobody closes it")?;
            let request = Request::get(uri).body(kube::client::Body::empty())?;
            let reply = client.send(request).await.context("open a watch")?;
            if !reply.status().is_success() {
                bail!("a watch is answered {}", reply.status());
            }
            Ok(reply.into_body())
        });
    }
    let mut watching = JoinSet::new();
    while let Some(opened) = opening.join_next().await {
        let body = opened.context("a watcher broke")??;
        watching.spawn(follow(body, events.clone()));
    }
    Ok(watching)
}

/// Like [`open`], with connections that several watches share.
async fn open_shared(
    target: &BenchNamespace,
    uri: &str,
    watchers: u32,
    per_connection: u32,
    events: &mpsc::UnboundedSender<Arrival>,
) -> Result<JoinSet<()>> {
    let mut watching = JoinSet::new();
    let mut remaining = watchers;
    while remaining > 0 {
        let mut connection = SharedConnection::open(&target.config()).await?;
        for _ in 0..remaining.min(per_connection) {
            let body = connection.get(uri).await.context("open a watch")?;
            watching.spawn(follow(body, events.clone()));
        }
        remaining = remaining.saturating_sub(per_connection);
    }
    Ok(watching)
}

/// Reports the time of each event; each event is one line.
async fn follow<B>(mut body: B, events: mpsc::UnboundedSender<Arrival>)
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let why = loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let now = Instant::now();
                let data = frame.into_data().unwrap_or_default();
                let lines = data.iter().filter(|byte| **byte == b'\n').count();
                for _ in 0..lines {
                    if events.send(Ok(now)).is_err() {
                        return;
                    }
                }
            }
            Some(Err(error)) => break format!("a watch broke off: {error}"),
            None => break "the server ended a watch".to_owned(),
        }
    };
    events.send(Err(anyhow::Error::msg(why))).ok();
}

/// The delays of one event of each watcher after the write, sorted.
async fn collect(
    received: &mut mpsc::UnboundedReceiver<Arrival>,
    watchers: u32,
    sent: Instant,
) -> Result<Vec<Duration>> {
    let mut arrivals = Vec::new();
    for _ in 0..watchers {
        let arrival = tokio::time::timeout(PATIENCE, received.recv()).await;
        let Ok(arrival) = arrival else {
            let count = arrivals.len();
            bail!("{count} of {watchers} watches saw a write within {PATIENCE:?}");
        };
        let at = arrival.context("all watches ended")??;
        arrivals.push(at.saturating_duration_since(sent));
    }
    arrivals.sort_unstable();
    Ok(arrivals)
}

/// Raises the limit of open files to its maximum, because each watcher is a connection.
fn allow_many_connections() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("how many files may be open")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("have many files open")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_watcher_has_to_see_a_write() {
        let (events, mut received) = mpsc::unbounded_channel();
        let sent = Instant::now();
        for milliseconds in [30, 10, 20] {
            let at = sent + Duration::from_millis(milliseconds);
            events.send(Ok(at)).unwrap();
        }
        let arrivals = collect(&mut received, 3, sent).await.unwrap();
        assert_eq!(arrivals, [10, 20, 30].map(Duration::from_millis));

        events.send(Err(anyhow::Error::msg("ended"))).unwrap();
        let ended = collect(&mut received, 1, sent).await.unwrap_err();
        assert_eq!(ended.to_string(), "ended");
        drop(events);
        assert!(collect(&mut received, 1, sent).await.is_err());
    }

    #[tokio::test]
    async fn a_line_is_an_event() {
        let (events, mut received) = mpsc::unbounded_channel();
        follow(
            kube::client::Body::from(b"{}\n{\"a\":1}\n{".to_vec()),
            events,
        )
        .await;
        assert!(received.recv().await.unwrap().is_ok());
        assert!(received.recv().await.unwrap().is_ok());
        assert!(received.recv().await.unwrap().is_err());
        assert!(received.recv().await.is_none());
    }
}
