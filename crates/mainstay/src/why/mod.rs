//! `mainstay why`: reads the input of `diagnosis` from any Kubernetes API, and prints the
//! answer.

mod cluster_objects;
mod connection;
mod expiry;
mod logs;
mod other_kinds;
mod server;
mod target;

use anyhow::{Context, Result, bail};
use console::output::OutputFormat;
use diagnosis::{Explanation, Overview, TargetKind, explain};
use jiff::Timestamp;

use crate::settings::ServerArguments;
use cluster_objects::Scope;
pub use cluster_objects::{ClusterObjects, NamespaceScope, read_all};
use connection::Destination;
pub use server::Server;
use target::{NamedObject, WhyTarget};

/// Arguments of `mainstay why`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct WhyArguments {
    /// KIND/NAME or KIND NAME, as for kubectl; without it: every object that waits
    #[arg(num_args = 0..=2, value_name = "KIND/NAME")]
    target: Vec<String>,
    /// Namespace [default: that of the context, else default; without an object all namespaces and
    /// the cluster]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Whether a connection from the pod to this pod or svc passes, and which network policies decide
    #[arg(long, value_name = "KIND/NAME:PORT", requires = "target")]
    to: Option<String>,
    /// Namespace of the destination of --to [default: that of the pod]
    #[arg(long, value_name = "NS", requires = "to")]
    to_namespace: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerArguments,
}

const AFTER_HELP: &str = "\
Exit status: 0 with an answer, whether or not an object waits (-o json: .state); 1 if the object
does not exist or the server does not answer; 2 if the arguments are wrong.

Kinds: sts, deploy, ds, rs, rc, job, cronjob, pod, pvc, pv, storageclass, volumesnapshot, svc,
ing, hpa, pdb, node, ns, csr, crd, apiservice, cs; and their long names. Of other kinds only the
metadata are looked at: why an object is not deleted yet, and parts that are malformed.

Examples:
  mainstay why
  mainstay why -n shop
  mainstay why sts/web
  mainstay why pod web-1 -n shop
  mainstay why deploy/shop
  mainstay why pvc/www-web-0 -o json
  mainstay why pod/web-0 --to pod/db-0:5432
  mainstay why pod/web-0 --to svc/dns:53/UDP --to-namespace kube-system";

/// Prints why the object waits, or that it does not; or all that waits.
pub async fn run(arguments: WhyArguments) -> Result<()> {
    let target = match arguments.target.as_slice() {
        [] => None,
        words => Some(NamedObject::parse(words)?),
    };
    let to = arguments
        .to
        .as_deref()
        .map(Destination::parse)
        .transpose()?;
    let server = Server::find(&arguments.server).await?;
    let namespace = arguments.namespace.as_deref();
    let now = Timestamp::now();
    let (text, json) = match (target, to) {
        (Some(target), Some(to)) => {
            if target.target_kind() != Some(TargetKind::Pod) {
                bail!("--to asks about the connections of a pod: mainstay why pod/NAME --to …");
            }
            let namespace = namespace.unwrap_or(server.namespace());
            let to_namespace = arguments.to_namespace.as_deref().unwrap_or(namespace);
            let client = (namespace, target.name.as_str());
            let answer = connection::ask(&server, client, &to, to_namespace).await?;
            (answer.text(), answer.json())
        }
        (Some(target), None) => {
            let namespace = namespace.unwrap_or(server.namespace()).to_owned();
            let answer = match target.target_kind() {
                Some(kind) => {
                    let name = target.name;
                    ask(&server, &WhyTarget { kind, name }, &namespace, now).await?
                }
                None => other_kinds::ask(&server, &target, &namespace, now).await?,
            };
            (answer.text(now), answer.json())
        }
        (None, _) => {
            let reach = namespace.map_or(NamespaceScope::Readable, |name| {
                NamespaceScope::One(name.to_owned())
            });
            let found = read_all(&server, &reach, now).await?;
            let mut answer = overview(&found, &reach, now);
            let note = logs::attach(&server.client, &mut answer.answers).await;
            answer.notes.extend(note);
            (answer.text(now), answer.json())
        }
    };
    match arguments.output {
        OutputFormat::Text => console::output::show(&text),
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&json).context("encode the answer")?;
            console::output::say(&json);
        }
    }
    Ok(())
}

async fn ask(
    server: &Server,
    target: &WhyTarget,
    namespace: &str,
    now: Timestamp,
) -> Result<Explanation> {
    // The events of a namespace name objects in it.
    let namespace = match target.kind {
        TargetKind::Namespace => target.name.as_str(),
        _ => namespace,
    };
    let scope = Scope::Object(target.kind, namespace);
    let read = cluster_objects::read(&server.client, scope, now).await;
    let found = read.map_err(|error| server.explain(error))?;
    let evidence = found.namespaces.first().context("read the namespace")?;
    let Some(mut answer) = explain(target.kind, &target.name, evidence) else {
        other_kinds::check_readable(server, target, namespace).await?;
        let kind = target.kind.kind();
        let name = &target.name;
        let others = cluster_objects::names(evidence, target.kind);
        let place = match target.kind.is_namespaced() {
            true => format!(" in namespace {namespace:?}"),
            false => String::new(),
        };
        bail!("{kind} {name:?} not found{place}: {others}");
    };
    answer.notes.extend(found.unread);
    let note = logs::attach(&server.client, std::slice::from_mut(&mut answer)).await;
    answer.notes.extend(note);
    Ok(answer)
}

/// All waiting objects, out of those that were read.
pub fn overview(found: &ClusterObjects, reach: &NamespaceScope, now: Timestamp) -> Overview {
    let mut all = match reach {
        NamespaceScope::All | NamespaceScope::Readable => {
            Overview::of_cluster(&found.cluster, &found.namespaces, now)
        }
        NamespaceScope::One(_) => Overview::default(),
    };
    for evidence in &found.namespaces {
        all = all.and(Overview::of_namespace(evidence));
    }
    all.notes.extend(found.unread.iter().cloned());
    all
}

#[cfg(test)]
mod tests;
