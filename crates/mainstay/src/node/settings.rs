//! Settings of `mainstay node`.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use k8s_openapi::api::core::v1::Taint;
use nix::sys::signal::Signal;
use node_identity::JoinToken;
use node_membership::JoinSettings;

use super::leaving::LeaveArguments;
use crate::node_parts::{MachineArguments, MachineSettings, RESOLV_CONF};
use crate::settings::{Background, DataDirectory, absolute};

/// Arguments of `mainstay node`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct NodeArguments {
    #[command(flatten)]
    data: DataDirectory,
    /// Servers of the cluster, separated by commas; the first one that answers is used. A node that has
    /// joined knows them
    #[arg(
        long,
        value_name = "URL",
        env = "MAINSTAY_SERVER",
        value_delimiter = ','
    )]
    server: Vec<String>,
    /// Token of `mainstay token create`; a node that has joined needs none
    #[arg(
        long,
        value_name = "TOKEN",
        env = "MAINSTAY_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// File with the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Name of the node [default: the machine's name]
    #[arg(long, value_name = "NAME", env = "MAINSTAY_NODE_NAME")]
    node_name: Option<String>,
    /// Address at which other machines reach this one [default: the first IPv4 address of a network link]
    #[arg(long, value_name = "IP", env = "MAINSTAY_NODE_IP")]
    node_ip: Option<IpAddr>,
    /// Labels of the node, such as disk=fast,rack=7
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Taints of a new node, such as dedicated=databases:NoSchedule
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', value_parser = taint)]
    taints: Vec<Taint>,
    /// File with the name servers for names outside of the cluster
    #[arg(long, value_name = "FILE", default_value = RESOLV_CONF)]
    resolv_conf: PathBuf,
    /// Watchdog device of this machine, such as /dev/watchdog. It resets the machine if the agent is killed,
    /// or if processes of pods that fail over cannot be ended in time
    #[arg(long, value_name = "DEVICE", env = "MAINSTAY_WATCHDOG")]
    watchdog: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    #[command(flatten)]
    background: Background,
    #[command(flatten)]
    pub leaving: LeaveArguments,
    /// The program of the cluster, with which the node ends
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
}

const AFTER_HELP: &str = "\
The first start needs the servers and a token. The node recognises the server by the hash in the
token before it sends anything, and gets certificates of its own, which it keeps in the data
directory and renews. Later starts need neither.

Examples:
  mainstay node --server https://192.0.2.1:6443 --token-file token
  mainstay node
  mainstay node --leave --kubeconfig admin.kubeconfig";

#[derive(Debug)]
pub struct Settings {
    /// The absolute path of the data directory.
    pub data_dir: PathBuf,
    pub joining: JoinSettings,
    /// The address of the node, if the user named one.
    pub node_ip: Option<IpAddr>,
    /// Labels of the Node object in addition to the standard labels.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// The file with name servers for names outside of the cluster.
    pub resolv_conf: PathBuf,
    pub watchdog: Option<PathBuf>,
    pub machine: MachineSettings,
    pub background: Background,
}

impl NodeArguments {
    /// Lets the kernel kill this process when the program of the cluster ends, if that program started it.
    /// The pods continue. Must be called by the first thread.
    ///
    /// # Errors
    /// That program has ended already.
    pub fn end_with_parent(&self) -> Result<()> {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
            .context("end this process together with the server")?;
        ensure!(
            nix::unistd::getppid().as_raw() == parent,
            "the cluster has ended meanwhile"
        );
        Ok(())
    }

    /// The absolute path of the data directory.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn data_dir(&self) -> Result<PathBuf> {
        absolute(&self.data.path()?)
    }

    /// Adds missing values from the configuration file and the defaults.
    ///
    /// # Errors
    /// An invalid value, or a file that cannot be read.
    pub fn settings(self) -> Result<Settings> {
        let file = self.data.configuration()?;
        let data_dir = self.data.over(file.data_dir.as_deref())?;
        let (for_machine, _) = file.machine();
        let machine = self.machine.over(for_machine, &data_dir)?;
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(path)) => Some(
                fs::read_to_string(path)
                    .with_context(|| format!("read the token in {}", path.display()))?,
            ),
            (None, None) => None,
        };
        let servers = self.server.iter().map(|url| server(url));
        Ok(Settings {
            data_dir,
            joining: JoinSettings {
                servers: servers.collect::<Result<_>>()?,
                token: token.map(|text| JoinToken::read(&text)).transpose()?,
                node_name: self.node_name,
            },
            node_ip: self.node_ip,
            labels: self.labels.into_iter().collect(),
            taints: self.taints,
            resolv_conf: self.resolv_conf,
            watchdog: self.watchdog,
            machine,
            background: self.background,
        })
    }
}

/// Parses the URL of a server, which must not have a path.
fn server(text: &str) -> Result<Uri> {
    let url: Uri = text
        .parse()
        .with_context(|| format!("--server {text}: not a URL"))?;
    let is_server = url.scheme_str() == Some("https")
        && url.host().is_some()
        && matches!(url.path(), "" | "/")
        && url.query().is_none();
    ensure!(
        is_server,
        "--server {text}: give a URL such as https://192.0.2.1:6443"
    );
    Ok(url)
}

fn label(text: &str) -> Result<(String, String)> {
    let (key, value) = text
        .split_once('=')
        .context("a label has the form KEY=VALUE")?;
    ensure!(!key.is_empty(), "a label has the form KEY=VALUE");
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses a taint as kubectl writes it: `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str) -> Result<Taint> {
    let form = "a taint has the form KEY=VALUE:EFFECT, as in dedicated=databases:NoSchedule";
    let (name, effect) = text.rsplit_once(':').context(form)?;
    let (key, value) = match name.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (name, None),
    };
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        bail!("{form}; the effects are NoSchedule, PreferNoSchedule and NoExecute");
    }
    Ok(Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        ..Taint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        for good in ["https://192.0.2.1:6443", "https://server.example/"] {
            server(good).unwrap();
        }
        for bad in [
            "192.0.2.1:6443",
            "http://a",
            "https://a/b",
            "https://a?b",
            "x y",
        ] {
            let refused = server(bad).unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("--server {bad}: ")),
                "{refused}"
            );
        }
    }

    #[test]
    fn taints_are_written_as_for_kubectl() {
        let with_value = taint("dedicated=databases:NoSchedule").unwrap();
        assert_eq!(with_value.key, "dedicated");
        assert_eq!(with_value.value.as_deref(), Some("databases"));
        let without = taint("gone:NoExecute").unwrap();
        assert_eq!(
            (without.value, without.effect.as_str()),
            (None, "NoExecute")
        );
        for bad in ["", "a", "a=b", "a=b:Never", ":NoSchedule"] {
            taint(bad).unwrap_err();
        }
        assert_eq!(label("a=").unwrap(), ("a".to_owned(), String::new()));
        label("a").unwrap_err();
    }
}
