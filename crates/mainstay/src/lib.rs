//! `mainstay`: runs stateful applications, speaking the Kubernetes API. This file parses the
//! command line and hands over; the work is in the libraries that ARCHITECTURE.md maps.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod bench;
// The build script uses this module; the program has only its tests.
#[cfg(test)]
mod commit;
mod complete;
mod down;
mod hello;
mod image;
mod install;
mod kubeconfig;
mod logs;
mod manual;
mod migrate;
mod node;
mod node_parts;
mod own_node;
mod plan;
mod server;
mod service_manager;
mod settings;
mod status;
mod stop;
mod store;
mod token;
mod up;
mod version;
mod volume;
mod why;

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use host_kernel::{allocator, descriptors};

/// Runs stateful applications on one machine or several: a Kubernetes API server, its controllers
/// and a node agent in one program
#[derive(Parser)]
#[command(name = "mainstay", version = concat!(env!("CARGO_PKG_VERSION")), about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server: API, controllers and node in one process; apply manifests
    Up(Box<up::UpArguments>),
    /// Start the API, the controllers and the scheduler of a cluster with nodes on other machines
    Server(Box<server::ServerRoleArguments>),
    /// Join the cluster of a server on another machine, and run its pods
    Node(Box<node::NodeArguments>),
    /// Stop the server and its pods, also after a crash; delete the data on request
    Down(down::DownArguments),
    /// Write the instance to a backup file; the server may be running or stopped
    Backup(backup::BackupArguments),
    /// Restore a backup into an empty data directory, on any path and host
    Restore(backup::RestoreArguments),
    /// Move the objects of a cluster between a data directory and etcd, or save and restore them
    Store(store::StoreCommandArguments),
    /// Import, list, remove and pull images
    Image(image::ImageArguments),
    /// Print the administrator's kubeconfig, or merge it into your own
    Kubeconfig(kubeconfig::KubeconfigArguments),
    /// Show the server, StatefulSets with their pods and claims, and other workloads
    #[command(alias = "ps")]
    Status(status::StatusArguments),
    /// Explain why an object waits, and print the commands that resolve it
    Why(why::WhyArguments),
    /// Show the rollout of a StatefulSet before it happens: which pods restart in which order
    Plan(plan::PlanArguments),
    /// Print or follow the logs of all pods of a workload
    Logs(logs::LogsArguments),
    /// List the volumes of claims, and move them to other nodes
    Volume(volume::VolumeArguments),
    /// Write the objects of CustomResourceDefinitions in their storage version
    Migrate(migrate::MigrateArguments),
    /// Create, list and delete the tokens by which new nodes ask for certificates
    Token(token::TokenArguments),
    /// Measure a disk with the writes of a database
    Bench(bench::BenchArguments),
    /// Install the program, man pages, shell completions and the systemd service
    Install(install::InstallArguments),
    /// Remove the installed files; data is kept
    Uninstall(install::UninstallArguments),
    /// Print the completion script of a shell
    Completion(manual::CompletionArguments),
    /// Print the man page, or write the man pages of all commands
    Man(manual::ManArguments),
    /// Print the version of the program and of the served API
    Version(version::VersionArguments),
    /// Print the completions of a word of the command line
    #[command(hide = true)]
    Complete(complete::CompleteArguments),
    /// The program of the built-in image mainstay/hello
    #[command(hide = true)]
    Hello(hello::HelloArguments),
}

/// Runs the program with the command line of this process.
pub fn main() -> ExitCode {
    // In the built-in images the program has many names.
    if let Some(status) = debug_tools::run(std::env::args_os()) {
        return status;
    }
    // The shim must be the only thread of its process.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
        return container_runtime::shim::main(arguments);
    }
    kube_api_server::set_git_commit(env!("MAINSTAY_COMMIT"));
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Prints an error; exit code 2 for an error in the command line, else 1. A command whose exit status is its answer has
/// printed everything.
fn failure(error: &anyhow::Error) -> ExitCode {
    if let Some(ExitStatus(status)) = error.downcast_ref() {
        return ExitCode::from(*status);
    }
    match error.downcast_ref::<clap::Error>() {
        Some(mistake) => {
            mistake.print().ok();
            ExitCode::from(2)
        }
        None => {
            command_output::output::warn(&format!("mainstay: {error:#}{}", advice(error)));
            ExitCode::FAILURE
        }
    }
}

/// The exit status of a command that answers with it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("exit status {0}")]
struct ExitStatus(u8);

/// The exit status of `mainstay plan`: 0 if nothing changes, 1 if something changes, 2 for an error.
async fn plan(arguments: plan::PlanArguments) -> Result<()> {
    match plan::run(arguments).await {
        Ok(plan::PlanOutcome::Nothing) => Ok(()),
        Ok(plan::PlanOutcome::Changes) => Err(ExitStatus(1).into()),
        Err(error) => {
            failure(&error);
            Err(ExitStatus(2).into())
        }
    }
}

