//! `mainstay why`: prints the result of `diagnosis` for an object, for a connection, or for all objects that
//! wait.

mod target;

use anyhow::{Context, Result, bail};
use clap::error::{Error, ErrorKind};
use cluster_inspection::{
    NamespaceScope, explain_all, explain_connection, explain_object, explain_other_kind,
};
use command_output::output::OutputFormat;
use diagnosis::TargetKind;
use diagnosis::connection::{Destination, DestinationError};
use jiff::Timestamp;

use crate::settings::ServerArguments;
use target::NamedObject;

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

/// Prints why the object waits, or that it does not; without an object, prints all objects that wait.
pub async fn run(arguments: WhyArguments) -> Result<()> {
    let target = match arguments.target.as_slice() {
        [] => None,
        words => Some(NamedObject::parse(words)?),
    };
    let to = arguments
        .to
        .as_deref()
        .map(Destination::parse)
        .transpose()
        .map_err(|error: DestinationError| mistake(error.to_string()))?;
    let server = arguments.server.find().await?;
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
            let diagnosis_result = explain_connection(&server, client, &to, to_namespace).await?;
            (diagnosis_result.text(), diagnosis_result.json())
        }
        (Some(target), None) => {
            let namespace = namespace.unwrap_or(server.namespace()).to_owned();
            let diagnosis_result = match target.target_kind() {
                Some(kind) => explain_object(&server, kind, &target.name, &namespace, now).await?,
                None => {
                    let (kind, name) = (&target.kind, &target.name);
                    let explanation =
                        explain_other_kind(&server, kind, name, &namespace, now).await?;
                    explanation.ok_or_else(|| target.unknown_kind())?
                }
            };
            (diagnosis_result.text(now), diagnosis_result.json())
        }
        (None, _) => {
            let reach = namespace.map_or(NamespaceScope::Readable, |name| {
                NamespaceScope::One(name.to_owned())
            });
            let diagnosis_result = explain_all(&server, &reach, now).await?;
            (diagnosis_result.text(now), diagnosis_result.json())
        }
    };
    match arguments.output {
        OutputFormat::Text => command_output::output::print_text(&text),
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&json).context("encode the answer")?;
            command_output::output::print_line(&json);
        }
    }
    Ok(())
}

fn mistake(text: String) -> Error {
    Error::raw(ErrorKind::InvalidValue, text + "\n")
}
