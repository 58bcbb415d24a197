//! Reading manifests: files, directories, standard input; YAML or JSON, several documents each.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The largest manifest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// An object to be applied, with where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file, for messages.
    pub origin: String,
    /// The object.
    pub object: Value,
}

/// Where objects came from that were read from standard input.
const STANDARD_INPUT: &str = "standard input";

/// The objects of standard input, to be read from another's; nothing when it was not asked for.
pub fn from_standard_input(manifests: &[Manifest]) -> String {
    manifests
        .iter()
        .filter(|manifest| manifest.origin == STANDARD_INPUT)
        .map(|manifest| format!("---\n{}\n", manifest.object))
        .collect()
}

/// Reads everything that the `-f` options name, in their order; a directory's files in the order
/// of their names. Nothing is applied if anything is malformed.
pub fn read_all(sources: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for source in sources {
        if source.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read standard input")?;
            manifests.extend(parse(STANDARD_INPUT, &text)?);
        } else if source.is_dir() {
            for file in files_in(source)? {
                manifests.extend(read_file(&file)?);
            }
        } else {
            manifests.extend(read_file(source)?);
        }
    }
    Ok(manifests)
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("read {}", directory.display()))?
            .path();
        let known = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension));
        if known && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{} holds no .yaml, .yml or .json file", directory.display());
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Vec<Manifest>> {
    let name = path.display().to_string();
    let size = fs::metadata(path)
        .with_context(|| format!("read {name}"))?
        .len();
    if size > FILE_BYTES_MAX {
        bail!("{name} is larger than {FILE_BYTES_MAX} bytes");
    }
    let text = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    parse(&name, &text)
}

/// The objects of a text. Empty documents are left out, a `List` is taken apart.
fn parse(origin: &str, text: &str) -> Result<Vec<Manifest>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("parse {origin}"))?;
    let mut manifests = Vec::new();
    for document in documents {
        flatten(origin, document, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(origin: &str, document: Value, manifests: &mut Vec<Manifest>) -> Result<()> {
    if document.is_null() {
        return Ok(());
    }
    let kind = document.get("kind").and_then(Value::as_str);
    let version = document.get("apiVersion").and_then(Value::as_str);
    let (Some(kind), Some(_)) = (kind, version) else {
        bail!("{origin}: a document lacks apiVersion or kind");
    };
    if kind.ends_with("List") && document.get("items").is_some_and(Value::is_array) {
        let items = document
            .get("items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for item in items {
            flatten(origin, item, manifests)?;
        }
        return Ok(());
    }
    manifests.push(Manifest {
        origin: origin.to_owned(),
        object: document,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        let manifests = parse("test", text).unwrap();
        manifests
            .iter()
            .map(|m| m.object["kind"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn several_documents_and_lists_become_single_objects() {
        let text = "---\napiVersion: v1\nkind: Service\n---\n# nothing\n---\napiVersion: v1\n\
                    kind: List\nitems:\n- {apiVersion: v1, kind: Pod}\n- {apiVersion: v1, kind: Secret}\n";
        assert_eq!(kinds(text), ["Service", "Pod", "Secret"]);
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(kinds(r#"{"apiVersion": "v1", "kind": "Pod"}"#), ["Pod"]);
    }

    #[test]
    fn a_document_without_kind_is_refused_with_its_file() {
        let error = parse("web.yaml", "apiVersion: v1\n")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "web.yaml: a document lacks apiVersion or kind");
    }

    #[test]
    fn malformed_text_is_refused_with_its_file() {
        let error = parse("web.yaml", "kind: [unclosed\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("web.yaml"), "{error}");
    }
}
