//! `mainstay`: runs stateful applications, speaking the Kubernetes API. This file parses the
//! command line and hands over; the work is in the libraries that ARCHITECTURE.md maps.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod bench;
mod builtin;
mod data_directory;
mod down;
mod hello;
mod image;
mod install;
mod kubeconfig;
mod logs;
mod manual;
mod output;
mod pod_row;
mod process;
mod settings;
mod status;
mod terminal;
mod up;
mod why;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};

/// Runs stateful applications: StatefulSets on real containers, in one program that speaks the
/// Kubernetes API.
#[derive(Parser)]
#[command(name = "mainstay", version = concat!(env!("CARGO_PKG_VERSION")), about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in this process: API, controllers, node; apply manifests, show progress
    Up(Box<up::UpArguments>),
    /// Stop a server, or what one that was killed has left; delete its data if asked
    Down(down::DownArguments),
    /// Write everything that the instance is to a file, while it runs or not
    Backup(backup::BackupArguments),
    /// Restore a backup into an empty data directory, on any path and host
    Restore(backup::RestoreArguments),
    /// Import, list, remove and pull images
    Image(image::ImageArguments),
    /// Print the administrator's kubeconfig, or merge it into your own
    Kubeconfig(kubeconfig::KubeconfigArguments),
    /// Show on one screen what there is: server, sets with their pods and volumes, other workloads
    #[command(alias = "ps")]
    Status(status::StatusArguments),
    /// Say what a StatefulSet, pod or claim waits for, and what would unblock it
    Why(why::WhyArguments),
    /// Print what all pods of a set or its like print, and follow it
    Logs(logs::LogsArguments),
    /// Measure an API server, this one's or another, or a disk
    Bench(bench::BenchArguments),
    /// Install this program, its man pages, completions of shells and a service of systemd
    Install(install::InstallArguments),
    /// Remove what `mainstay install` has written; data stay
    Uninstall(install::UninstallArguments),
    /// Print completions for a shell
    Completion(manual::CompletionArguments),
    /// Print the man page, or write those of all commands
    Man(manual::ManArguments),
    /// Print the version of this program and of the API it serves
    Version,
    /// The program of the built-in image mainstay/hello
    #[command(hide = true)]
    Hello(hello::HelloArguments),
}

fn main() -> ExitCode {
    // In the built-in images the program has many names.
    if let Some(status) = debug_tools::run(std::env::args_os()) {
        return status;
    }
    // The shim must be alone in its process: nothing may start a thread before it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
        return container_runtime::shim::main(arguments);
    }
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Tells what went wrong: 2 for a mistake in the command line, 1 for all else.
fn failure(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<clap::Error>() {
        Some(mistake) => {
            mistake.print().ok();
            ExitCode::from(2)
        }
        None => {
            output::warn(&format!("mainstay: {error:#}{}", advice(error)));
            ExitCode::FAILURE
        }
    }
}

/// What to do about an error that root would not have.
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
            " (mainstay's data are root's: start this with sudo, or name your own with --data-dir)"
        }
        false => "",
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(arguments) => {
            container_runtime::descriptors::keep_from_children()
                .context("keep open files from the programs that are started")?;
            prepare("warn");
            runtime(tokio::runtime::Builder::new_multi_thread())?.block_on(up::run(*arguments))
        }
        Command::Down(arguments) => {
            prepare("warn");
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(down::run(&arguments))
        }
        Command::Backup(arguments) => {
            prepare("warn");
            runtime(tokio::runtime::Builder::new_multi_thread())?.block_on(backup::run(&arguments))
        }
        Command::Restore(arguments) => {
            prepare("warn");
            runtime(tokio::runtime::Builder::new_multi_thread())?
                .block_on(backup::restore(&arguments))
        }
        Command::Image(arguments) => {
            prepare("warn");
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(image::run(arguments))
        }
        Command::Hello(arguments) => {
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(hello::run(arguments))
        }
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
        Command::Why(arguments) => {
            // What the client library logs of a server that does not answer, the error says too.
            prepare("off");
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(why::run(arguments))
        }
        Command::Status(arguments) => {
            prepare("off");
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(status::run(arguments))
        }
        Command::Logs(arguments) => {
            prepare("off");
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(logs::run(arguments))
        }
        Command::Bench(arguments) => {
            prepare("warn");
            runtime(tokio::runtime::Builder::new_multi_thread())?.block_on(bench::run(arguments))
        }
        Command::Install(arguments) => install::install(&arguments, &CommandLine::command()),
        Command::Uninstall(arguments) => install::uninstall(&arguments),
        Command::Completion(arguments) => {
            manual::complete(&arguments, CommandLine::command());
            Ok(())
        }
        Command::Man(arguments) => manual::man(&arguments, CommandLine::command()),
        Command::Version => {
            crate::output::say(&format!("mainstay {}", env!("CARGO_PKG_VERSION")));
            crate::output::say(&format!("Kubernetes API {}", api_server::git_version()));
            Ok(())
        }
    }
}

/// What the whole process shares: the log, of a level where `MAINSTAY_LOG` gives none, and the one TLS
/// implementation.
fn prepare(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAINSTAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(output::Log::is_terminal())
        .with_writer(output::Log)
        .init();
    // Fails only where one is installed already, which is the same one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
}

fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime> {
    builder.enable_all().build().context("start the runtime")
}
