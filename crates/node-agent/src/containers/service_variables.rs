//! The Service variables of a container's environment. The variables are stored on disk, so that a
//! container that restarts while no API server responds gets the variables of its last start.

use std::fs;
use std::io;
use std::path::PathBuf;

use host_kernel::durable_file::{self, Durability};
use thiserror::Error;

use crate::paths::PodDir;

/// Variables and their values.
type Variables = Vec<(String, String)>;

/// There are neither current nor stored variables.
#[derive(Debug, Error)]
pub enum ServiceVariablesError {
    #[error("read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    /// The text is kubelet's.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    NotSynced,
}

/// The current variables of a pod, which are stored on disk; without current variables, the stored ones.
pub fn latest(
    dir: &PodDir,
    current: Option<Variables>,
) -> Result<Variables, ServiceVariablesError> {
    let file = dir.service_variables();
    let stored = match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(ServiceVariablesError::Read { path: file, error }),
    };
    let Some(current) = current else {
        return stored.ok_or(ServiceVariablesError::NotSynced);
    };
    if stored.as_ref() != Some(&current) {
        let bytes = serde_json::to_vec(&current).unwrap_or_default();
        let result = durable_file::replace(&file, &bytes, 0o600, Durability::PageCache);
        if let Err(error) = result {
            tracing::warn!(file = %file.display(), %error, "variables of Services not stored");
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_the_last_start_are_stored() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::at(temp.path().join("n_p_u"));
        fs::create_dir_all(dir.state()).unwrap();
        let error = latest(&dir, None).unwrap_err().to_string();
        assert!(
            error.starts_with("services have not yet been read"),
            "{error}"
        );
        let variables = |host: &str| vec![("DB_SERVICE_HOST".to_owned(), host.to_owned())];
        for host in ["10.96.0.2", "10.96.0.3"] {
            assert_eq!(
                latest(&dir, Some(variables(host))).unwrap(),
                variables(host)
            );
            assert_eq!(latest(&dir, None).unwrap(), variables(host));
        }
        fs::write(dir.service_variables(), "[").unwrap();
        latest(&dir, None).unwrap_err();
        assert_eq!(latest(&dir, Some(Vec::new())).unwrap(), []);
        assert_eq!(latest(&dir, None).unwrap(), []);
    }
}
