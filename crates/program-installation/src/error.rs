//! Errors of an installation.

use std::io;
use std::path::{Path, PathBuf};

/// The error of an installation or its removal.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "{command} changes /usr/local and /etc and needs root: use sudo, or --dry-run to print the changes"
    )]
    NotRoot { command: String },
    /// An action on a file failed.
    #[error("{action} {}", .path.display())]
    File {
        /// `read`, `write`, `make` or `remove`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read this program's file")]
    ProgramGone,
    #[error("read {}, the list of what is installed", .path.display())]
    MalformedRecord {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("encode the record")]
    Encode(#[source] serde_json::Error),
    /// Paths have files of other programs, or changed files.
    #[error("nothing was installed: {}; move these files away and repeat the command{advice}", .refusals.join("; "))]
    Refused {
        refusals: Vec<String>,
        advice: &'static str,
    },
    #[error("nothing is installed: there is no {}, which `mainstay install` writes", .record.display())]
    NotInstalled { record: PathBuf },
    #[error(
        "{path:?} has a character with a special meaning in a systemd unit; use a path of letters, digits and \
         / . _ - + @ , : ="
    )]
    SpecialCharacter { path: String },
    #[error(
        "the service mainstay runs: end it and its pods first, with `mainstay down --data-dir {}`", .data.display()
    )]
    ServiceRuns { data: PathBuf },
    #[error("run systemctl")]
    NoSystemctl(#[source] io::Error),
    #[error("systemctl {arguments}: {message}")]
    Systemctl { arguments: String, message: String },
}

impl InstallError {
    /// The error of an action on a file, for `map_err`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, InstallError>;
