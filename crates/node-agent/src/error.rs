/// An agent that cannot start, or cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the container runtime")]
    Runtime(#[source] container_runtime::RuntimeError),
    /// A directory of the agent cannot be created or read.
    #[error("use the directory {}", path.display())]
    Directory {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The kubelet API cannot be served on the network.
    #[error("serve the kubelet API")]
    KubeletApi(#[from] KubeletApiError),
    /// The node object cannot be written.
    #[error("register node {node}")]
    Register {
        node: String,
        #[source]
        source: Box<kube_api_client::Error>,
    },
}

/// The reason why the kubelet API cannot be served on the network.
#[derive(Debug, thiserror::Error)]
pub enum KubeletApiError {
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// A certificate or a key is malformed.
    #[error("read certificates as PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// rustls rejects the certificate or the key.
    #[error("use certificates")]
    Rustls(#[from] rustls::Error),
    /// The authority of the clients cannot be used.
    #[error("use the certificate authority of clients")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}
