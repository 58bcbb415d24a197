//! `mainstay status`: an overview of the cluster on one screen.

use anyhow::{Context, Result};
use cluster_inspection::pod_row::PodRows;
use cluster_inspection::status::{Call, ServerStatus, lines, read, status};
use cluster_inspection::{NamespaceScope, overview};
use command_output::output::{OutputFormat, print_line};
use command_output::terminal;
use jiff::Timestamp;
use resource_kinds::ClusterConfig;

use crate::settings::{ServerArguments, program};

/// Arguments of `mainstay status`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct StatusArguments {
    /// Namespace [default: all that you may read]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// All namespaces; an error if you may not read them
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerArguments,
}

const AFTER_HELP: &str = "\
USED of a claim is known for the classes local and local-cow, and for volumes with a file system
of their own. Exit status: 0 with an answer, 1 without.

Examples:
  mainstay status
  mainstay status -n shop
  mainstay status -o json";

/// Prints the state of the cluster: text, or JSON with `-o json`.
pub async fn run(arguments: StatusArguments) -> Result<()> {
    let server = arguments.server.find().await?;
    let call = Call {
        program: program(),
        options: arguments.server.options(),
    };
    let reach = match arguments.namespace {
        Some(namespace) => NamespaceScope::One(namespace),
        None if arguments.all_namespaces => NamespaceScope::All,
        None => NamespaceScope::Readable,
    };
    let now = Timestamp::now();
    let snapshot = read(&server, &reach, now).await?;
    let overview = overview(&snapshot.objects, &reach, now);
    let kinds = resource_kinds::all(&ClusterConfig::default());
    let pods = kinds.iter().find(|kind| kind.info().kind == "Pod");
    let rows = pods.and_then(|kind| PodRows::new(kind.as_ref()));
    let rows = rows.context("the Pod kind lacks a column")?;
    let nodes = snapshot.objects.cluster.nodes.as_ref();
    let rows = rows.with_nodes(nodes.is_some_and(|nodes| nodes.len() > 1));
    let about = ServerStatus {
        url: server.url().to_owned(),
        version: snapshot.version.clone(),
        data_directory: server
            .data_directory()
            .map(|path| path.display().to_string()),
    };
    let status = status(about, &snapshot, &overview, &rows, now);
    match arguments.output {
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&status).context("encode the status")?;
            print_line(&text);
        }
        OutputFormat::Text => {
            let width = terminal::size().map(|size| size.width);
            print_line(&lines(&status, &call, width).join("\n"));
        }
    }
    Ok(())
}
