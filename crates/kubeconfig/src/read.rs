use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object_model::yaml_error;

use crate::file::Kubeconfig;

/// The reason why a kubeconfig was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The file is not a kubeconfig.
    #[error("parse {}: {reason}", path.display())]
    Content {
        path: PathBuf,
        /// The error with its line and column.
        reason: String,
    },
}

/// Reads one file. An empty file is an empty kubeconfig.
///
/// # Errors
/// See [`ReadError`].
pub fn file(path: &Path) -> Result<Kubeconfig, ReadError> {
    let of_file = |source| ReadError::File {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(of_file)?;
    let read = match text.trim() {
        "" => Kubeconfig::default(),
        _ => serde_saphyr::from_str(&text).map_err(|error| ReadError::Content {
            path: path.to_owned(),
            reason: yaml_error::in_text(&error),
        })?,
    };
    let absolute = std::path::absolute(path).map_err(of_file)?;
    Ok(read.with_paths_from(absolute.parent().unwrap_or(Path::new("/"))))
}

/// Reads and merges several files. Missing files are skipped, but at least one must exist.
///
/// # Errors
/// See [`ReadError`].
pub fn files(paths: &[PathBuf]) -> Result<Kubeconfig, ReadError> {
    let mut merged = None;
    let mut missing = None;
    for path in paths {
        match file(path) {
            Ok(next) => {
                merged = Some(match merged {
                    None => next,
                    Some(merged) => Kubeconfig::merged_with(merged, next),
                });
            }
            Err(ReadError::File { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                missing.get_or_insert(ReadError::File { path, source });
            }
            Err(error) => return Err(error),
        }
    }
    match (merged, missing) {
        (None, Some(missing)) => Err(missing),
        (merged, _) => Ok(merged.unwrap_or_default()),
    }
}

/// The files in `$KUBECONFIG`; empty if the variable is unset or empty.
pub fn environment() -> Vec<PathBuf> {
    let value = env::var_os("KUBECONFIG").unwrap_or_default();
    let paths = env::split_paths(&value);
    paths.filter(|path| !path.as_os_str().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_of_a_list_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "missing", "b", "empty"].map(|name| folder.path().join(name));
        let [a, missing, b, empty] = &paths;
        fs::write(a, "current-context: a").unwrap();
        let user = "users: [{name: u, user: {tokenFile: t}}]\ncurrent-context: b";
        fs::write(b, user).unwrap();
        fs::write(empty, "").unwrap();
        let merged = files(&paths).unwrap();
        assert_eq!(merged.current_context.as_deref(), Some("a"));
        let token = merged.users[0].user.token_file.clone().unwrap();
        assert_eq!(Path::new(&token), folder.path().join("t"));
        assert_eq!(file(empty).unwrap(), Kubeconfig::default());

        let error = files(std::slice::from_ref(missing)).unwrap_err();
        assert!(matches!(&error, ReadError::File { path, .. } if path == missing));
        fs::write(b, "users: 3").unwrap();
        let error = files(&paths).unwrap_err();
        assert!(matches!(&error, ReadError::Content { path, .. } if path == b));
        let prefix = format!("parse {}: line 1, column 8: ", b.display());
        assert!(error.to_string().starts_with(&prefix), "{error}");
    }
}
