//! The controller of Secrets of the type `kubernetes.io/service-account-token`, which some charts still create.
//!
//! Their tokens are bound to the Secret and valid as long as the Secret exists; the API server signs them.

use controller_framework::{Cache, ObjectChange, Queue, ReconcileResult, WatchConfig, object_key};
use controller_planners::service_account_tokens::{
    ACCOUNT_UID, AccountTokenPlan, TOKEN, TYPE, account_of, plan,
};
use json_tree::{Value, json};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube_api_client::guarded_writes::{Delete, delete, unless_outrun};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use object_model::{ObjectKey, Uid};
use resource_kinds::MetadataIdentity;

use crate::Context;

/// Maximum validity of a token request; the token becomes invalid with its Secret.
const SECONDS: i64 = 1 << 32;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("write the token of a Secret")]
    Api(#[from] kube_api_client::Error),
    #[error("the server answered without a token")]
    NoToken,
}

struct Keeper {
    client: Client,
    secrets: Cache<Secret>,
    accounts: Cache<ServiceAccount>,
    root_ca_pem: String,
}

pub(crate) async fn run(context: Context) {
    let only = WatchConfig::default().fields(&format!("type={TYPE}"));
    let secrets = Api::all(context.client.clone());
    let controller = Keeper {
        client: context.client.clone(),
        secrets: Cache::spawn(secrets, only, context.component().clone()),
        accounts: context.caches.service_accounts.clone(),
        root_ca_pem: context.config.root_ca_pem.clone(),
    };
    context
        .run("serviceaccount_tokens_secret", controller)
        .await;
}

impl controller_framework::Controller for Keeper {
    type Key = ObjectKey;
    type Error = Error;

    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.secrets.wait_synced().await && self.accounts.wait_synced().await
    }

    /// Queues new and changed Secrets, and the Secrets of changed ServiceAccounts.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut secrets = self.secrets.subscribe();
        let mut accounts = self.accounts.subscribe();
        loop {
            tokio::select! {
                Some(change) = secrets.next() => {
                    if let ObjectChange::Applied(new, _) = change {
                        queue.add(object_key(new.as_ref()));
                    }
                }
                Some(change) = accounts.next() => {
                    if matches!(change, ObjectChange::Applied(_, Some(_))) {
                        continue;
                    }
                    let account = object_key(&**change.object());
                    for secret in self.secrets.list_in(&account.namespace) {
                        if account_of(&secret) == Some(&*account.name) {
                            queue.add(object_key(secret.as_ref()));
                        }
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        self.keep(key).await.map(|()| ReconcileResult::Done)
    }
}

impl Keeper {
    async fn keep(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(secret) = self.secrets.get_key(key) else {
            return Ok(());
        };
        let Some(name) = account_of(&secret) else {
            return Ok(());
        };
        let account = self.accounts.get(&key.namespace, name);
        let planned = plan(&secret, account.as_deref(), &self.root_ca_pem);
        match planned.map_err(kube_api_client::Error::from)? {
            AccountTokenPlan::Leave => Ok(()),
            AccountTokenPlan::Fill { token, uid, data } => {
                let mut data = json!(data);
                if token {
                    let value = self.token(key, name, &secret).await?;
                    data[TOKEN] = json!(k8s_openapi::ByteString(value.into_bytes()));
                }
                self.fill(key, &secret, &uid, data).await
            }
            AccountTokenPlan::Delete => {
                let accounts: Api<ServiceAccount> =
                    Api::namespaced(self.client.clone(), &key.namespace);
                let now = accounts.get_opt(name).await?;
                if plan(&secret, now.as_ref(), &self.root_ca_pem) == Ok(AccountTokenPlan::Delete) {
                    let uid = secret.metadata.object_uid();
                    let how = Delete::of_uid(uid.map_err(kube_api_client::Error::from)?);
                    let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                    delete(&api, &key.name, how).await?;
                }
                Ok(())
            }
        }
    }

    async fn token(
        &self,
        key: &ObjectKey,
        account: &str,
        secret: &Secret,
    ) -> Result<String, Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Secret".to_owned()),
                    name: Some(key.name.to_string()),
                    uid: secret.metadata.uid.clone(),
                }),
                expiration_seconds: Some(SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let response: TokenRequest = api
            .create_subresource("token", account, &params, &request)
            .await?;
        let token = response.status.and_then(|status| status.token);
        token.ok_or(Error::NoToken)
    }

    async fn fill(
        &self,
        key: &ObjectKey,
        secret: &Secret,
        uid: &Uid,
        data: Value,
    ) -> Result<(), Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({
            "metadata": {
                "uid": secret.metadata.uid,
                "resourceVersion": secret.metadata.resource_version,
                "annotations": {ACCOUNT_UID: uid},
            },
            "data": data,
        });
        let params = PatchParams::default();
        let written = api.patch(&key.name, &params, &Patch::Merge(patch)).await;
        unless_outrun(written)?;
        Ok(())
    }
}
