//! `mainstay kubeconfig`: the administrator's kubeconfig, printed or merged into the user's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use control_plane::admin_kubeconfig::NAME;
use data_directory::private_file;
use json_tree::{Value, json};
use object_model::yaml_error;

use crate::settings::DataDirectory;

/// Arguments of `mainstay kubeconfig`.
#[derive(clap::Args, Debug)]
pub struct KubeconfigArguments {
    #[command(flatten)]
    data: DataDirectory,
    /// Merge into $KUBECONFIG or ~/.kube/config and set the current context
    #[arg(long)]
    merge: bool,
}

/// Prints the kubeconfig, or merges it into the user's own.
pub fn run(arguments: &KubeconfigArguments) -> Result<()> {
    let path = arguments.data.path()?.join("kubeconfig");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "read {}; `mainstay up` writes it when it starts",
            path.display()
        )
    })?;
    if !arguments.merge {
        command_output::output::print_text(&text);
        return Ok(());
    }
    let ours = parse(&path, &text)?;
    let target = user_kubeconfig()?;
    let theirs = match fs::read_to_string(&target) {
        Ok(text) if !text.trim().is_empty() => parse(&target, &text)?,
        Ok(_) => json!({}),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error).with_context(|| format!("read {}", target.display())),
    };
    let merged = merge(theirs, &ours)?;
    let text = serde_saphyr::to_string(&merged).context("encode the merged kubeconfig")?;
    private_file::write(&target, &text)?;
    command_output::output::print_line(&format!(
        "context {NAME:?} is now current in {}",
        target.display()
    ));
    Ok(())
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    serde_saphyr::from_str(text)
        .map_err(|error| anyhow::anyhow!(yaml_error::in_file(&path.display(), &error)))
}

fn user_kubeconfig() -> Result<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG")
        && let Some(first) = std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty())
    {
        return Ok(first);
    }
    match std::env::home_dir() {
        Some(home) => Ok(home.join(".kube/config")),
        None => bail!("no home directory: set KUBECONFIG to the file to merge into"),
    }
}

/// Replaces entries of the same name by this instance's cluster, user and context.
fn merge(mut theirs: Value, ours: &Value) -> Result<Value> {
    let Some(target) = theirs.as_object_mut() else {
        bail!("the kubeconfig to merge into is not a mapping");
    };
    for list in ["clusters", "users", "contexts"] {
        let mut entries: Vec<Value> = target
            .get(list)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let added = ours
            .get(list)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        entries.retain(|entry| added.iter().all(|new| new.get("name") != entry.get("name")));
        entries.extend(added);
        target.insert(list.to_owned(), Value::Array(entries));
    }
    target.entry("apiVersion").or_insert_with(|| json!("v1"));
    target.entry("kind").or_insert_with(|| json!("Config"));
    target.insert("current-context".to_owned(), json!(NAME));
    Ok(theirs)
}

#[cfg(test)]
mod tests {
    use control_plane::admin_kubeconfig::{Credentials, render};

    use super::*;

    fn ours() -> Value {
        let credentials = Credentials {
            server: "https://127.0.0.1:1",
            others: &[],
            ca: "ca",
            certificate: "c",
            key: "k",
        };
        serde_saphyr::from_str(&render(&credentials)).unwrap()
    }

    #[test]
    fn the_rendered_file_carries_the_credentials() {
        let config = ours();
        assert_eq!(
            config["clusters"][0]["cluster"]["server"],
            "https://127.0.0.1:1"
        );
        assert_eq!(config["users"][0]["user"]["client-key-data"], "aw==");
        assert_eq!(config["current-context"], "mainstay");
    }

    #[test]
    fn merging_keeps_other_clusters_and_replaces_our_own() {
        let theirs = json!({
            "clusters": [{"name": "prod"}, {"name": "mainstay", "cluster": {"server": "old"}}],
            "current-context": "prod",
        });
        let merged = merge(theirs, &ours()).unwrap();
        assert_eq!(merged["clusters"][0]["name"], "prod");
        assert_eq!(merged["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(
            merged["clusters"][1]["cluster"]["server"],
            "https://127.0.0.1:1"
        );
        assert_eq!(merged["current-context"], "mainstay");
    }
}
