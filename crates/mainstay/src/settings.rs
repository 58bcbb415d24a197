//! Options that several commands share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use certificates::SubjectAltName;
use cluster_inspection::{Server, ServerChoice};

use crate::up::ConfigurationFile;

/// The name with which the user called this program, for commands in messages.
pub fn program() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "mainstay".to_owned())
}

/// The server to which a command sends its requests.
#[derive(clap::Args, Debug)]
pub struct ServerArguments {
    /// Kubeconfig of server and user [default: that of --data-dir if given, else $KUBECONFIG, else
    /// that of the default data directory, else ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The data directory whose kubeconfig is used.
    #[command(flatten)]
    pub data: DataDirectory,
}

impl ServerArguments {
    /// Finds the server: that of the data directory, or that of kubectl's kubeconfig.
    ///
    /// # Errors
    /// The configuration file cannot be read, or there is no usable kubeconfig.
    pub async fn find(&self) -> Result<Server> {
        let choice = ServerChoice {
            kubeconfig: self.kubeconfig.clone(),
            data_directory: self.data.path()?,
            is_data_directory_named: self.data.is_named()?,
        };
        Ok(Server::find(&choice).await?)
    }

    /// The options with which another command finds the same server, as the user typed them.
    pub fn options(&self) -> String {
        let kubeconfig = self.kubeconfig.as_deref();
        let kubeconfig = kubeconfig.map(|path| format!(" --kubeconfig {}", path.display()));
        kubeconfig.unwrap_or_else(|| self.data.options())
    }
}

/// Names of an API server.
#[derive(clap::Args, Debug, Default)]
pub struct ServingNames {
    /// Further name or address in the server's certificate, such as that of a load balancer; repeatable
    #[arg(
        id = "tls-san",
        long = "tls-san",
        value_name = "NAME|IP",
        env = "MAINSTAY_TLS_SAN",
        value_delimiter = ','
    )]
    names: Vec<SubjectAltName>,
}

impl ServingNames {
    /// The names of the flags or of the variable; without these, the names of the configuration file.
    pub fn or(self, configured: Vec<SubjectAltName>) -> Vec<SubjectAltName> {
        match self.names.is_empty() {
            true => configured,
            false => self.names,
        }
    }
}

/// Whether a part of a cluster runs in the background.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Background {
    /// Run in the background; `mainstay down` stops it
    #[arg(long)]
    pub detach: bool,
    /// It was started by --detach
    #[arg(long, hide = true)]
    pub in_background: bool,
}

#[derive(clap::Args, Debug, Clone, Default)]
pub struct DataDirectory {
    /// Data directory [default: /var/lib/mainstay for root]
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Configuration file (YAML) of `mainstay up`; it may set the data directory
    #[arg(long, value_name = "FILE", env = "MAINSTAY_CONFIG", global = true)]
    config: Option<PathBuf>,
}

impl DataDirectory {
    /// The data directory of the flag, the environment or the configuration file; without these, the default:
    /// `/var/lib/mainstay` for root, else `$XDG_DATA_HOME/mainstay`.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.data_dir {
            return Ok(path.clone());
        }
        let configured = self.configuration()?.data_dir;
        Ok(configured.unwrap_or_else(default))
    }

    /// Whether the user named a data directory.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn is_named(&self) -> Result<bool> {
        Ok(self.data_dir.is_some() || self.configuration()?.data_dir.is_some())
    }

    /// The contents of the configuration file; the default if the user named no file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn configuration(&self) -> Result<ConfigurationFile> {
        match &self.config {
            Some(path) => ConfigurationFile::read(path),
            None => Ok(ConfigurationFile::default()),
        }
    }

    /// The options that name the same directory in another command, as the user typed them.
    pub fn options(&self) -> String {
        let option = |name: &str, path: &Option<PathBuf>| {
            let path = path.as_ref();
            path.map(|path| format!(" {name} {}", path.display()))
        };
        let options = [
            option("--data-dir", &self.data_dir),
            option("--config", &self.config),
        ];
        options.into_iter().flatten().collect()
    }

    /// The configuration file, if the user named one.
    pub fn configuration_path(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The absolute path of the data directory, with the value of a configuration file that is already read.
    ///
    /// # Errors
    /// The working directory cannot be read.
    pub fn over(&self, configured: Option<&Path>) -> Result<PathBuf> {
        let named = self.data_dir.as_deref().or(configured);
        absolute(&named.map_or_else(default, Path::to_owned))
    }
}

/// The absolute path of a data directory.
///
/// # Errors
/// The working directory cannot be read.
pub fn absolute(directory: &Path) -> Result<PathBuf> {
    std::path::absolute(directory)
        .with_context(|| format!("data directory {}", directory.display()))
}

fn default() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/lib/mainstay")
    } else {
        user_data_home().join("mainstay")
    }
}

fn user_data_home() -> PathBuf {
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings U12: the file that `up` was started with names the directory for all commands.
    #[test]
    fn the_configuration_file_names_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mainstay.yaml");
        std::fs::write(&config, "dataDir: /from/file\nlisten: 127.0.0.1:1\n").unwrap();
        let by_file = DataDirectory {
            data_dir: None,
            config: Some(config.clone()),
        };
        assert_eq!(by_file.path().unwrap(), Path::new("/from/file"));
        assert!(by_file.is_named().unwrap());
        let by_flag = DataDirectory {
            data_dir: Some("/flag".into()),
            config: Some(config),
        };
        assert_eq!(by_flag.path().unwrap(), Path::new("/flag"));
    }
}
