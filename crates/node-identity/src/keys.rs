//! Keys, certificate requests (PKCS#10), and the issued certificates.

use std::net::IpAddr;

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

/// The group of all nodes.
const NODES: &str = "system:nodes";

/// The subject of a requested certificate.
#[derive(Clone, Debug)]
pub struct CertificateSubject {
    pub(crate) node_name: String,
    /// The addresses of a server certificate; `None` for a client certificate.
    pub(crate) serving: Option<Vec<IpAddr>>,
}

impl CertificateSubject {
    /// The client certificate of a node.
    pub fn client(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            serving: None,
        }
    }

    /// The server certificate of a node, for its name and addresses.
    pub fn serving(node_name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            serving: Some(addresses.into_iter().collect()),
        }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Prints the value without the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Identity");
        debug.field("certificate_pem", &self.certificate_pem);
        debug.finish_non_exhaustive()
    }
}

/// A certificate request and its key, in PEM.
pub(crate) struct KeyedRequest {
    pub(crate) request_pem: String,
    pub(crate) key_pem: String,
}

/// Creates a key and a request for the certificate.
pub(crate) fn request(subject: &CertificateSubject) -> Result<KeyedRequest, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let names = &mut params.distinguished_name;
    names.push(DnType::OrganizationName, NODES);
    names.push(
        DnType::CommonName,
        format!("system:node:{}", subject.node_name),
    );
    if let Some(addresses) = &subject.serving {
        let name = SanType::DnsName(subject.node_name.as_str().try_into()?);
        let addresses = addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names = std::iter::once(name).chain(addresses).collect();
    }
    let key = KeyPair::generate()?;
    Ok(KeyedRequest {
        request_pem: params.serialize_request(&key)?.pem()?,
        key_pem: key.serialize_pem(),
    })
}

/// Converts a certificate from DER to PEM.
pub(crate) fn pem(certificate: &[u8]) -> String {
    let certificate = Pem::new("CERTIFICATE", certificate);
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&certificate, config)
}
