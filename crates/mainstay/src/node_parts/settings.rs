//! The settings of a machine that runs pods. Several commands have these settings.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};
use image_store::RegistriesConfig;
use node_agent::ShutdownOrder;

use super::{PodSettings, ShutdownSettings};
use crate::stop::OnStop;

/// The kubelet's port.
const KUBELET_PORT: u16 = 10250;

/// Flags of a machine that runs pods.
#[derive(clap::Args, Debug, Default, PartialEq)]
pub struct MachineArguments {
    /// Registry mirrors and credentials [default: registries.yaml in the data directory]
    #[arg(long, value_name = "FILE", env = "MAINSTAY_REGISTRIES")]
    registries: Option<PathBuf>,
    /// Port of the kubelet API; 0 selects a free port [default: 10250]
    #[arg(long, value_name = "PORT")]
    kubelet_port: Option<u16>,
    #[command(flatten)]
    pods: PodSettings,
    #[command(flatten)]
    shutdown: ShutdownSettings,
    /// Effect of SIGTERM and of a failure on pods; Ctrl-C and `mainstay down` always stop them
    /// [default: stop-pods]
    #[arg(long, value_name = "WHAT", value_enum)]
    on_stop: Option<OnStop>,
}

/// The flags of these settings in a command line, to be passed to another process. The treatment of the pods
/// at the end is left out.
pub fn passed_flags(matches: &ArgMatches) -> Vec<OsString> {
    let mut flags = Vec::new();
    for argument in MachineArguments::augment_args(Command::new("machine")).get_arguments() {
        let id = argument.get_id().as_str();
        let (Some(long), Some(ValueSource::CommandLine)) =
            (argument.get_long(), matches.value_source(id))
        else {
            continue;
        };
        if long == "on-stop" {
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            flags.push(flag);
        }
    }
    flags
}

/// The settings of a machine in the configuration file.
#[derive(Debug, Default)]
pub struct MachineFile {
    /// The file with registry mirrors and credentials.
    pub registries: Option<PathBuf>,
    pub pods: PodSettings,
    pub shutdown: ShutdownSettings,
    pub on_stop: Option<OnStop>,
}

/// The settings of a machine that runs pods.
#[derive(Debug)]
pub struct MachineSettings {
    /// The registries file, and whether the user named it: a file that the user named must exist.
    pub registries: (PathBuf, bool),
    pub kubelet_port: u16,
    pub pods: PodSettings,
    pub shutdown_order: ShutdownOrder,
    pub on_stop: OnStop,
}

impl MachineArguments {
    /// Adds missing values from the file and the defaults.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub fn over(self, file: MachineFile, data_dir: &Path) -> Result<MachineSettings> {
        let pods = self.pods.or(file.pods);
        pods.image_gc()?;
        pods.lease_length()?;
        pods.transport()?;
        Ok(MachineSettings {
            registries: match self.registries.or(file.registries) {
                Some(path) => (path, true),
                None => (data_dir.join("registries.yaml"), false),
            },
            kubelet_port: self.kubelet_port.unwrap_or(KUBELET_PORT),
            pods,
            shutdown_order: self.shutdown.or(file.shutdown).order()?,
            on_stop: self.on_stop.or(file.on_stop).unwrap_or_default(),
        })
    }
}

impl MachineSettings {
    /// The address on which the kubelet API listens.
    pub fn kubelet_address(&self) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, self.kubelet_port).into()
    }

    /// Reads the registries file.
    ///
    /// # Errors
    /// The file is malformed, or the user named a file that does not exist.
    pub fn read_registries(&self) -> Result<RegistriesConfig> {
        let (path, named) = &self.registries;
        if *named && !path.exists() {
            bail!("registries file {} does not exist", path.display());
        }
        Ok(RegistriesConfig::read(path)?)
    }
}
