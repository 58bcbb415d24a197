//! Settings of `mainstay up`: flags, then environment, then the configuration file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use certificates::SubjectAltName;
use control_plane::{
    BuiltinClass, EtcdSettings, ProtectionSettings, StoreArguments, StoreSettings,
};
use object_model::quantity::Quantity;
use object_model::yaml_error;
use pod_network::Cidr;
use serde::Deserialize;

use crate::node_parts::{
    MachineArguments, MachineFile, MachineSettings, PodSettings, ShutdownSettings,
};
use crate::settings::{Background, DataDirectory, ServingNames};
use crate::stop::OnStop;

/// Maximum number of nodes on one machine: each has a process of its own.
const NODES_MAX: i64 = 20;

/// Arguments of `mainstay up`.
#[derive(clap::Args, Debug)]
pub struct UpArguments {
    /// Manifests to apply: a file, a directory, or - for standard input; repeatable
    #[arg(short, long = "file", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    data: DataDirectory,
    /// Address of the API; port 0 selects a free port [default: 127.0.0.1:6443]
    #[arg(long, value_name = "ADDR:PORT", env = "MAINSTAY_LISTEN")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    names: ServingNames,
    /// Address range of pods, if not in use [default: 10.244.0.0/24 or the next free range]
    #[arg(long, value_name = "CIDR", env = "MAINSTAY_POD_CIDR")]
    pod_cidr: Option<Cidr>,
    /// Address range of Services, if not in use [default: 10.96.0.0/16 or the next free range]
    #[arg(long, value_name = "CIDR", env = "MAINSTAY_SERVICE_CIDR")]
    service_cidr: Option<Cidr>,
    /// Number of nodes on this machine; further ones are in network namespaces [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=NODES_MAX))]
    nodes: Option<u8>,
    /// Default storage class, set at each start [default: as it is; local in a new cluster]
    #[arg(long, value_name = "CLASS", env = "MAINSTAY_DEFAULT_CLASS")]
    default_class: Option<BuiltinClass>,
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    machine: MachineArguments,
    #[command(flatten)]
    background: Background,
}

/// The content of the file that `--config` names.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigurationFile {
    files: Vec<PathBuf>,
    /// The data directory; `--data-dir` takes precedence.
    pub data_dir: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    /// Further names and addresses in the server's certificate.
    pub tls_san: Vec<SubjectAltName>,
    registries: Option<PathBuf>,
    /// The range of pods; `--pod-cidr` takes precedence.
    pub pod_cidr: Option<Cidr>,
    /// The range of Services; `--service-cidr` takes precedence.
    pub service_cidr: Option<Cidr>,
    /// The storage class that is marked as the default.
    pub default_class: Option<BuiltinClass>,
    /// Maximum size of all stored objects, in bytes.
    pub store_quota: Option<Quantity>,
    /// The etcd with the store, for `mainstay server`.
    pub etcd: EtcdSettings,
    pub protection: ProtectionSettings,
    pods: PodSettings,
    shutdown: ShutdownSettings,
    on_stop: Option<OnStop>,
}

#[derive(Debug)]
pub struct Settings {
    /// The files with manifests to apply.
    pub files: Vec<PathBuf>,
    /// Absolute.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// Further names and addresses in the server's certificate.
    pub tls_sans: Vec<SubjectAltName>,
    /// The pods' range, if the user named one.
    pub pod_cidr: Option<Cidr>,
    /// The Services' range, if the user named one.
    pub service_cidr: Option<Cidr>,
    /// The default storage class, if the user named one.
    pub default_class: Option<BuiltinClass>,
    pub store: StoreSettings,
    /// The number of nodes, all of them on this machine.
    pub nodes: u8,
    pub machine: MachineSettings,
    /// The configuration file, if one was named.
    pub config: Option<PathBuf>,
    pub background: Background,
    /// The files from which the settings were read; absolute.
    pub configured_by: Vec<PathBuf>,
}

