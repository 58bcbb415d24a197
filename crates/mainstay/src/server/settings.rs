//! Settings of `mainstay server`: flags, then environment, then the configuration file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Result, bail};
use certificates::SubjectAltName;
use control_plane::{
    BuiltinClass, EtcdAddress, EtcdSettings, RequestedNetwork, StoreArguments, StoreSettings,
};
use pod_network::Cidr;

use crate::node_parts::{MachineArguments, MachineSettings};
use crate::settings::{Background, DataDirectory, ServingNames};
use crate::up::ConfigurationFile;
use crate::up::settings::configured_by;

/// Arguments of `mainstay server`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct ServerRoleArguments {
    #[command(flatten)]
    data: DataDirectory,
    /// Address of the API; port 0 selects a free port [default: 0.0.0.0:6443]
    #[arg(long, value_name = "ADDR:PORT", env = "MAINSTAY_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address at which nodes and pods reach the API [default: the first IPv4 address of a network link]
    #[arg(long, value_name = "IP", env = "MAINSTAY_ADVERTISE_ADDRESS")]
    advertise_address: Option<Ipv4Addr>,
    #[command(flatten)]
    names: ServingNames,
    /// Address range of the pods of all nodes [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR", env = "MAINSTAY_POD_CIDR")]
    pod_cidr: Option<Cidr>,
    /// Prefix length of the address range of each node's pods [default: 24]
    #[arg(long, value_name = "NUMBER")]
    node_cidr_mask_size: Option<u8>,
    /// Address range of Services [default: 10.96.0.0/16]
    #[arg(long, value_name = "CIDR", env = "MAINSTAY_SERVICE_CIDR")]
    service_cidr: Option<Cidr>,
    /// Default storage class, set at each start [default: as it is; local in a new cluster]
    #[arg(long, value_name = "CLASS", env = "MAINSTAY_DEFAULT_CLASS")]
    default_class: Option<BuiltinClass>,
    #[command(flatten)]
    etcd: EtcdSettings,
    #[command(flatten)]
    store: StoreArguments,
    /// File with the secret of all servers of a common store [default: server-token in the data
    /// directory, where the first server makes it]
    #[arg(long, value_name = "FILE", env = "MAINSTAY_SERVER_TOKEN_FILE")]
    server_token_file: Option<PathBuf>,
    /// Run pods on this machine, too; the flags about registries and pods are for this node
    #[arg(long)]
    with_node: bool,
    #[command(flatten)]
    machine: MachineArguments,
    #[command(flatten)]
    background: Background,
}

const AFTER_HELP: &str = "\
A server is the API, the controllers and the scheduler of a cluster with nodes on other machines:
  mainstay server                                    on the first machine
  mainstay token create                              there, prints a token
  mainstay node --server https://ADDRESS:6443 --token TOKEN   on each other machine

Without --with-node it runs no pods, and needs no root.";

#[derive(Debug)]
pub struct Settings {
    /// Absolute.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// The address at which nodes and pods reach the API, if the user named one.
    pub advertise_address: Option<Ipv4Addr>,
    /// Further names and addresses in the server's certificate.
    pub tls_sans: Vec<SubjectAltName>,
    /// The address ranges that the user named.
    pub network: RequestedNetwork,
    /// The default storage class, if the user named one.
    pub default_class: Option<BuiltinClass>,
    /// The etcd with the store; `None` if the store is in the data directory.
    pub etcd: Option<EtcdAddress>,
    pub store: StoreSettings,
    /// The file with the secret of all servers of a common store.
    pub server_token_file: Option<PathBuf>,
    /// `None` without `--with-node`.
    pub node: Option<MachineSettings>,
    pub background: Background,
    /// The files from which the settings were read; absolute.
    pub configured_by: Vec<PathBuf>,
}

impl ServerRoleArguments {
    /// Adds missing values from the file and the defaults.
    ///
    /// # Errors
    /// Invalid values, or settings of a node without `--with-node`.
    pub fn settings(self) -> Result<Settings> {
        let file = self.data.configuration()?;
        self.over(file)
    }

    fn over(self, file: ConfigurationFile) -> Result<Settings> {
        let data_dir = self.data.over(file.data_dir.as_deref())?;
        if !self.with_node && self.machine != MachineArguments::default() {
            bail!("the flags about registries, pods and their end are for a node: add --with-node");
        }
        let (for_machine, file) = file.machine();
        let machine = self.machine.over(for_machine, &data_dir)?;
        let store = self.store.over(file.store_quota, file.protection)?;
        Ok(Settings {
            listen: self
                .listen
                .or(file.listen)
                .unwrap_or((Ipv4Addr::UNSPECIFIED, 6443).into()),
            advertise_address: self.advertise_address,
            tls_sans: self.names.or(file.tls_san),
            network: RequestedNetwork {
                pod_cidr: self.pod_cidr.or(file.pod_cidr),
                node_cidr_mask_size: self.node_cidr_mask_size,
                service_cidr: self.service_cidr.or(file.service_cidr),
            },
            default_class: self.default_class.or(file.default_class),
            configured_by: configured_by(&self.data, &machine, &store.protection),
            etcd: self.etcd.or(file.etcd).address()?,
            store,
            server_token_file: self.server_token_file,
            node: self.with_node.then_some(machine),
            background: self.background,
            data_dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        server: ServerRoleArguments,
    }

    fn settings(arguments: &[&str], file: &str) -> Result<Settings> {
        let words = std::iter::once("server").chain(arguments.iter().copied());
        let server = Command::try_parse_from(words)?.server;
        server.over(serde_saphyr::from_str(file)?)
    }

    #[test]
    fn a_server_listens_for_other_machines() {
        let plain = settings(&[], "{}").unwrap();
        assert_eq!(plain.listen, ([0, 0, 0, 0], 6443).into());
        assert!(plain.node.is_none());
        let file = settings(&[], "listen: 192.0.2.1:7000").unwrap();
        assert_eq!(file.listen, ([192, 0, 2, 1], 7000).into());
    }

    #[test]
    fn names_of_the_certificate_are_set_by_flag_or_file() {
        let names = |arguments: &[&str], file: &str| {
            let settings = settings(arguments, file)?;
            Ok::<_, anyhow::Error>(settings.tls_sans)
        };
        let parsed = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect();
        let file = "tlsSan: [api.example.org, 192.0.2.9]";
        assert_eq!(names(&[], "{}").unwrap(), []);
        let of_file: Vec<SubjectAltName> = parsed(&["api.example.org", "192.0.2.9"]);
        assert_eq!(names(&[], file).unwrap(), of_file);
        let flags = ["--tls-san=a,b", "--tls-san", "192.0.2.1"];
        let of_flags: Vec<SubjectAltName> = parsed(&["a", "b", "192.0.2.1"]);
        assert_eq!(names(&flags, file).unwrap(), of_flags);
        for wrong in ["--tls-san=https://api", "--tls-san=api:6443"] {
            let refused = names(&[wrong], "{}").unwrap_err().to_string();
            assert!(refused.contains("neither a DNS name nor"), "{refused}");
        }
        assert!(serde_saphyr::from_str::<ConfigurationFile>("tlsSan: [a b]").is_err());
    }

    #[test]
    fn flags_of_pods_are_for_a_server_with_a_node() {
        let pids = "--pod-max-pids=100";
        let refused = settings(&[pids], "{}").unwrap_err().to_string();
        assert!(refused.contains("add --with-node"), "{refused}");
        let node = settings(&[pids, "--with-node"], "{}").unwrap().node;
        assert_eq!(node.unwrap().pods.pids_max(), 100);
    }
}
