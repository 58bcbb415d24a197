//! `mainstay complete`: the names on the server with which shells complete words. A shell waits for the
//! output, so an unreachable server means no names and no error.

use std::time::Duration;

use clap::{Command, Parser};
use command_output::output::print_line;
use diagnosis::TargetKind;
use kube_api_client::{Api, ApiResource, DynamicObject, ListParams, ResourceExt};

use crate::logs;
use crate::settings::ServerArguments;

/// Timeout of the request: the user does not wait longer for names.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of requested names.
const NAMES_MAX: u32 = 500;
/// The commands with arguments that may be names on the server.
const COMMANDS: [&str; 5] = ["why", "plan", "logs", "status", "volume"];

/// Arguments of `mainstay complete`.
#[derive(clap::Args, Debug)]
pub struct CompleteArguments {
    /// The words after the program, up to the one that is completed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Completion {
    /// The names of the kinds; the name of an object follows after `/`.
    Kind(Vec<&'static str>),
    /// The name of an object, after a prefix in the same word.
    Name(TargetKind, String),
}

/// The options that name the server and the namespace.
#[derive(Parser, Debug)]
#[command(no_binary_name = true)]
struct Options {
    #[arg(long)]
    namespace: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
}

/// Prints the completions of the last word, one per line.
pub async fn run(arguments: &CompleteArguments, program: &Command) {
    let Some((completion, options)) = read(&arguments.words, program) else {
        return;
    };
    match completion {
        Completion::Kind(kinds) => kinds
            .iter()
            .for_each(|kind| print_line(&format!("{kind}/"))),
        Completion::Name(kind, before) => {
            let names = tokio::time::timeout(TIMEOUT, names(kind, &options)).await;
            for name in names.ok().flatten().unwrap_or_default() {
                print_line(&format!("{before}{name}"));
            }
        }
    }
}

/// The completion of the last word. `None` if the generated completions of the shell suffice.
fn read(words: &[String], program: &Command) -> Option<(Completion, Options)> {
    // bash passes the `=` between an option and its value as a separate word.
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.retain(|word| *word != "=");
    let (last, words) = words.split_last()?;
    let (name, words) = words.split_first()?;
    let mut command = program.find_subcommand(name)?;
    let command_name = COMMANDS
        .into_iter()
        .find(|one| *one == command.get_name())?;
    let mut options = Vec::new();
    let mut positions = Vec::new();
    let mut open = None;
    for word in words {
        if let Some(option) = open.take() {
            options.push(format!("--{option}={word}"));
        } else if let Some((option, value)) = option(command, word) {
            match value {
                Some(value) => options.push(format!("--{option}={value}")),
                None => open = Some(option),
            }
        } else if let Some(inner) = command.find_subcommand(word) {
            command = inner;
        } else if !word.starts_with('-') {
            positions.push(*word);
        }
    }
    let used = ["--namespace=", "--kubeconfig=", "--data-dir=", "--config="];
    options.retain(|option| used.iter().any(|used| option.starts_with(used)));
    let options = Options::try_parse_from(options).ok()?;
    let completion = match (open.as_deref(), command_name) {
        (Some("namespace"), _) => Completion::Name(TargetKind::Namespace, String::new()),
        (Some(_), _) => return None,
        (None, _) if last.starts_with('-') => {
            let value = last.strip_prefix("--namespace=")?;
            let before = last.strip_suffix(value).unwrap_or_default();
            Completion::Name(TargetKind::Namespace, before.to_owned())
        }
        (None, "status" | "volume") => return None,
        (None, "plan") => object(last, &positions, &[TargetKind::StatefulSet])?,
        (None, "logs") => object(last, &positions, logs::KINDS)?,
        (None, _) => object(last, &positions, &TargetKind::ALL)?,
    };
    Some((completion, options))
}

/// The long name of an option that takes a value, and the value if it is in the same word.
fn option(command: &Command, word: &str) -> Option<(String, Option<String>)> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    let mut arguments = command.get_arguments().filter(|argument| {
        let short = argument.get_short().map(|short| format!("-{short}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        argument.get_action().takes_values()
            && [short, long].into_iter().flatten().any(|one| one == name)
    });
    let long = arguments.next()?.get_long()?;
    Some((long.to_owned(), value))
}

/// The completion of `sts/web`, or of `web` after the word `sts`.
fn object(last: &str, before: &[&str], kinds: &[TargetKind]) -> Option<Completion> {
    let kind = |word: &str| TargetKind::called(word).filter(|kind| kinds.contains(kind));
    match (before, last.split_once('/')) {
        ([], Some((word, _))) => Some(Completion::Name(kind(word)?, format!("{word}/"))),
        ([], None) => {
            let kinds = kinds.iter().map(|kind| kind.short());
            Some(Completion::Kind(kinds.collect()))
        }
        ([word], None) if !word.contains('/') => Some(Completion::Name(kind(word)?, String::new())),
        _ => None,
    }
}

/// The names of the server's objects of a kind.
async fn names(kind: TargetKind, options: &Options) -> Option<Vec<String>> {
    let server = options.server.find().await;
    let server = server.ok()?;
    // All of these kinds have this version.
    let resource = ApiResource::new(kind.group(), "v1", kind.kind(), kind.plural());
    let client = server.client.clone();
    let namespace = options.namespace.as_deref().unwrap_or(server.namespace());
    let api: Api<DynamicObject> = match kind.is_namespaced() {
        true => Api::namespaced_with(client, namespace, &resource),
        false => Api::all_with(client, &resource),
    };
    let limited = ListParams::default().limit(NAMES_MAX);
    let list = api.list_metadata(&limited).await.ok()?;
    Some(list.items.iter().map(ResourceExt::name_any).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn completion_of(line: &str) -> Option<Completion> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut program = crate::CommandLine::command();
        program.build();
        read(&words, &program).map(|(completion, _)| completion)
    }

    fn name(kind: TargetKind, before: &str) -> Option<Completion> {
        Some(Completion::Name(kind, before.to_owned()))
    }

    /// findings U11
    #[test]
    fn names_are_completed_where_they_may_stand() {
        use TargetKind as Kind;
        for (line, expected) in [
            ("why sts/", name(Kind::StatefulSet, "sts/")),
            (
                "why statefulsets/we",
                name(Kind::StatefulSet, "statefulsets/"),
            ),
            ("why sts ", name(Kind::StatefulSet, "")),
            ("why -n shop pod/", name(Kind::Pod, "pod/")),
            ("why --data-dir /d -o json pvc/", name(Kind::Claim, "pvc/")),
            ("why -n ", name(Kind::Namespace, "")),
            ("status --namespace = sh", name(Kind::Namespace, "")),
            ("ps --namespace=sh", name(Kind::Namespace, "--namespace=")),
            ("volume ls -n ", name(Kind::Namespace, "")),
            ("volume ls --namespace sh", name(Kind::Namespace, "")),
            ("volume ls -o ", None),
            ("volume ls ", None),
            ("volume ", None),
            ("logs -f deploy/", name(Kind::Deployment, "deploy/")),
            ("plan ", Some(Completion::Kind(vec!["sts"]))),
            ("plan -f web.yaml sts/", name(Kind::StatefulSet, "sts/")),
            ("logs svc/", None),
            ("logs sts/web ", None),
            ("why sts/web ", None),
            ("why secret/", None),
            ("why --data-dir ", None),
            ("why --kube", None),
            ("status ", None),
            ("up ", None),
            ("nothing ", None),
            ("", None),
        ] {
            assert_eq!(completion_of(line), expected, "{line:?}");
        }
        let Some(Completion::Kind(kinds)) = completion_of("logs ") else {
            panic!("no kinds");
        };
        assert_eq!(kinds, ["pod", "sts", "deploy", "ds", "rs", "job"]);
    }

    /// findings U11: the other words may name the server.
    #[test]
    fn options_name_the_server() {
        let words = ["why", "--data-dir", "/d", "-n=shop", "sts/"].map(str::to_owned);
        let mut program = crate::CommandLine::command();
        program.build();
        let (_, options) = read(&words, &program).unwrap();
        assert_eq!(options.namespace.as_deref(), Some("shop"));
        assert_eq!(options.server.data.path().unwrap(), Path::new("/d"));
    }
}