/// The advice for an error that only a user without the rights of root gets.
fn advice(error: &anyhow::Error) -> &'static str {
    let is_denied = error.chain().any(|cause| {
        let kind = cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        let number = cause.downcast_ref::<nix::errno::Errno>();
        kind == Some(std::io::ErrorKind::PermissionDenied)
            || number == Some(&nix::errno::Errno::EPERM)
    });
    match is_denied && !nix::unistd::geteuid().is_root() {
        true => {
            " (the data of mainstay belongs to root: use sudo, or another directory with --data-dir)"
        }
        false => "",
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(arguments) => serve(Box::pin(up::run(*arguments))),
        Command::Server(arguments) => serve(Box::pin(server::run(*arguments))),
        Command::Node(arguments) => {
            arguments.end_with_parent()?;
            serve(Box::pin(node::run(*arguments)))
        }
        Command::Down(arguments) => {
            prepare("warn");
            on_one_thread(Box::pin(down::run(&arguments)))
        }
        Command::Backup(arguments) => {
            prepare("warn");
            on_all_threads(Box::pin(backup::run(arguments)))
        }
        Command::Restore(arguments) => {
            prepare("warn");
            on_all_threads(Box::pin(backup::restore(&arguments)))
        }
        Command::Store(arguments) => {
            prepare("warn");
            on_all_threads(Box::pin(store::run(arguments)))
        }
        Command::Image(arguments) => {
            prepare("warn");
            on_one_thread(Box::pin(image::run(arguments)))
        }
        Command::Hello(arguments) => on_one_thread(Box::pin(hello::run(arguments))),
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
        Command::Why(arguments) => {
            // The error also contains the client library's log message about an unreachable server.
            prepare("off");
            on_one_thread(Box::pin(why::run(arguments)))
        }
        Command::Plan(arguments) => {
            prepare("off");
            on_one_thread(Box::pin(plan(arguments)))
        }
        Command::Status(arguments) => {
            prepare("off");
            on_one_thread(Box::pin(status::run(arguments)))
        }
        Command::Logs(arguments) => {
            prepare("off");
            on_one_thread(Box::pin(logs::run(arguments)))
        }
        Command::Volume(arguments) => {
            prepare("off");
            on_one_thread(Box::pin(volume::run(arguments)))
        }
        Command::Migrate(arguments) => {
            prepare("off");
            on_one_thread(Box::pin(migrate::run(arguments)))
        }
        Command::Token(arguments) => {
            prepare("off");
            on_one_thread(Box::pin(token::run(arguments)))
        }
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Install(arguments) => install::install(&arguments, &CommandLine::command()),
        Command::Uninstall(arguments) => install::uninstall(&arguments),
        Command::Completion(arguments) => {
            manual::complete(&arguments, CommandLine::command());
            Ok(())
        }
        Command::Complete(arguments) => {
            prepare("off");
            let mut program = CommandLine::command();
            program.build();
            let completed = complete::run(&arguments, &program);
            on_one_thread(Box::pin(async {
                completed.await;
                Ok(())
            }))
        }
        Command::Man(arguments) => manual::man(&arguments, CommandLine::command()),
        Command::Version(arguments) => {
            version::version(&arguments);
            Ok(())
        }
    }
}

/// The future of a command, boxed: the runtime is compiled once for all commands, not once for each command's
/// future.
type CommandFuture<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Runs a command on this thread.
fn on_one_thread(command: CommandFuture<'_>) -> Result<()> {
    runtime(tokio::runtime::Builder::new_current_thread())?.block_on(command)
}

/// Runs a command that uses all cores.
fn on_all_threads(command: CommandFuture<'_>) -> Result<()> {
    runtime(tokio::runtime::Builder::new_multi_thread())?.block_on(command)
}

/// Polls of tasks between two checks for new requests. With tokio's default of 61, a busy thread checks only
/// every 10 ms, and a small request waits that long.
const POLLS_BETWEEN_EVENTS: u32 = 8;

/// Runs a part of a cluster until it is stopped.
fn serve(role: CommandFuture<'_>) -> Result<()> {
    descriptors::keep_from_children()
        .context("close this program's files in the programs that it starts")?;
    let prepared = allocator::prepare_server();
    prepare("warn");
    if let Err(error) = prepared {
        tracing::warn!(%error, "the server uses the allocator of the C library, which is slower");
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.event_interval(POLLS_BETWEEN_EVENTS);
    // Threads that run tasks park; threads for blocking work are temporary and do not.
    builder.on_thread_park(allocator::before_park);
    let role: CommandFuture<'_> = Box::pin(async {
        service_manager::keep_alive();
        role.await
    });
    runtime(builder)?.block_on(role)
}

/// Sets up the log, with this level unless `MAINSTAY_LOG` is set, and the TLS implementation of the process.
fn prepare(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAINSTAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(command_output::output::Log::is_terminal())
        .with_writer(command_output::output::Log)
        .init();
    // Fails only if the provider is installed already.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
}

fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime> {
    builder.enable_all().build().context("start the runtime")
}
