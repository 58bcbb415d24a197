//! `mainstay`: runs stateful applications, speaking the Kubernetes API. This file parses the
//! command line and hands over; the work is in the libraries that ARCHITECTURE.md maps.

mod bench;
mod builtin;
mod hello;
mod image;
mod kubeconfig;
mod process;
mod removal;
mod settings;
mod up;
mod why;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

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
    /// Stop a server that runs in the background
    Down(process::DownArguments),
    /// Import, list, remove and pull images
    Image(image::ImageArguments),
    /// Print the administrator's kubeconfig, or merge it into your own
    Kubeconfig(kubeconfig::KubeconfigArguments),
    /// Say what a StatefulSet, pod or claim waits for, and what would unblock it
    Why(why::WhyArguments),
    /// Measure an API server, this one's or another, or a disk
    Bench(bench::BenchArguments),
    /// Print the version of this program and of the API it serves
    Version,
    /// The program of the built-in image mainstay/hello
    #[command(hide = true)]
    Hello(hello::HelloArguments),
}

fn main() -> ExitCode {
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
            eprintln!("mainstay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(arguments) => {
            container_runtime::descriptors::keep_from_children()
                .context("keep open files from the programs that are started")?;
            prepare();
            runtime(tokio::runtime::Builder::new_multi_thread())?.block_on(up::run(*arguments))
        }
        Command::Down(arguments) => process::down(&arguments),
        Command::Image(arguments) => {
            prepare();
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(image::run(arguments))
        }
        Command::Hello(arguments) => {
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(hello::run(arguments))
        }
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
        Command::Why(arguments) => {
            prepare();
            runtime(tokio::runtime::Builder::new_current_thread())?.block_on(why::run(arguments))
        }
        Command::Bench(arguments) => {
            prepare();
            runtime(tokio::runtime::Builder::new_multi_thread())?.block_on(bench::run(arguments))
        }
        Command::Version => {
            println!("mainstay {}", env!("CARGO_PKG_VERSION"));
            println!("Kubernetes API {}", api_server::git_version());
            Ok(())
        }
    }
}

/// What the whole process shares: the log, and the one TLS implementation.
fn prepare() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAINSTAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // Fails only where one is installed already, which is the same one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
}

fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime> {
    builder.enable_all().build().context("start the runtime")
}
