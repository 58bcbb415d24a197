//! The certificates of a running node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use command_output::output::warn;
use host_kernel::blocking;
use jiff::Timestamp;
use kube_api_client::Client;
use kube_api_client::guarded_writes::chain;
use node_agent::ServingCertificate;
use node_identity::{CertificateSubject, Error, Identity, Renewal, Servers, request};
use process_telemetry::backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::membership::MembershipStore;

/// Time between two requests for the first serving certificate.
const RETRY: Duration = Duration::from_secs(2);

/// A node with its connection to the servers.
#[derive(Clone)]
pub struct NodeClient {
    /// The API servers; the node uses one server at a time.
    pub servers: Servers,
    /// The certificate authority of the cluster, PEM.
    pub ca_pem: String,
    pub node_name: String,
    /// The client certificate; each renewal is sent.
    pub identity: watch::Sender<Identity>,
}

impl NodeClient {
    fn renewal(&self, subject: CertificateSubject, current: watch::Sender<Identity>) -> Renewal {
        Renewal {
            servers: self.servers.clone(),
            ca_pem: self.ca_pem.clone(),
            subject,
            client: self.identity.subscribe(),
            current,
        }
    }

    /// Renews the client certificate, and stores each new one, until `stop`.
    pub async fn renew_client(self, store: Arc<MembershipStore>, stop: CancellationToken) {
        let mut renewed = self.identity.subscribe();
        renewed.mark_unchanged();
        let storing = async {
            while renewed.changed().await.is_ok() {
                let identity = renewed.borrow_and_update().clone();
                let store = Arc::clone(&store);
                if let Err(error) = blocking(move || store.write_identity(&identity)).await {
                    let error = chain(&error);
                    tracing::error!("the node's certificate is not stored: {error}");
                }
            }
        };
        let subject = CertificateSubject::client(&self.node_name);
        let renewal = self.renewal(subject, self.identity.clone());
        let renewing = async {
            if let Err(error) = renewal.run(Timestamp::now, stop.clone()).await {
                // The pods continue. The node needs a new token.
                warn(&format!("mainstay: {}", chain(&error)));
            }
        };
        stop.run_until_cancelled(async {
            tokio::join!(storing, renewing);
        })
        .await;
    }

    /// Requests a serving certificate for each address of the node, and renews it, until `stop`. The server
    /// approves a request after the Node object has the address.
    pub async fn renew_serving(
        self,
        client: Client,
        mut address: watch::Receiver<IpAddr>,
        published: watch::Sender<Option<ServingCertificate>>,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(async {
            loop {
                let now = *address.borrow_and_update();
                let subject = CertificateSubject::serving(&self.node_name, [now]);
                tokio::select! {
                    () = self.serve_with(&client, subject, &published) => {}
                    Ok(()) = address.changed() => {}
                }
            }
        })
        .await;
    }

    async fn serve_with(
        &self,
        client: &Client,
        subject: CertificateSubject,
        published: &watch::Sender<Option<ServingCertificate>>,
    ) {
        let first = loop {
            match request(client, &subject).await {
                Ok(first) => break first,
                Err(error) => {
                    report(error, "the node has no serving certificate yet");
                    tokio::time::sleep(backoff::jittered(RETRY)).await;
                }
            }
        };
        publish(&first, published);
        let current = watch::Sender::new(first);
        let mut renewed = current.subscribe();
        let showing = async {
            while renewed.changed().await.is_ok() {
                publish(&renewed.borrow_and_update(), published);
            }
        };
        let renewal = self.renewal(subject, current);
        let renewing = renewal.run(Timestamp::now, CancellationToken::new());
        let (renewing, ()) = tokio::join!(renewing, showing);
        if let Err(error) = renewing {
            report(error, "the node's serving certificate is not renewed");
            tokio::time::sleep(backoff::jittered(RETRY)).await;
        }
    }
}

fn publish(identity: &Identity, published: &watch::Sender<Option<ServingCertificate>>) {
    match ServingCertificate::of_pem(&identity.certificate_pem, &identity.key_pem) {
        Ok(certificate) => drop(published.send_replace(Some(certificate))),
        Err(error) => tracing::warn!(%error, "the node's serving certificate cannot be used"),
    }
}

fn report(error: Error, task: &str) {
    tracing::warn!("{task}: {}", chain(&error));
}
