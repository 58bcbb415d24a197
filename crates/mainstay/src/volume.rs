//! `mainstay volume`: the volumes of claims, and their moves to other nodes.

use anyhow::{Context, Result};
use clap::Subcommand;
use cluster_inspection::Server;
use cluster_inspection::volumes::{self, ClaimNamespaces, Columns};
use command_output::output::{print_line, print_text, warn};
use jiff::Timestamp;
use node_drain::{VolumeDrain, VolumeMoveRequest};

use crate::settings::ServerArguments;

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
    #[command(after_help = MOVE_HELP)]
    Move(MoveArguments),
    /// Move all volumes of a node to other nodes, with their files
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArguments),
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

/// Arguments of `mainstay volume move`.
#[derive(clap::Args, Debug)]
struct MoveArguments {
    /// The PersistentVolumeClaim
    #[arg(value_name = "CLAIM")]
    claim: String,
    /// The node that gets the volume
    #[arg(long, value_name = "NODE", required_unless_present = "cancel")]
    to: Option<String>,
    /// Namespace [default: that of the context, else default]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Abandon a move that is in progress; the volume stays where it was
    #[arg(long, conflicts_with = "to")]
    cancel: bool,
}

const MOVE_HELP: &str = "\
The volume must be of the class local or local-cow, with files (volumeMode Filesystem) and without
snapshots. A volume of local-cow is copied while its pods run; after they have ended, only the
changes since then are copied. The pods that use the claim are evicted, as by kubectl drain:
budgets (PodDisruptionBudget) are respected, and a pod without a controller is refused, because
nothing would start it again. No pod of the claim is scheduled until the files are on the other
node. Files, owners, modes, times, links, holes and extended attributes are kept; device nodes are
refused, and sockets of the class local are left out.

The command evicts the pods; the server does the rest, and continues when the command is stopped.
The same command shows the progress again. Until the volume is placed on the other node, --cancel
abandons the move.

Exit status: 0 when the volume is on the node, 1 otherwise.

Examples:
  mainstay volume move data-db-0 --to node-2
  mainstay volume move data-db-0 --to node-2 -n shop
  mainstay volume move data-db-0 --cancel";

/// Arguments of `mainstay volume drain`.
#[derive(clap::Args, Debug)]
struct DrainArguments {
    /// The node that gives its volumes away
    #[arg(value_name = "NODE")]
    node: String,
    /// The node that gets them [default: for each, the node with the fewest volumes]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Move the volumes that can be moved, and leave the others
    #[arg(long)]
    force: bool,
}

const DRAIN_HELP: &str = "\
Cordons the node, and moves its volumes of the classes local and local-cow to other nodes, one
after another, each as `mainstay volume move` does: the pods of a volume are evicted and start on
the other node with its files. Volumes without a bound claim stay. If a volume cannot be moved,
the command changes nothing and names the reasons; --force moves the others. Afterwards, kubectl
drain evicts the pods that are left. The command can be stopped and repeated.

Exit status: 0 when no volume of a claim is left on the node, 1 otherwise.

Examples:
  mainstay volume drain node-2
  mainstay volume drain node-2 --to node-3";

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Wide,
    Json,
    Yaml,
}

/// Runs `mainstay volume ls`, `move` or `drain`.
pub async fn run(arguments: VolumeArguments) -> Result<()> {
    let server = arguments.server.find().await?;
    match arguments.action {
        VolumeAction::Ls(arguments) => list(&server, arguments).await,
        VolumeAction::Move(arguments) => {
            let default_namespace = || server.namespace().to_owned();
            let request = VolumeMoveRequest {
                namespace: arguments.namespace.unwrap_or_else(default_namespace),
                claim: arguments.claim,
                // The command line requires either --to or --cancel.
                to: arguments.to,
            };
            Ok(request.run(&server).await?)
        }
        VolumeAction::Drain(arguments) => {
            let DrainArguments { node, to, force } = arguments;
            let drain = VolumeDrain { node, to, force };
            Ok(drain.run(&server).await?)
        }
    }
}

async fn list(server: &Server, arguments: ListArguments) -> Result<()> {
    let namespaces = match (arguments.all_namespaces, arguments.namespace) {
        (true, _) => ClaimNamespaces::All,
        (false, Some(name)) => ClaimNamespaces::One(name),
        (false, None) => ClaimNamespaces::One(server.namespace().to_owned()),
    };
    let listed = volumes::read(server, &namespaces).await?;
    let list = volumes::list(&listed);
    let columns = match arguments.output {
        Form::Table => Columns::Usual,
        Form::Wide => Columns::Wide,
        Form::Json | Form::Yaml => {
            let value = json_tree::to_value(&list).context("encode the list")?;
            if arguments.output == Form::Yaml {
                print_text(&serde_saphyr::to_string(&value).context("encode the list")?);
            } else {
                print_line(&serde_json::to_string_pretty(&value).context("encode the list")?);
            }
            return Ok(());
        }
    };
    if list.claims.is_empty() {
        warn(&match &namespaces {
            ClaimNamespaces::All => "No claims found.".to_owned(),
            ClaimNamespaces::One(name) => format!("No claims found in namespace {name}."),
        });
    } else {
        let with_namespaces = namespaces == ClaimNamespaces::All;
        let text = volumes::table(&list.claims, columns, with_namespaces, Timestamp::now());
        print_text(&text);
    }
    for note in &list.notes {
        warn(&format!("Note: {note}"));
    }
    Ok(())
}
