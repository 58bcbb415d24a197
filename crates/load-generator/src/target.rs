//! The measured server, and the namespace of all created objects.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use json_tree::json;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::call::{Call, is_not_found};
use crate::custom;
use crate::objects::{ACCOUNT, BenchObjects, BenchSubject};

/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough for a slow server to remove the thousands of pods of a measurement.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(300);

/// The label with the creator of a namespace.
const LABEL: &str = "app.kubernetes.io/managed-by";
const LABEL_VALUE: &str = "mainstay-bench";

/// A server, and a namespace on it.
pub struct BenchNamespace {
    config: Config,
    /// A client for requests that are not measured.
    pub client: Client,
    pub namespace: String,
    subject: BenchSubject,
}

impl BenchNamespace {
    /// Creates a namespace on the server of the kubeconfig.
    pub async fn prepare(kubeconfig: &Path, subject: BenchSubject) -> Result<Self> {
        let context = || format!("use {}", kubeconfig.display());
        let read = Kubeconfig::read_from(kubeconfig).with_context(context)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let mut config = config.with_context(context)?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let client = Client::try_from(config.clone()).with_context(context)?;
        let namespace = make_namespace(&client)
            .await
            .with_context(|| format!("make a namespace at {}", config.cluster_url))?;
        if let BenchSubject::CustomResources { rules } = subject {
            custom::define(&client, &namespace, rules).await?;
        }
        Ok(Self {
            config,
            client,
            namespace,
            subject,
        })
    }

    pub fn objects(&self) -> BenchObjects {
        BenchObjects::of(&self.namespace, self.subject)
    }

    /// Creates the account of the pods.
    pub async fn make_account(&self) -> Result<()> {
        let uri = format!("/api/v1/namespaces/{}/serviceaccounts", self.namespace);
        let account = json!({"metadata": {"name": ACCOUNT}});
        let result = Call::post(uri, &account).send(&self.client).await;
        result.context("make a service account").map(drop)
    }

    /// Clients with an open connection each.
    pub async fn clients(&self, count: u32) -> Result<Vec<Client>> {
        open_clients(&self.config, count).await
    }

    /// The configuration of its clients.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Removes the namespace with its contents, and waits until the namespace is deleted.
    pub async fn remove(&self) -> Result<()> {
        let name = &self.namespace;
        let uri = format!("/api/v1/namespaces/{name}");
        let advice = || {
            format!(
                "remove the namespace {name}: try `kubectl delete namespace -l {LABEL}={LABEL_VALUE}`"
            )
        };
        let deleted = Call::delete(uri.clone()).send(&self.client).await;
        deleted.with_context(advice)?;
        if matches!(self.subject, BenchSubject::CustomResources { .. }) {
            custom::remove(&self.client, name).await?;
        }
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        while Instant::now() < deadline {
            match Call::get(uri.clone()).send(&self.client).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                result => result.with_context(advice)?,
            };
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the namespace {name} is deleted, but was not gone in {REMOVAL_TIMEOUT:?}")
    }
}

/// Clients with an open connection each. The connections belong to the runtime of the caller.
pub async fn open_clients(config: &Config, count: u32) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = Client::try_from(config.clone()).context("make a client")?;
        let opened = Call::get("/version".to_owned()).send(&client).await;
        opened.context("open a connection")?;
        clients.push(client);
    }
    Ok(clients)
}

async fn make_namespace(client: &Client) -> Result<String> {
    let namespace = json!({
        "metadata": {"generateName": "mainstay-bench-", "labels": {LABEL: LABEL_VALUE}},
    });
    let uri = "/api/v1/namespaces".to_owned();
    let namespace_object = Call::post(uri, &namespace).json(client).await?;
    let name = namespace_object["metadata"]["name"].as_str();
    Ok(name.context("it has no name")?.to_owned())
}
