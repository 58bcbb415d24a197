//! The server of a command, and the message if the server does not respond.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use kube_api_client::Client;
use kubeconfig::{Kubeconfig, Limits, ReadError, Transport, read};

use crate::error::InspectionError;
use crate::expiry;

/// A server that does not respond within the first limit counts as absent. Lists of ten thousands of objects need the
/// second limit.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(60),
};

/// The description of kubeconfigs from the environment variable.
const FROM_VARIABLE: &str = "$KUBECONFIG";

/// The paths of the kubeconfig of the server.
#[derive(Clone, Debug)]
pub struct ServerChoice {
    /// A kubeconfig that the user named.
    pub kubeconfig: Option<PathBuf>,
    /// The data directory, which may have a kubeconfig.
    pub data_directory: PathBuf,
    /// Whether the user named the data directory.
    pub is_data_directory_named: bool,
}

/// The API server to which a command sends its requests.
pub struct Server {
    /// The client of its API.
    pub client: Client,
    url: String,
    source: String,
    /// The end of validity of the client certificate, if the certificate has expired.
    expired: Option<Timestamp>,
}

impl Server {
    /// Selects the server as kubectl does, or the server of the data directory.
    ///
    /// # Errors
    /// The kubeconfig does not exist, or cannot be used.
    pub async fn find(choice: &ServerChoice) -> Result<Self, InspectionError> {
        let (kubeconfig, source) = kubeconfig(choice)?;
        let step = || format!("use {source}");
        let expired = expiry::expired(&kubeconfig, Timestamp::now());
        let settings = kubeconfig.select(None);
        let settings = settings.map_err(InspectionError::at(step()))?;
        let url = settings.server.to_string();
        let url = url.trim_end_matches('/').to_owned();
        let namespace = settings.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let transport = Transport::new(settings, LIMITS).await;
        let transport = transport.map_err(InspectionError::at(step()))?;
        Ok(Self {
            client: Client::new(transport, &namespace),
            url,
            source,
            expired,
        })
    }

    /// A server with a connection of the test.
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

    /// The data directory of the server, if the kubeconfig is the file in the data directory.
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
    pub fn explain(&self, error: kube_api_client::Error) -> InspectionError {
        let (url, source) = (&self.url, &self.source);
        InspectionError::Server(match error {
            kube_api_client::Error::Api(status) if status.code == 401 => match self.expired {
                Some(end) => expiry::remedy(url, source, end),
                None => format!(
                    "the server at {url} does not know the user of {source}: {}; with mainstay, \
                     `mainstay kubeconfig` prints the administrator's",
                    status.message
                ),
            },
            kube_api_client::Error::Api(status) => {
                format!("the server at {url} says: {}", status.message)
            }
            other => format!(
                "no answer from {url} (of {source}): {}; is the server running? `mainstay up` starts \
                 one, --kubeconfig names another",
                first_cause(&other)
            ),
        })
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

/// The kubeconfig, and its path or `$KUBECONFIG`.
fn kubeconfig(choice: &ServerChoice) -> Result<(Kubeconfig, String), InspectionError> {
    let of_data = choice.data_directory.join("kubeconfig");
    let path = match &choice.kubeconfig {
        Some(path) => path.clone(),
        None if choice.is_data_directory_named => of_data,
        None => {
            let listed = read::environment();
            if !listed.is_empty() {
                let step = InspectionError::at("read the files of $KUBECONFIG");
                let read = read::files(&listed).map_err(step)?;
                return Ok((read, FROM_VARIABLE.to_owned()));
            }
            first_present(of_data)?
        }
    };
    match read::file(&path) {
        Ok(kubeconfig) => Ok((kubeconfig, path.display().to_string())),
        Err(ReadError::File { path, source }) => {
            let path = path.display();
            let step = format!("read {path}, which `mainstay up` writes when it starts");
            Err(InspectionError::at(step)(source))
        }
        Err(error) => {
            let step = format!("use {}", path.display());
            Err(InspectionError::at(step)(error))
        }
    }
}

fn first_present(of_data: PathBuf) -> Result<PathBuf, InspectionError> {
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
    Err(InspectionError::NoKubeconfig(format!(
        "no kubeconfig at {}: start a server with `mainstay up`, or name one with --kubeconfig, \
         --data-dir or $KUBECONFIG{of_root}",
        places.join(" or ")
    )))
}
