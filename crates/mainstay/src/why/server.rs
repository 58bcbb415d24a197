//! The server to ask, and the message when it does not answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use api_client::Client;
use jiff::Timestamp;
use kubeconfig::{Kubeconfig, Limits, ReadError, Transport, read};

use super::expiry;
use crate::settings::{DataDirectory, ServerArguments};

/// A server that does not answer within the first limit is not there. Lists of ten thousands of objects
/// take a while.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(60),
};

/// The description of kubeconfigs from the environment variable.
const FROM_VARIABLE: &str = "$KUBECONFIG";

/// The API server that a command asks.
pub struct Server {
    /// The client of its API.
    pub client: Client,
    url: String,
    source: String,
    /// The end of the client certificate, if it has expired.
    expired: Option<Timestamp>,
}

impl Server {
    /// Finds the server as kubectl would, or that of the data directory.
    pub async fn find(arguments: &ServerArguments) -> Result<Self> {
        let named = arguments.kubeconfig.as_deref();
        let (kubeconfig, source) = kubeconfig(named, &arguments.data)?;
        let context = || format!("use {source}");
        let expired = expiry::expired(&kubeconfig, Timestamp::now());
        let settings = kubeconfig.select(None).with_context(context)?;
        let url = settings.server.to_string();
        let url = url.trim_end_matches('/').to_owned();
        let namespace = settings.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let transport = Transport::new(settings, LIMITS).await;
        let client = Client::new(transport.with_context(context)?, &namespace);
        Ok(Self {
            client,
            url,
            source,
            expired,
        })
    }

    /// For a server that is reached in another way.
    #[cfg(test)]
    pub fn of(client: Client) -> Self {
        Self {
            client,
            url: "in this process".to_owned(),
            source: "nothing".to_owned(),
            expired: None,
        }
    }

    /// The namespace of the context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Its URL, for instance `https://127.0.0.1:6443`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its data directory, if the kubeconfig is the one there.
    pub fn data_directory(&self) -> Option<PathBuf> {
        let path = match self.source.as_str() {
            FROM_VARIABLE => PathBuf::from(std::env::var_os("KUBECONFIG")?),
            path => PathBuf::from(path),
        };
        let directory = path.parent()?;
        let is_marked = path.ends_with("kubeconfig") && directory.join("instance").is_file();
        is_marked.then(|| directory.to_owned())
    }

    /// An error with its remedy.
    pub fn explain(&self, error: api_client::Error) -> anyhow::Error {
        let (url, source) = (&self.url, &self.source);
        match error {
            api_client::Error::Api(status) if status.code == 401 => match self.expired {
                Some(end) => anyhow!(expiry::remedy(url, source, end)),
                None => anyhow!(
                    "the server at {url} does not know the user of {source}: {}; with mainstay, \
                     `mainstay kubeconfig` prints the administrator's",
                    status.message
                ),
            },
            api_client::Error::Api(status) => {
                anyhow!("the server at {url} says: {}", status.message)
            }
            other => anyhow!(
                "no answer from {url} (of {source}): {}; is the server running? `mainstay up` starts \
                 one, --kubeconfig names another",
                first_cause(&other)
            ),
        }
    }
}

/// The innermost cause of an error: the outer ones name layers of the client.
fn first_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn kubeconfig(named: Option<&Path>, data: &DataDirectory) -> Result<(Kubeconfig, String)> {
    let of_data = data.path()?.join("kubeconfig");
    let path = match named {
        Some(path) => path.to_owned(),
        None if data.is_named()? => of_data,
        None => {
            let listed = read::environment();
            if !listed.is_empty() {
                let read = read::files(&listed).context("read the files of $KUBECONFIG")?;
                return Ok((read, FROM_VARIABLE.to_owned()));
            }
            first_present(of_data)?
        }
    };
    let kubeconfig = match read::file(&path) {
        Ok(kubeconfig) => kubeconfig,
        Err(ReadError::File { path, source }) => {
            return Err(source).with_context(|| {
                format!(
                    "read {}, which `mainstay up` writes when it starts",
                    path.display()
                )
            });
        }
        Err(error) => return Err(error.into()),
    };
    Ok((kubeconfig, path.display().to_string()))
}

fn first_present(of_data: PathBuf) -> Result<PathBuf> {
    let home = std::env::home_dir().map(|home| home.join(".kube/config"));
    let places = [Some(of_data), home];
    let places: Vec<PathBuf> = places.into_iter().flatten().collect();
    if let Some(path) = places.iter().find(|path| path.exists()) {
        return Ok(path.clone());
    }
    let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    let of_root = match nix::unistd::geteuid().is_root() {
        true => "",
        false => {
            "; for a server that root has started put sudo in front, or keep what \
             `sudo mainstay kubeconfig` prints"
        }
    };
    bail!(
        "no kubeconfig at {}: start a server with `mainstay up`, or name one with --kubeconfig, \
         --data-dir or $KUBECONFIG{of_root}",
        places.join(" or ")
    )
}
