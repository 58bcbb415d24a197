//! The CSI driver for tests and the stand-ins for its sidecars, as containers run them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use csi_test_driver::sidecars::{self, Kind, Kubernetes};
use csi_test_driver::{Caller, Death, Driver, Role, TestDriver};
use tokio::signal::unix::{SignalKind, signal};

/// A CSI driver for tests.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Identity and Controller.
    Controller(Serving),
    /// Identity and Node.
    Node {
        #[command(flatten)]
        serving: Serving,
        /// The name of the node.
        #[arg(long, env = "NODE_NAME")]
        node: String,
        /// The place of the node.
        #[arg(long, default_value = "z")]
        zone: String,
        /// The most volumes on the node; 0 for no limit.
        #[arg(long, default_value_t = 0)]
        volumes_max: i64,
    },
    /// Makes and deletes volumes for claims.
    Provisioner(Endpoint),
    /// Attaches and detaches volumes.
    Attacher(Endpoint),
    /// Grows volumes.
    Resizer(Endpoint),
    /// Makes and deletes snapshots.
    Snapshotter(Endpoint),
    /// Registers the driver with the node.
    Registrar {
        #[command(flatten)]
        endpoint: Endpoint,
        /// The directory of the agent for registrations.
        #[arg(long)]
        registry: PathBuf,
        /// The socket of the driver as the agent reaches it.
        #[arg(long)]
        agent_path: PathBuf,
    },
}

#[derive(Args)]
struct Endpoint {
    /// The socket of the driver: `unix:///…`.
    #[arg(long)]
    endpoint: String,
}

impl Endpoint {
    fn socket(&self) -> PathBuf {
        PathBuf::from(
            self.endpoint
                .strip_prefix("unix://")
                .unwrap_or(&self.endpoint),
        )
    }
}

#[derive(Args)]
struct Serving {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The directory of the storage, the same for all parts of the driver.
    #[arg(long)]
    state: PathBuf,
    /// The name of the driver.
    #[arg(long, default_value = "disks.test.example.com")]
    name: String,
}

impl Serving {
    fn start(&self, role: Role) -> Result<TestDriver, String> {
        let driver = Driver::open(&self.name, role, &self.state, Death::Process);
        let driver = driver.map_err(|error| format!("{}: {error}", self.state.display()))?;
        let socket = self.endpoint.socket();
        let serving = TestDriver::serve_whole(&socket, Arc::new(driver));
        serving.map_err(|error| format!("{}: {error}", socket.display()))
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match run(Arguments::parse().role).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("csi-test-driver: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Controller(serving) => until_the_end(serving.start(Role::Controller)?).await,
        Command::Node {
            serving,
            node,
            zone,
            volumes_max,
        } => {
            let role = Role::Node {
                id: node,
                zone,
                volumes_max,
                root: (PathBuf::from("/"), PathBuf::from("/")),
            };
            until_the_end(serving.start(role)?).await
        }
        Command::Provisioner(endpoint) => sidecar(Kind::Provisioner, &endpoint).await,
        Command::Attacher(endpoint) => sidecar(Kind::Attacher, &endpoint).await,
        Command::Resizer(endpoint) => sidecar(Kind::Resizer, &endpoint).await,
        Command::Snapshotter(endpoint) => sidecar(Kind::Snapshotter, &endpoint).await,
        Command::Registrar {
            endpoint,
            registry,
            agent_path,
        } => {
            let caller = Caller::at(&endpoint.socket());
            let serving = sidecars::register(&caller, &registry, &agent_path).await;
            let serving = serving.map_err(|error| error.to_string())?;
            let socket = serving.socket().to_owned();
            until_the_end(serving).await?;
            std::fs::remove_file(&socket).map_err(|error| error.to_string())
        }
    }
}

/// Serves until SIGTERM.
async fn until_the_end(serving: TestDriver) -> Result<(), String> {
    let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    stop.recv().await;
    drop(serving);
    Ok(())
}

async fn sidecar(kind: Kind, endpoint: &Endpoint) -> Result<(), String> {
    let kubernetes = Kubernetes::in_container().await;
    let kubernetes = kubernetes.map_err(|error| error.to_string())?;
    let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let caller = Caller::at(&endpoint.socket());
    tokio::select! {
        () = sidecars::run(kind, caller, kubernetes) => {}
        _ = stop.recv() => {}
    }
    Ok(())
}