impl UpArguments {
    /// Adds missing values from the file and the defaults.
    pub fn settings(self) -> Result<Settings> {
        let file = self.data.configuration()?;
        self.over(file)
    }

    fn over(self, file: ConfigurationFile) -> Result<Settings> {
        let data_dir = self.data.over(file.data_dir.as_deref())?;
        ensure!(
            file.etcd == EtcdSettings::default(),
            "`mainstay up` has its store in the data directory: `mainstay server` can use etcd"
        );
        let (for_machine, file) = file.machine();
        let machine = self.machine.over(for_machine, &data_dir)?;
        let store = self.store.over(file.store_quota, file.protection)?;
        let configured_by = configured_by(&self.data, &machine, &store.protection);
        Ok(Settings {
            files: if self.files.is_empty() {
                file.files
            } else {
                self.files
            },
            listen: self
                .listen
                .or(file.listen)
                .unwrap_or(([127, 0, 0, 1], 6443).into()),
            tls_sans: self.names.or(file.tls_san),
            pod_cidr: self.pod_cidr.or(file.pod_cidr),
            service_cidr: self.service_cidr.or(file.service_cidr),
            default_class: self.default_class.or(file.default_class),
            store,
            configured_by,
            nodes: self.nodes.unwrap_or(1),
            config: self.data.configuration_path().map(Path::to_owned),
            machine,
            background: self.background,
            data_dir,
        })
    }
}

/// The files from which the settings of a server were read; absolute.
pub fn configured_by(
    data: &DataDirectory,
    machine: &MachineSettings,
    protection: &ProtectionSettings,
) -> Vec<PathBuf> {
    let config = data.configuration_path().map(Path::to_owned);
    let (registries, named) = &machine.registries;
    let registries = named.then(|| registries.clone());
    let files = protection.files().map(Path::to_owned);
    let all = config.into_iter().chain(registries).chain(files);
    all.map(|path| std::path::absolute(&path).unwrap_or(path))
        .collect()
}

