//! Reads manifests: files, directories, standard input; YAML or JSON, several documents each.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use json_tree::Value;
use object_model::yaml_error;

/// The maximum size of a manifest file, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The error of a source of manifests.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("read {source_name}")]
    Unreadable {
        /// The path, or `standard input`.
        source_name: String,
        source: io::Error,
    },
    /// The source is the input of a generator such as kustomize, or an address.
    #[error("{}: {advice}", .source_path.display())]
    NoManifest {
        source_path: PathBuf,
        advice: String,
    },
    #[error("{} holds no .yaml, .yml or .json file", .0.display())]
    EmptyDirectory(PathBuf),
    #[error("{0} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge(String),
    /// `FILE:LINE:COLUMN: MESSAGE`.
    #[error("{0}")]
    Malformed(String),
    #[error("{origin}: {reason}")]
    WithoutKind {
        origin: String,
        reason: &'static str,
    },
}

impl ReadError {
    fn unreadable(source_name: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let source_name = source_name.into();
        move |source| Self::Unreadable {
            source_name,
            source,
        }
    }
}

/// An object to apply, with its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The path of the file, for messages.
    pub origin: String,
    /// The object as JSON.
    pub object: Value,
}

/// The origin of objects from standard input, for messages.
const STANDARD_INPUT: &str = "standard input";

/// The objects that came from standard input, as text for the standard input of another process; empty
/// without such objects.
pub fn from_standard_input(manifests: &[Manifest]) -> String {
    manifests
        .iter()
        .filter(|manifest| manifest.origin == STANDARD_INPUT)
        .map(|manifest| format!("---\n{}\n", manifest.object))
        .collect()
}

/// Reads all sources of the `-f` options, in order; a directory's files by name. One malformed file is an
/// error of all.
///
/// # Errors
/// A file cannot be read or is malformed, or the source is the input of a generator such as kustomize.
pub fn read_all(sources: &[PathBuf]) -> Result<Vec<Manifest>, ReadError> {
    let mut manifests = Vec::new();
    for source in sources {
        if source.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(ReadError::unreadable(STANDARD_INPUT))?;
            manifests.extend(parse(STANDARD_INPUT, &text)?);
        } else if let Some(advice) = advice(source) {
            return Err(ReadError::NoManifest {
                source_path: source.clone(),
                advice,
            });
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

/// The advice for a source without manifests that contains input of a generator.
fn advice(source: &Path) -> Option<String> {
    let displayed = source.display();
    let text = source.to_string_lossy();
    if ["http://", "https://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        return Some(
            "manifests are read from files, not from the network: fetch it and look at it first \
             (`curl -fsSLo FILE URL`), then give the file"
                .to_owned(),
        );
    }
    let holds = |name: &str| match source.file_name() {
        Some(parent) if parent == name => true,
        _ => source.join(name).is_file(),
    };
    let directory = match source.is_dir() {
        true => displayed.to_string(),
        false => source
            .parent()
            .map_or_else(String::new, |path| path.display().to_string()),
    };
    if holds("Chart.yaml") {
        cov_mark::hit!(findings_u6);
        return Some(format!(
            "this is a Helm chart: `helm install NAME {directory}` installs it on the running \
             server; `helm template NAME {directory} | mainstay up -f -` applies what it makes"
        ));
    }
    if ["kustomization.yaml", "kustomization.yml"]
        .iter()
        .any(|name| holds(name))
    {
        return Some(format!(
            "this is a kustomization: `kubectl kustomize {directory} | mainstay up -f -`"
        ));
    }
    None
}

/// The probable type of a document without a kind, for the error.
fn without_kind(document: &Value) -> &'static str {
    let has = |key: &str| document.get(key).is_some_and(Value::is_object);
    if has("services") {
        return "this is a Compose file, not a Kubernetes manifest; `kompose convert -f FILE` makes \
                manifests of it, to be looked at before they are applied";
    }
    "a document lacks apiVersion or kind"
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let name = directory.display().to_string();
    let entries = fs::read_dir(directory).map_err(ReadError::unreadable(name.as_str()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(ReadError::unreadable(name.as_str()))?.path();
        let generator = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension));
        if generator && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(ReadError::EmptyDirectory(directory.to_owned()));
    }
    files.sort_unstable();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Vec<Manifest>, ReadError> {
    let name = path.display().to_string();
    let size = fs::metadata(path)
        .map_err(ReadError::unreadable(name.as_str()))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge(name));
    }
    let text = fs::read_to_string(path).map_err(ReadError::unreadable(name.as_str()))?;
    parse(&name, &text)
}

/// The objects of a text. Empty documents are skipped, a `List` is split.
fn parse(origin: &str, text: &str) -> Result<Vec<Manifest>, ReadError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| ReadError::Malformed(yaml_error::in_file(&origin, &error)))?;
    let mut manifests = Vec::new();
    for document in documents {
        flatten(origin, document, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(origin: &str, document: Value, manifests: &mut Vec<Manifest>) -> Result<(), ReadError> {
    if document.is_null() {
        return Ok(());
    }
    let kind = document.get("kind").and_then(Value::as_str);
    let version = document.get("apiVersion").and_then(Value::as_str);
    let (Some(kind), Some(_)) = (kind, version) else {
        return Err(ReadError::WithoutKind {
            origin: origin.to_owned(),
            reason: without_kind(&document),
        });
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
        let error = parse("web.yaml", "kind: [unclosed\n").unwrap_err();
        assert!(error.to_string().contains("web.yaml"), "{error}");
    }

    /// Findings U6: once, with file and line.
    #[test]
    fn a_typo_is_told_once_with_its_line() {
        let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n name: x\n";
        let error = parse("web.yaml", text).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("web.yaml:5:"), "{message}");
        assert!(
            !message.contains("<input>") && !message.contains('\n'),
            "{message}"
        );
        assert_eq!(message.matches("line").count(), 0, "{message}");
    }

    /// Findings U6.
    #[test]
    fn what_is_no_manifest_comes_with_advice() {
        cov_mark::check!(findings_u6);
        let compose = "services:\n  web: {image: nginx}\n";
        let error = parse("compose.yaml", compose).unwrap_err().to_string();
        assert!(error.contains("kompose convert"), "{error}");
        let refused = |path: &Path| {
            let sources = [path.to_owned()];
            read_all(&sources).unwrap_err().to_string()
        };
        let url = refused(Path::new("https://example.com/web.yaml"));
        assert!(url.contains("not from the network"), "{url}");
        let chart = tempfile::tempdir().unwrap();
        fs::write(chart.path().join("Chart.yaml"), "name: x\n").unwrap();
        for path in [chart.path().to_owned(), chart.path().join("Chart.yaml")] {
            let error = refused(&path);
            assert!(error.contains("helm template NAME"), "{error}");
        }
        fs::rename(
            chart.path().join("Chart.yaml"),
            chart.path().join("kustomization.yaml"),
        )
        .unwrap();
        assert!(refused(chart.path()).contains("kubectl kustomize"));
    }
}
