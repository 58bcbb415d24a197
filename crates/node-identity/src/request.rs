//! Certificates from CertificateSigningRequests, which the cluster approves and signs.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::{Api, Client, PostParams, ResourceExt};
use outbound_http::tls::{self, Roots, Trust};
use resource_kinds::certificates::{condition, signer};

use crate::error::Error;
use crate::keys::{self, CertificateSubject, Identity};

/// Time limit of a decision. The cluster decides at once, or waits for an administrator.
const DECISION_LIMIT: Duration = Duration::from_secs(60);
/// The interval of the checks of a request.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// The reason with which the cluster denies the certificate of a node that is alive.
const ALIVE: &str = "NodeIsAlive";

/// Requests a certificate with a new key, and waits for it.
///
/// # Errors
/// See [`Error`].
pub async fn request(client: &Client, subject: &CertificateSubject) -> Result<Identity, Error> {
    let keyed_request = keys::request(subject)?;
    let (signer, usage) = match subject.serving {
        Some(_) => (signer::NODE_SERVING, "server auth"),
        None => (signer::NODE_CLIENT, "client auth"),
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(keyed_request.request_pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let sent = requests.create(&PostParams::default(), &object).await;
    let name = sent.map_err(Error::Api)?.name_any();
    let issued = tokio::time::timeout(DECISION_LIMIT, issued(&requests, &name)).await;
    let certificate = issued.map_err(|_| Error::Undecided(name))??;
    let certificate_pem = String::from_utf8(certificate).map_err(|_| Error::Issued)?;
    // Checks that the certificate matches the key.
    let key = keyed_request.key_pem.as_bytes();
    let identity = tls::Identity::of_pem(certificate_pem.as_bytes(), key);
    let identity = identity.map_err(|_| Error::Issued)?;
    let usable = tls::client(Trust::Roots(Roots::none()), Some(identity));
    usable.map_err(|_| Error::Issued)?;
    Ok(Identity {
        certificate_pem,
        key_pem: keyed_request.key_pem,
    })
}

/// Waits for the certificate of a request.
async fn issued(requests: &Api<CertificateSigningRequest>, name: &str) -> Result<Vec<u8>, Error> {
    loop {
        let request = requests.get(name).await.map_err(Error::Api)?;
        let status = request.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        if let Some(refused) = conditions.into_iter().find(is_refusal) {
            let message = refused.message.unwrap_or_default();
            return Err(match refused.reason.as_deref() {
                Some(ALIVE) => Error::NameTaken(message),
                _ => Error::Refused(message),
            });
        }
        if let Some(certificate) = status
            .certificate
            .filter(|certificate| !certificate.0.is_empty())
        {
            return Ok(certificate.0);
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

fn is_refusal(condition: &CertificateSigningRequestCondition) -> bool {
    matches!(
        condition.type_.as_str(),
        condition::DENIED | condition::FAILED
    )
}