impl ConfigurationFile {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a configuration file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_saphyr::from_str(&text)
            .map_err(|error| anyhow::anyhow!(yaml_error::in_file(&path.display(), &error)))
    }

    /// Splits off the settings of a machine that runs pods.
    pub fn machine(mut self) -> (MachineFile, Self) {
        let machine = MachineFile {
            registries: self.registries.take(),
            pods: std::mem::take(&mut self.pods),
            shutdown: std::mem::take(&mut self.shutdown),
            on_stop: self.on_stop.take(),
        };
        (machine, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use jiff::SignedDuration;
    use pod_network::PeerTransport;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        up: UpArguments,
    }

    fn settings(arguments: &[&str], file: &str) -> Settings {
        let words = std::iter::once("up").chain(arguments.iter().copied());
        let arguments = Command::try_parse_from(words).unwrap().up;
        arguments
            .over(serde_saphyr::from_str(file).unwrap())
            .unwrap()
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_the_default() {
        let file = "listen: 127.0.0.1:7000\ndataDir: /from/file\n";
        let with_flag = settings(&["--listen", "127.0.0.1:8000"], file);
        assert_eq!(with_flag.listen, ([127, 0, 0, 1], 8000).into());
        assert_eq!(with_flag.data_dir, PathBuf::from("/from/file"));
        assert_eq!(settings(&[], file).listen, ([127, 0, 0, 1], 7000).into());
        assert_eq!(settings(&[], "{}").listen, ([127, 0, 0, 1], 6443).into());
    }

    #[test]
    fn the_default_class_is_one_that_every_cluster_has() {
        let class = |flags: &[&str], file: &str| settings(flags, file).default_class;
        assert_eq!(class(&[], "{}"), None);
        let file = "defaultClass: local-replicated";
        assert_eq!(class(&[], file), Some(BuiltinClass::LocalReplicated));
        let flag = ["--default-class", "local-cow"];
        assert_eq!(class(&flag, file), Some(BuiltinClass::LocalCow));
        assert!(Command::try_parse_from(["up", "--default-class", "other"]).is_err());
    }

    #[test]
    fn the_registries_file_is_in_the_data_directory_unless_named() {
        let default = settings(&["--data-dir", "/d"], "{}").machine.registries;
        assert_eq!(default, (PathBuf::from("/d/registries.yaml"), false));
        let named = settings(&["--registries", "/r.yaml"], "{}")
            .machine
            .registries;
        assert_eq!(named, (PathBuf::from("/r.yaml"), true));
    }

    #[test]
    fn the_lease_of_the_node_has_a_range() {
        let seconds = |flags: &[&str], file: &str| {
            let pods = settings(flags, file).machine.pods;
            pods.lease_length().unwrap().seconds()
        };
        assert_eq!(seconds(&[], "{}"), 38);
        assert_eq!(seconds(&["--node-lease-duration", "40s"], "{}"), 40);
        assert_eq!(seconds(&[], "pods: {nodeLeaseDuration: 20s}"), 20);
        assert_eq!(seconds(&["--node-lease-duration", "15s"], "{}"), 15);
        for bad in ["11s", "41s", "12.5s"] {
            let words = ["up", "--node-lease-duration", bad];
            let arguments = Command::try_parse_from(words).unwrap().up;
            let error = arguments.over(ConfigurationFile::default()).unwrap_err();
            assert!(error.to_string().contains("from 12s to 40s"), "{error}");
        }
    }

    #[test]
    fn the_way_between_nodes_is_plain_routes_or_vxlan_if_it_is_not_encrypted() {
        let transport = |flags: &[&str], file: &str| {
            let pods = settings(flags, file).machine.pods;
            pods.transport().unwrap()
        };
        let vxlan = "pods: {podNetworkTransport: vxlan}";
        assert_eq!(transport(&[], "{}"), PeerTransport::Auto);
        assert_eq!(transport(&[], vxlan), PeerTransport::Vxlan);
        let flag = ["--pod-network-transport", "route"];
        assert_eq!(transport(&flag, vxlan), PeerTransport::Route);
        let words = [&["up", "--encrypt-pod-traffic"], &flag[..]].concat();
        let arguments = Command::try_parse_from(words).unwrap().up;
        let error = arguments.over(ConfigurationFile::default()).unwrap_err();
        assert!(error.to_string().contains("through WireGuard"), "{error}");
    }

    #[test]
    fn what_pods_may_do_is_set_by_flag_or_file() {
        assert_eq!(settings(&[], "{}").machine.pods.pids_max(), 4096);
        let file = "pods: {podMaxPids: 100, allowedUnsafeSysctls: [net.core.somaxconn]}";
        let from_file = settings(&[], file).machine.pods;
        assert_eq!(from_file.pids_max(), 100);
        assert_eq!(from_file.unsafe_sysctls(), ["net.core.somaxconn"]);
        let flags = [
            "--pod-max-pids",
            "-1",
            "--allowed-unsafe-sysctls",
            "kernel.msg*,net.*",
        ];
        let from_flags = settings(&flags, file).machine.pods;
        assert_eq!(from_flags.pids_max(), -1);
        assert_eq!(from_flags.unsafe_sysctls(), ["kernel.msg*", "net.*"]);
        let flags = [
            "--container-log-max-size",
            "1Mi",
            "--container-log-max-files",
            "2",
        ];
        let logs = settings(&flags, "pods: {containerLogMaxSize: 2Mi}")
            .machine
            .pods
            .logs();
        assert_eq!((logs.file_bytes_max, logs.files_max), (1 << 20, 2));
    }

    #[test]
    fn what_a_full_node_does_is_set_by_flag_or_file() {
        let minutes = SignedDuration::from_mins;
        let pods = settings(&[], "{}").machine.pods;
        assert_eq!(pods.eviction(), node_agent::Eviction::default());
        assert_eq!(
            pods.image_gc().unwrap(),
            node_agent::ImageGcPolicy::default()
        );
        let file = "pods: {evictionHard: {memory.available: 1Gi, nodefs.available: 5%}, \
                    evictionPressureTransitionPeriod: 30s, imageGcHighThreshold: 90, \
                    imageMaximumGcAge: 168h}";
        let from_file = settings(&[], file).machine.pods;
        let text = "memory.available<1Gi,nodefs.available<5%";
        assert_eq!(
            from_file.eviction(),
            node_agent::Eviction {
                thresholds: text.parse().unwrap(),
                transition_period: SignedDuration::from_secs(30),
            }
        );
        let policy = from_file.image_gc().unwrap();
        assert_eq!((policy.high_percent, policy.low_percent), (90, 80));
        assert_eq!(policy.maximum_age, Some(SignedDuration::from_hours(168)));
        let flags = [
            "--eviction-hard=",
            "--eviction-pressure-transition-period=5m0s",
            "--image-gc-low-threshold=10",
            "--image-maximum-gc-age=0s",
            "--minimum-image-ttl-duration=1h30m",
        ];
        let from_flags = settings(&flags, file).machine.pods;
        let eviction = from_flags.eviction();
        assert_eq!(eviction.thresholds, node_agent::Thresholds::none());
        assert_eq!(eviction.transition_period, minutes(5));
        let policy = from_flags.image_gc().unwrap();
        assert_eq!((policy.high_percent, policy.low_percent), (90, 10));
        assert_eq!(
            (policy.maximum_age, policy.minimum_age),
            (None, minutes(90))
        );
    }

    #[test]
    fn thresholds_that_make_no_sense_are_refused_at_once() {
        let refused = |arguments: &[&str], file: &str| {
            let words = std::iter::once("up").chain(arguments.iter().copied());
            match Command::try_parse_from(words) {
                Ok(command) => {
                    let file = serde_saphyr::from_str(file).unwrap();
                    command.up.over(file).unwrap_err().to_string()
                }
                Err(error) => error.to_string(),
            }
        };
        let message = refused(&["--image-gc-high-threshold=80"], "{}");
        assert!(
            message.contains("--image-gc-low-threshold 80 has to be less"),
            "{message}"
        );
        let message = refused(&[], "pods: {imageGcHighThreshold: 101}");
        assert!(message.contains("from 0 to 100"), "{message}");
        let message = refused(&["--eviction-hard=memory<1Gi"], "{}");
        assert!(
            message.contains("the signals are memory.available"),
            "{message}"
        );
    }

    /// findings S26: how much is stored is set by flag or file.
    #[test]
    fn the_quota_of_the_store_is_set_by_flag_or_file() {
        assert_eq!(settings(&[], "{}").store.quota, None);
        let file = "storeQuota: 2Gi";
        assert_eq!(settings(&[], file).store.quota, Some(2 << 30));
        let flag = ["--store-quota", "64Mi"];
        assert_eq!(settings(&flag, file).store.quota, Some(64 << 20));
        for small in ["--store-quota=1Mi", "--store-quota=-1"] {
            let up = Command::try_parse_from(["up", small]).unwrap().up;
            let error = up.over(ConfigurationFile::default()).unwrap_err();
            assert!(error.to_string().contains("at least 16Mi"), "{error}");
        }
    }

    #[test]
    fn what_becomes_of_the_pods_is_set_by_flag_or_file() {
        assert_eq!(settings(&[], "{}").machine.on_stop, OnStop::StopPods);
        let file = "onStop: leave-pods";
        assert_eq!(settings(&[], file).machine.on_stop, OnStop::LeavePods);
        let flag = ["--on-stop=stop-pods"];
        assert_eq!(settings(&flag, file).machine.on_stop, OnStop::StopPods);
        assert!(Command::try_parse_from(["up", "--on-stop=keep"]).is_err());
        assert!(serde_saphyr::from_str::<ConfigurationFile>("onStop: keep").is_err());
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(serde_saphyr::from_str::<ConfigurationFile>("listn: x\n").is_err());
    }
}
