//! `mainstay plan`: the rollout of a StatefulSet before it happens.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::error::{Error, ErrorKind};
use command_output::output::{OutputFormat, print_line, print_text, warn};
use diagnosis::TargetKind;
use jiff::Timestamp;
use rollout_forecast::{Question, Versions, apply, look};

use crate::settings::{ServerArguments, program};

/// Arguments of `mainstay plan`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct PlanArguments {
    /// The StatefulSet: sts/NAME
    #[arg(value_name = "sts/NAME", value_parser = set_name)]
    set: String,
    /// Manifests of the set and of StatefulSetPolicies: a file, a directory, or - for standard input; repeatable; without it,
    /// the rest of the present rollout
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Namespace [default: that of the context, else default]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Store the manifests, if the set and its policy still have these versions, which the plan printed
    #[arg(long, value_name = "VERSIONS", requires = "filename")]
    apply: Option<Versions>,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerArguments,
}

const AFTER_HELP: &str = "\
The server checks the manifests with a dry run, as `kubectl apply` would store them; then the plan
of the set's controller is computed until the rollout ends, as if each new pod becomes available.
Nothing is stored without --apply. Needed are the rights to read the set, its pods, claims,
revisions and policies, and to write what the manifests have.

Exit status: 0 if nothing changes, 1 if something changes, 2 after an error. With --apply: 0 if the
manifests are stored, 2 after an error.

Examples:
  mainstay plan sts/web -f web.yaml
  helm template shop ./chart | mainstay plan sts/db -f -
  mainstay plan sts/web -f web.yaml -o json
  mainstay plan sts/web -f web.yaml --apply 1234";

/// The name in `sts/NAME`.
fn set_name(word: &str) -> Result<String, String> {
    let example = "a StatefulSet is expected, for instance sts/web";
    let (kind, name) = word.split_once('/').ok_or(example)?;
    match TargetKind::called(kind) {
        Some(TargetKind::StatefulSet) if !name.is_empty() && !name.contains('/') => {
            Ok(name.to_owned())
        }
        _ => Err(example.to_owned()),
    }
}

/// Whether the plan has changes that are not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanOutcome {
    Nothing,
    Changes,
}

/// Prints the plan, or stores the manifests.
pub async fn run(arguments: PlanArguments) -> Result<PlanOutcome> {
    let manifests = manifest_apply::read_all(&arguments.filename)?;
    let server = arguments.server.find().await?;
    let namespace = arguments.namespace.as_deref().unwrap_or(server.namespace());
    if namespace.contains('/') || namespace.is_empty() {
        let text = format!("{namespace:?} is no name of a namespace\n");
        let mistake: Error = Error::raw(ErrorKind::InvalidValue, text);
        return Err(mistake.into());
    }
    let question = Question {
        namespace,
        name: &arguments.set,
        manifests: &manifests,
    };
    let seen = look(&server, question, Timestamp::now()).await?;
    if let Some(planned) = &arguments.apply {
        for warning in apply(&server, &seen, planned).await? {
            warn(&format!("Warning: {warning}"));
        }
        print_line(&format!("statefulset.apps/{} configured", arguments.set));
        return Ok(PlanOutcome::Nothing);
    }
    match arguments.output {
        OutputFormat::Text => {
            let has_manifests = !manifests.is_empty();
            let command = has_manifests.then(|| arguments.apply_command(&seen.report.versions));
            print_text(&seen.report.text(command.as_deref()));
        }
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&seen.report).context("encode the plan")?;
            print_line(&json);
        }
    }
    Ok(match seen.report.has_changes() {
        true => PlanOutcome::Changes,
        false => PlanOutcome::Nothing,
    })
}

impl PlanArguments {
    /// The command that stores the manifests of this command.
    fn apply_command(&self, versions: &str) -> String {
        let files = self.filename.iter();
        let files: String = files
            .map(|file| format!(" -f {}", file.display()))
            .collect();
        let namespace = self.namespace.as_ref();
        let namespace = namespace.map_or_else(String::new, |name| format!(" -n {name}"));
        let (program, options) = (program(), self.server.options());
        format!(
            "{program} plan sts/{}{namespace}{files}{options} --apply {versions}",
            self.set
        )
    }
}
