//! `mainstay`: runs stateful applications, speaking the Kubernetes API. This file parses the
//! command line and hands over; the work is in the libraries that ARCHITECTURE.md maps.

mod hello;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "mainstay", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The program of the built-in image mainstay/hello
    #[command(hide = true)]
    Hello(hello::HelloArguments),
}

fn main() -> ExitCode {
    let Command::Hello(arguments) = CommandLine::parse().command;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mainstay: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(hello::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mainstay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
