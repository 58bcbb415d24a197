//! The records of prepared claims: a file for each claim. A record is written before the first call of a driver, and
//! removed after the last.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host_kernel::durable_file::{Durability, replace};
use object_model::Uid;

use super::prepared::PreparedClaim;

/// The directory of the records.
#[derive(Clone, Debug)]
pub struct ClaimRecords {
    directory: PathBuf,
}

impl ClaimRecords {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, claim: &Uid) -> PathBuf {
        self.directory.join(format!("{claim}.json"))
    }

    /// Reads all records.
    ///
    /// # Errors
    /// A record cannot be read. It is not taken for absent, because its devices would stay prepared.
    pub fn read(&self) -> io::Result<Vec<PreparedClaim>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut claims = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let is_record = path
                .extension()
                .is_some_and(|extension| extension == "json");
            let name = path.file_name().unwrap_or_default();
            if is_record && !name.as_encoded_bytes().starts_with(b".") {
                claims.push(read_record(&path)?);
            }
        }
        Ok(claims)
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn write(&self, claim: &PreparedClaim) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let text = serde_json::to_vec(claim)?;
        replace(&self.path(&claim.uid), &text, 0o600, Durability::Name)
    }

    /// # Errors
    /// An error of the disk.
    pub fn remove(&self, claim: &Uid) -> io::Result<()> {
        match fs::remove_file(self.path(claim)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read_record(path: &Path) -> io::Result<PreparedClaim> {
    serde_json::from_slice(&fs::read(path)?).map_err(|error| {
        let path = path.display();
        io::Error::other(format!(
            "the record {path} of a claim is malformed: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_and_never_skipped() {
        let temp = tempfile::tempdir().unwrap();
        let records = ClaimRecords::new(temp.path().join("claims"));
        assert!(records.read().unwrap().is_empty());
        let claim = PreparedClaim {
            namespace: "n".to_owned(),
            name: "c".to_owned(),
            uid: "u".parse().unwrap(),
            pods: [("p".parse().unwrap(), ["gpu".to_owned()].into())].into(),
            drivers: [("d".to_owned(), Vec::new())].into(),
        };
        records.write(&claim).unwrap();
        assert_eq!(records.read().unwrap(), std::slice::from_ref(&claim));
        fs::write(records.directory.join("x.json"), "{").unwrap();
        assert!(records.read().is_err());
        fs::remove_file(records.directory.join("x.json")).unwrap();
        for _ in 0..2 {
            records.remove(&claim.uid).unwrap();
        }
        assert!(records.read().unwrap().is_empty());
    }
}
