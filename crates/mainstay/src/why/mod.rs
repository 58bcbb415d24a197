//! `mainstay why`: asks any Kubernetes API for what `planners::diagnosis` needs, and prints its
//! answer.

mod evidence;
mod expiry;
mod server;
mod target;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use planners::diagnosis::{Explanation, explain};

use crate::settings::DataDirectory;
pub use server::Server;
use target::Target;

/// Arguments of `mainstay why`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct WhyArguments {
    /// KIND/NAME or KIND NAME; kinds: statefulset (sts), pod (po), persistentvolumeclaim (pvc)
    #[arg(required = true, num_args = 1..=2, value_name = "KIND/NAME")]
    target: Vec<String>,
    /// Namespace [default: the context's, else default]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    output: Form,
    /// Which server and user [default: that of --data-dir if given, else $KUBECONFIG, else that of
    /// the default data directory, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    data: DataDirectory,
}

const AFTER_HELP: &str = "\
Exit status: 0 with an answer, be it that something waits or that nothing does (-o json: .state);
1 if there is no such object or no answer from the server; 2 if the question was not understood.

Examples:
  mainstay why sts/web
  mainstay why pod web-1 -n shop
  mainstay why pvc/www-web-0 -o json";

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// Prints why the object waits, or that it does not.
pub async fn run(arguments: WhyArguments) -> Result<()> {
    let target = Target::parse(&arguments.target)?;
    let server = Server::find(arguments.kubeconfig.as_deref(), &arguments.data).await?;
    let namespace = arguments.namespace.as_deref();
    let namespace = namespace.unwrap_or(server.namespace()).to_owned();
    let answer = ask(&server, &target, &namespace, Timestamp::now()).await?;
    match arguments.output {
        Form::Text => crate::output::show(&answer.text(Timestamp::now())),
        Form::Json => {
            let json = serde_json::to_string_pretty(&answer.json()).context("encode the answer")?;
            crate::output::say(&json);
        }
    }
    Ok(())
}

async fn ask(
    server: &Server,
    target: &Target,
    namespace: &str,
    now: Timestamp,
) -> Result<Explanation> {
    let read = evidence::read(&server.client, namespace, now).await;
    let (evidence, unread) = read.map_err(|error| server.explain(error))?;
    let Some(mut answer) = explain(target.kind, &target.name, &evidence) else {
        let kind = target.kind.kind();
        let name = &target.name;
        let others = evidence::names(&evidence, target.kind);
        bail!("{kind} {name:?} not found in namespace {namespace:?}: {others}");
    };
    answer.notes.extend(unread);
    Ok(answer)
}

#[cfg(test)]
mod tests;
