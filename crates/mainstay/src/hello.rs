//! The program of the built-in image `mainstay/hello`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

/// Settings of the server.
#[derive(clap::Args, Debug)]
pub struct HelloArguments {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:80", env = "HELLO_LISTEN")]
    listen: SocketAddr,
    /// Directory for the visit counter, normally a mounted volume
    #[arg(long, default_value = "/data", env = "HELLO_DATA")]
    data: PathBuf,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(arguments: HelloArguments) -> Result<()> {
    Ok(builtin_images::hello::serve(arguments.listen, &arguments.data).await?)
}
