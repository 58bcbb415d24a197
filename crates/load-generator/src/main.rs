//! `mainstay-bench`: measures a Kubernetes API server, mainstay's or another, from outside. The program is separate and
//! not a part of the server's binary.

mod arguments;
mod busy;
mod call;
mod custom;
mod follow;
mod heartbeats;
mod http2;
mod load;
mod memory;
mod nodes;
mod objects;
mod output;
mod plan;
mod processor;
mod report;
mod run;
mod sets;
mod statistics;
mod target;
#[cfg(test)]
mod tests;
mod watchers;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use arguments::Arguments;
use output::warn;

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<clap::Error>() {
            Some(mistake) => mistake.exit(),
            None => {
                warn(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    // The call fails only if a provider is installed already.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build().context("start the runtime")?;
    runtime.block_on(run::run(arguments))
}
