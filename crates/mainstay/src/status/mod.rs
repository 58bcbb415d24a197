//! `mainstay status`: an overview on one screen.
//!
//! `found` reads, `model` and `workloads` choose the shown objects, `render` formats them.

mod model;
mod objects;
mod render;
mod workloads;

use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use resource_kinds::ClusterConfig;

use crate::output::say;
use crate::pod_row::PodRows;
use crate::settings::{DataDirectory, program};
use crate::terminal;
use crate::why::{Reach, Server, overview};
use model::{ServerStatus, status};
use objects::read;
use render::Call;

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
    output: Form,
    /// Kubeconfig of server and user [default: as `mainstay why`]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    data: DataDirectory,
}

const AFTER_HELP: &str = "\
USED of a claim is shown if its volume has a file system of its own. Exit status: 0 with an
answer, 1 without.

Examples:
  mainstay status
  mainstay status -n shop
  mainstay status -o json";

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// Prints the overview.
pub async fn run(arguments: StatusArguments) -> Result<()> {
    let server = Server::find(arguments.kubeconfig.as_deref(), &arguments.data).await?;
    let kubeconfig = arguments.kubeconfig.as_deref();
    let kubeconfig = kubeconfig.map(|path| format!(" --kubeconfig {}", path.display()));
    let call = Call {
        program: program(),
        options: kubeconfig.unwrap_or_else(|| arguments.data.options()),
    };
    let reach = match arguments.namespace {
        Some(namespace) => Reach::One(namespace),
        None if arguments.all_namespaces => Reach::All,
        None => Reach::Readable,
    };
    let now = Timestamp::now();
    let found = read(&server, &reach, now).await?;
    let overview = overview(&found.objects, &reach, now);
    let kinds = resource_kinds::all(&ClusterConfig::default());
    let pods = kinds.iter().find(|kind| kind.info().kind == "Pod");
    let rows = pods.and_then(|kind| PodRows::new(kind.as_ref()));
    let rows = rows.context("the Pod kind lacks a column")?;
    let about = ServerStatus {
        url: server.url().to_owned(),
        version: found.version.clone(),
        data_directory: server
            .data_directory()
            .map(|path| path.display().to_string()),
    };
    let status = status(about, &found, &overview, &rows, now);
    match arguments.output {
        Form::Json => {
            let text = serde_json::to_string_pretty(&status).context("encode the status")?;
            say(&text);
        }
        Form::Text => {
            let width = terminal::size().map(|size| size.width);
            say(&render::lines(&status, &call, width).join("\n"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
