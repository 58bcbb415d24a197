//! Options that several commands share.

use std::path::{Path, PathBuf};

/// Where everything is kept.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct DataDirectory {
    /// Directory for all data [default: /var/lib/mainstay for root]
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
}

impl DataDirectory {
    /// The directory asked for, or the default: `/var/lib/mainstay` for root, else
    /// `$XDG_DATA_HOME/mainstay`.
    pub fn path(&self) -> PathBuf {
        match &self.data_dir {
            Some(path) => path.clone(),
            None if nix::unistd::geteuid().is_root() => PathBuf::from("/var/lib/mainstay"),
            None => user_data_home().join("mainstay"),
        }
    }

    /// Whether one was asked for.
    pub fn is_named(&self) -> bool {
        self.data_dir.is_some()
    }

    /// Takes the directory from a configuration file where no flag gave one.
    pub fn or(self, other: Option<&Path>) -> Self {
        Self {
            data_dir: self.data_dir.or_else(|| other.map(Path::to_owned)),
        }
    }
}

fn user_data_home() -> PathBuf {
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
}
