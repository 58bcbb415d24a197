//! `mainstay volume`: the volumes of claims.
//!
//! `objects` reads, `model` chooses the shown facts, `render` formats it. `moving` requests a move, `draining`
//! those of all volumes of a node.

mod draining;
mod model;
mod moving;
mod objects;
mod render;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use clap::Subcommand;
use console::output::{say, show, warn};
use jiff::Timestamp;

use crate::settings::ServerArguments;
use crate::why::Server;
use objects::Namespaces;
use render::Columns;

/// Arguments of `mainstay volume`.
#[derive(clap::Args, Debug)]
pub struct VolumeArguments {
    #[command(subcommand)]
    action: VolumeAction,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Subcommand, Debug)]
enum VolumeAction {
    /// List claims with their volumes: class, node, size, usage, snapshots and pods
    #[command(visible_alias = "list", after_help = LIST_HELP)]
    Ls(ListArguments),
    /// Move the volume of a claim to another node, with its files
    #[command(after_help = moving::MOVE_HELP)]
    Move(moving::MoveArguments),
    /// Move all volumes of a node to other nodes, with their files
    #[command(after_help = draining::DRAIN_HELP)]
    Drain(draining::DrainArguments),
}

/// Arguments of `mainstay volume ls`.
#[derive(clap::Args, Debug)]
struct ListArguments {
    /// Namespace [default: that of the context, else default]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    output: Form,
}

const LIST_HELP: &str = "\
Columns: NAME and STATUS of the claim, CLASS, VOLUME, the NODE with the data (<any> for a volume
on no node), REQUEST and USED bytes, whether the size is ENFORCED, the number of SNAPSHOTS and the
age of the NEWEST, and the PODS with the claim. -o wide adds CAPACITY, MODE, ACCESS and RECLAIM,
and for volumes with a replica its node (REPLICA), the age of its last complete copy (LAG), and
the kept states of former primaries (DIVERGED). Facts that are not known are shown as `-`. The
nodes measure volumes of the classes local and local-cow every 30 seconds, large ones less often.

Exit status: 0 with an answer, 1 without.

Examples:
  mainstay volume ls
  mainstay volume ls -A
  mainstay volume ls -n shop -o wide
  mainstay volume ls -o json";

/// The format of the list.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Wide,
    Json,
    Yaml,
}

/// Runs `mainstay volume ls`, `move` or `drain`.
pub async fn run(arguments: VolumeArguments) -> Result<()> {
    let server = Server::find(&arguments.server).await?;
    match arguments.action {
        VolumeAction::Ls(arguments) => list(&server, arguments).await,
        VolumeAction::Move(arguments) => moving::run(&server, arguments).await,
        VolumeAction::Drain(arguments) => draining::run(&server, arguments).await,
    }
}

async fn list(server: &Server, arguments: ListArguments) -> Result<()> {
    let namespaces = match (arguments.all_namespaces, arguments.namespace) {
        (true, _) => Namespaces::All,
        (false, Some(name)) => Namespaces::One(name),
        (false, None) => Namespaces::One(server.namespace().to_owned()),
    };
    let found = objects::read(server, &namespaces).await?;
    let list = model::list(&found);
    let columns = match arguments.output {
        Form::Table => Columns::Usual,
        Form::Wide => Columns::Wide,
        Form::Json | Form::Yaml => {
            let value = json_tree::to_value(&list).context("encode the list")?;
            if arguments.output == Form::Yaml {
                show(&serde_saphyr::to_string(&value).context("encode the list")?);
            } else {
                say(&serde_json::to_string_pretty(&value).context("encode the list")?);
            }
            return Ok(());
        }
    };
    if list.claims.is_empty() {
        warn(&match &namespaces {
            Namespaces::All => "No claims found.".to_owned(),
            Namespaces::One(name) => format!("No claims found in namespace {name}."),
        });
    } else {
        let with_namespaces = namespaces == Namespaces::All;
        let text = render::table(&list.claims, columns, with_namespaces, Timestamp::now());
        show(&text);
    }
    for note in &list.notes {
        warn(&format!("Note: {note}"));
    }
    Ok(())
}
