//! The choice of the default storage class.

use anyhow::{Context, Result};
use json_tree::json;
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::{Api, ListParams, Patch, PatchParams};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::DEFAULT_STORAGE_CLASS;
use resource_kinds::bootstrap::{COW_CLASS, DEFAULT_CLASS, REPLICATED_CLASS};
use resource_kinds::storage::is_default;
use serde::Deserialize;

use crate::Server;

/// A storage class that every cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltinClass {
    /// Directories of the host's file system
    Local,
    /// Volumes of enforced size, with snapshots
    LocalCow,
    /// Volumes of local-cow with a replica on another node
    LocalReplicated,
}

impl BuiltinClass {
    /// The name of the StorageClass.
    fn name(self) -> &'static str {
        match self {
            Self::Local => DEFAULT_CLASS,
            Self::LocalCow => COW_CLASS,
            Self::LocalReplicated => REPLICATED_CLASS,
        }
    }
}

/// Makes a class the only default class.
pub(crate) async fn choose(server: &Server, class: BuiltinClass) -> Result<()> {
    let client = server.client("mainstay-admin", &["system:masters"]);
    let classes: Api<StorageClass> = Api::all(client);
    let listed = classes.list(&ListParams::default()).await;
    for one in listed.context("list the storage classes")?.items {
        let name = one.metadata.object_name().context("read a storage class")?;
        let is_chosen = name == class.name();
        let has = json_tree::to_value(&one).is_ok_and(|one| is_default(&one));
        if has == is_chosen {
            continue;
        }
        let patch = json!({"metadata": {"annotations": {
            DEFAULT_STORAGE_CLASS: is_chosen.to_string(),
            "storageclass.beta.kubernetes.io/is-default-class": null,
        }}});
        let params = PatchParams::default();
        let patched = classes.patch(name, &params, &Patch::Merge(patch)).await;
        patched.with_context(|| format!("mark the storage class {name}"))?;
    }
    Ok(())
}
