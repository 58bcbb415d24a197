//! Gets while other clients load the server.

use std::convert::Infallible;
use std::fmt::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use json_tree::json;
use kube::{Client, Config};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::call::Call;
use crate::load::{Load, send_all};
use crate::objects::BenchObjects;
use crate::target::{BenchNamespace, open_clients};

/// Clients that patch pods without a pause.
const WRITERS: u32 = 64;
/// Clients that list all pods without a pause.
const LISTERS: u32 = 10;
/// Size of the text that is written each second, in bytes.
const UPLOAD_BYTES: usize = 1_000_000;
const UPLOAD_PERIOD: Duration = Duration::from_secs(1);
/// The load runs for this time before the first get.
const WARM_UP: Duration = Duration::from_secs(2);

/// Number of gets; ten gets are above the 99th percentile.
const GETS: usize = 1000;

/// Measures the gets of this number of clients, while other clients write.
pub async fn get_pods(target: &BenchNamespace, clients: u32, names: &[String]) -> Result<Load> {
    let pods = target.objects();
    let gets = names.iter().cycle().take(GETS);
    let calls = gets.map(|name| pods.get(name)).collect();
    let mut others = JoinSet::new();
    for (first, client) in target.clients(WRITERS).await?.into_iter().enumerate() {
        let names = names.to_vec();
        others.spawn(patch_forever(client, pods.clone(), names, first));
    }
    for client in target.clients(LISTERS).await? {
        others.spawn(list_forever(client, pods.clone()));
    }
    let client = target.clients(1).await?.remove(0);
    others.spawn(upload_forever(client, target.namespace.clone()));
    let gets = send_on_separate_thread(target.config(), clients, calls)?;
    tokio::select! {
        load = gets => load.context("the clients of the gets broke")?,
        Some(ended) = others.join_next() => match ended.context("a client of the load broke")? {
            Ok(never) => match never {},
            Err(error) => Err(error.context("the load during the gets")),
        },
    }
}

/// Sends the calls after the warm-up from a separate thread. In the runtime of the other clients, the latency would
/// include the time for which their responses wait to be read.
fn send_on_separate_thread(
    config: Config,
    clients: u32,
    calls: Vec<Call>,
) -> Result<oneshot::Receiver<Result<Load>>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().context("start a runtime")?;
    let (sender, receiver) = oneshot::channel();
    let gets = async move {
        let clients = open_clients(&config, clients).await?;
        tokio::time::sleep(WARM_UP).await;
        send_all(&clients, calls).await
    };
    thread::spawn(move || {
        // The receiver is closed only if another client failed, and then that error is reported.
        sender.send(runtime.block_on(gets)).ok();
    });
    Ok(receiver)
}

async fn patch_forever(
    client: Client,
    pods: BenchObjects,
    names: Vec<String>,
    first: usize,
) -> Result<Infallible> {
    let others = names.iter().cycle().skip(first).step_by(WRITERS as usize);
    for (round, name) in others.enumerate() {
        let call = pods.patch(name, &format!("{first}-{round}"));
        call.send(&client).await?;
    }
    bail!("there are no pods")
}

async fn list_forever(client: Client, pods: BenchObjects) -> Result<Infallible> {
    loop {
        pods.list().send(&client).await?;
    }
}

/// Replaces a ConfigMap by a YAML text each second.
async fn upload_forever(client: Client, namespace: String) -> Result<Infallible> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let empty = json!({"metadata": {"name": UPLOAD}});
    Call::post(path.clone(), &empty).send(&client).await?;
    let mut ticks = interval(UPLOAD_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u64.. {
        ticks.tick().await;
        let uri = format!("{path}/{UPLOAD}");
        Call::put_yaml(uri, document(round)).send(&client).await?;
    }
    bail!("no more rounds")
}

const UPLOAD: &str = "upload";
/// Chosen so that a value has about 1 KB.
const LINE_WORDS: usize = 60;

/// A YAML ConfigMap of [`UPLOAD_BYTES`], different in each round.
fn document(round: u64) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {UPLOAD}\ndata:\n  round: \"{round}\"\n"
    );
    let line = "a line of a file ".repeat(LINE_WORDS);
    for key in 0.. {
        if text.len() >= UPLOAD_BYTES {
            break;
        }
        writeln!(text, "  key-{key}: \"{line}{key}\"").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API server refuses more than 1 MiB of data.
    #[test]
    fn an_upload_has_one_megabyte() {
        let text = document(7);
        assert!(text.contains("round: \"7\""));
        assert!((UPLOAD_BYTES..UPLOAD_BYTES + 1200).contains(&text.len()));
    }
}
