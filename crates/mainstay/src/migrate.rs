//! `mainstay migrate`: writes the objects of a CustomResourceDefinition in its storage version.

use anyhow::{Context, Result, bail, ensure};
use cluster_inspection::Server;
use command_output::output::print_line;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_api_client::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::settings::ServerArguments;

/// Objects in a page of a list.
const PAGE_SIZE: u32 = 500;

/// Attempts to write the status, which controllers write, too.
const STATUS_ATTEMPTS: usize = 5;

/// Arguments of `mainstay migrate`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct MigrateArguments {
    /// Names of CustomResourceDefinitions, such as certificates.cert-manager.io
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    server: ServerArguments,
}

const AFTER_HELP: &str = "\
Objects that were stored before the storage version of their definition changed keep their former
version. The command writes each object without a change, which stores it in the storage version,
and then removes the other versions from status.storedVersions. After that the definition may drop
them. Objects may be read and written meanwhile.

Exit status: 0 if all objects have the storage version, 1 otherwise.

Examples:
  mainstay migrate certificates.cert-manager.io";

/// The kind of a definition in its storage version.
#[derive(Debug, PartialEq, Eq)]
struct StoredKind {
    resource: ApiResource,
    is_namespaced: bool,
    /// The number of changes of the spec.
    generation: Option<i64>,
}

impl StoredKind {
    /// *Errors.* The storage version is not served, so that objects cannot be written in it.
    fn of(definition: &CustomResourceDefinition) -> Result<Self> {
        let spec = &definition.spec;
        let storage = spec.versions.iter().find(|version| version.storage);
        let storage = storage.context("the definition has no storage version")?;
        ensure!(
            storage.served,
            "the storage version {} is not served; set `served: true` first",
            storage.name
        );
        let names = &spec.names;
        Ok(Self {
            resource: ApiResource::new(&spec.group, &storage.name, &names.kind, &names.plural),
            is_namespaced: spec.scope == "Namespaced",
            generation: definition.metadata.generation,
        })
    }
}

/// Migrates the objects of the definitions.
pub async fn run(arguments: MigrateArguments) -> Result<()> {
    let server = arguments.server.find().await?;
    for name in &arguments.names {
        let count = migrate(&server, name).await;
        let (kind, count) = count.with_context(|| format!("migrate {name}"))?;
        let version = &kind.resource.version;
        print_line(&format!("{name}: {count} objects are stored in {version}"));
    }
    Ok(())
}

async fn migrate(server: &Server, name: &str) -> Result<(StoredKind, usize)> {
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
    let definition = definitions.get(name).await;
    let kind = StoredKind::of(&definition.map_err(|error| server.explain(error))?)?;
    let count = write_all(server, &kind).await?;
    trim(server, &definitions, name, &kind).await?;
    Ok((kind, count))
}

/// Writes all objects without a change; returns their number.
async fn write_all(server: &Server, kind: &StoredKind) -> Result<usize> {
    let all: Api<DynamicObject> = Api::all_with(server.client.clone(), &kind.resource);
    let mut count = 0;
    let mut page = ListParams::default().limit(PAGE_SIZE);
    loop {
        let listed = all.list_metadata(&page).await;
        let listed = listed.map_err(|error| server.explain(error))?;
        let next = listed.metadata.continue_.clone();
        for object in listed {
            let name = object.metadata.name.unwrap_or_default();
            let namespace = object.metadata.namespace.filter(|_| kind.is_namespaced);
            let client = server.client.clone();
            let api: Api<DynamicObject> = match &namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, &kind.resource),
                None => Api::all_with(client, &kind.resource),
            };
            let nothing = Patch::Merge(json!({}));
            match api.patch(&name, &PatchParams::default(), &nothing).await {
                Ok(_) => count += 1,
                // A deleted object needs no migration.
                Err(error) if error.code() == Some(404) => {}
                Err(error) => return Err(server.explain(error).into()),
            }
        }
        match next.filter(|token| !token.is_empty()) {
            Some(token) => {
                page = ListParams::default()
                    .limit(PAGE_SIZE)
                    .continue_token(&token)
            }
            None => return Ok(count),
        }
    }
}

/// Removes the other versions from the status.
///
/// *Errors.* The spec has changed since the objects were written: some may have another version.
async fn trim(
    server: &Server,
    definitions: &Api<CustomResourceDefinition>,
    name: &str,
    kind: &StoredKind,
) -> Result<()> {
    for _ in 0..STATUS_ATTEMPTS {
        let definition = definitions.get(name).await;
        let definition = definition.map_err(|error| server.explain(error))?;
        ensure!(
            StoredKind::of(&definition)? == *kind,
            "the definition has changed meanwhile; run the command again"
        );
        let patch = json!({
            "metadata": {"resourceVersion": definition.metadata.resource_version},
            "status": {"storedVersions": [kind.resource.version]},
        });
        let params = PatchParams::default();
        match definitions
            .patch_status(name, &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(409) => {}
            Err(error) => return Err(server.explain(error).into()),
        }
    }
    bail!("the status kept being changed by others; run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(served: bool) -> CustomResourceDefinition {
        let definition = json!({
            "metadata": {"name": "boats.example.org", "generation": 3},
            "spec": {"group": "example.org", "scope": "Namespaced",
                "names": {"kind": "Boat", "plural": "boats"},
                "versions": [{"name": "v1", "served": true, "storage": false},
                    {"name": "v2", "served": served, "storage": true}]},
        });
        serde_json::from_value(definition).unwrap()
    }

    #[test]
    fn objects_are_written_in_the_storage_version() {
        let kind = StoredKind::of(&definition(true)).unwrap();
        let resource = ApiResource::new("example.org", "v2", "Boat", "boats");
        assert_eq!((kind.resource, kind.is_namespaced), (resource, true));
        assert_eq!(kind.generation, Some(3));
        let error = StoredKind::of(&definition(false)).unwrap_err().to_string();
        assert!(error.contains("v2 is not served"), "{error}");
    }
}
