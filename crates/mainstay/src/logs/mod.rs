//! `mainstay logs`: the logs of all pods of a set, a Deployment or another workload in one stream.

mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use command_output::output::{Prefix, print_log_line, warn};
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, LogParams};
use tokio::task::JoinSet;

use crate::settings::ServerArguments;
pub use target::KINDS;
use target::LogTarget;

/// Interval of the search for new pods while logs are followed.
const POD_INTERVAL: Duration = Duration::from_secs(1);
/// Colours of prefixes: those of a terminal's sixteen colours that are easy to read on both backgrounds.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Arguments of `mainstay logs`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct LogsArguments {
    /// KIND/NAME; kinds: statefulset (sts), deployment (deploy), daemonset (ds), replicaset (rs),
    /// job, pod (po)
    #[arg(value_name = "KIND/NAME")]
    target: String,
    /// Continue until Ctrl-C, with new pods and restarted containers
    #[arg(short, long)]
    follow: bool,
    /// Only this container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Number of newest lines of each container; -1 for all
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_negative_numbers = true)]
    tail: i64,
    /// Namespace [default: the context's, else default]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
}

const AFTER_HELP: &str = "\
Each line begins with the pod, and with the container if the pod has several.

Examples:
  mainstay logs sts/web -f
  mainstay logs deploy/shop -c main --tail 20";

/// A run of a container, with its log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    pod: String,
    container: String,
    /// Identifies the run among all runs of the container.
    id: String,
}

/// Prints the logs of all pods that the arguments select.
pub async fn run(arguments: LogsArguments) -> Result<()> {
    let target = LogTarget::parse(&arguments.target)?;
    let server = arguments.server.find().await?;
    let namespace = arguments.namespace.as_deref();
    let namespace = namespace.unwrap_or(server.namespace()).to_owned();
    let read = target.selection(&server.client, &namespace).await;
    let selection = read.map_err(|error| server.explain(error))?;
    let Some(selection) = selection else {
        bail!("{} not found in namespace {namespace:?}", arguments.target);
    };
    let api: Api<Pod> = Api::namespaced(server.client.clone(), &namespace);
    let mut printed = BTreeSet::new();
    let mut streams = JoinSet::new();
    let mut names = Vec::new();
    let mut tail = (arguments.tail >= 0).then_some(arguments.tail);
    loop {
        let listed = api.list(&selection).await;
        let pods = listed.map_err(|error| server.explain(error))?.items;
        let runs = runs(&pods, arguments.container.as_deref());
        let width = runs.iter().map(|(_, name)| name.len()).max().unwrap_or(0);
        for (run, name) in runs {
            if !printed.insert(run.clone()) {
                continue;
            }
            if !names.contains(&name) {
                names.push(name.clone());
            }
            let number = names.iter().position(|other| *other == name).unwrap_or(0);
            let prefix = format!("{name:width$} | ");
            let colour = COLOURS[number % COLOURS.len()];
            let parameters = LogParams {
                container: Some(run.container.clone()),
                follow: arguments.follow,
                tail_lines: tail,
                ..LogParams::default()
            };
            let api = api.clone();
            streams.spawn(async move { copy(&api, &run, parameters, (&prefix, colour)).await });
        }
        if !arguments.follow {
            break;
        }
        // Containers that start later are shown from their beginning.
        tail = None;
        while streams.try_join_next().is_some() {}
        tokio::time::sleep(POD_INTERVAL).await;
    }
    while streams.join_next().await.is_some() {}
    if printed.is_empty() {
        bail!("{} has no container that has started", arguments.target);
    }
    Ok(())
}

/// The started runs of containers with the prefixes of their lines, in order.
fn runs(pods: &[Pod], only: Option<&str>) -> Vec<(Run, String)> {
    let mut runs = Vec::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(status) = &pod.status else { continue };
        let statuses = status.init_container_statuses.iter().flatten();
        let statuses = statuses.chain(status.container_statuses.iter().flatten());
        let selected = statuses.filter(|status| only.is_none_or(|only| only == status.name));
        let selected: Vec<_> = selected.collect();
        for status in &selected {
            let Some(id) = status.container_id.clone().filter(|id| !id.is_empty()) else {
                continue;
            };
            let prefix = match selected.len() {
                1 => name.clone(),
                _ => format!("{name} {}", status.name),
            };
            let run = Run {
                pod: name.clone(),
                container: status.name.clone(),
                id,
            };
            runs.push((run, prefix));
        }
    }
    runs.sort_unstable();
    runs
}

/// Copies a log; an unreadable one is reported in the output.
async fn copy(api: &Api<Pod>, run: &Run, parameters: LogParams, (prefix, colour): (&str, u8)) {
    let copied = async {
        let mut lines = api
            .log_stream(&run.pod, &parameters)
            .await
            .context("read the log")?;
        while let Some(line) = lines.next().await.context("read the log")? {
            let prefix = Prefix {
                text: prefix,
                colour: Some(colour),
            };
            print_log_line(prefix, &line);
        }
        anyhow::Ok(())
    };
    if let Err(error) = copied.await {
        warn(&format!("{prefix}{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn pod(name: &str, containers: &[(&str, &str)]) -> Pod {
        let statuses: Vec<_> = containers
            .iter()
            .map(|(name, id)| {
                json!({"name": name, "containerID": id, "image": "i", "imageID": "", "ready": true,
                    "restartCount": 0})
            })
            .collect();
        json_tree::from_value(json!({"metadata": {"name": name},
            "status": {"containerStatuses": statuses}}))
        .unwrap()
    }

    #[test]
    fn each_run_of_a_container_has_a_prefix() {
        let pods = [
            pod("web-1", &[("main", "one"), ("side", "two")]),
            pod("web-0", &[("main", "three")]),
            pod("web-2", &[("main", "")]),
        ];
        let prefixes = |only| {
            let runs = runs(&pods, only);
            runs.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(prefixes(None), ["web-0", "web-1 main", "web-1 side"]);
        assert_eq!(prefixes(Some("main")), ["web-0", "web-1"]);
    }
}
