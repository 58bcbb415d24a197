//! The files of the node with CDI specifications.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::CdiError;
use super::index::{CdiFile, CdiIndex};
use super::spec::CdiSpec;

/// The directories of the specification, by rising priority.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Maximum number of files of one directory.
const FILES_MAX: usize = 1000;
/// Maximum length of a file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads all files. Blocks. A file that is not valid takes away its own devices only.
///
/// # Errors
/// A directory cannot be read, or has too many files.
pub fn read() -> Result<CdiIndex, CdiError> {
    read_directories(&DIRECTORIES.map(Path::new))
}

fn read_directories(directories: &[&Path]) -> Result<CdiIndex, CdiError> {
    let mut files = Vec::new();
    for (priority, directory) in directories.iter().enumerate() {
        let failed = |source| CdiError::Directory {
            directory: (*directory).to_owned(),
            source,
        };
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if is_specification(&path) {
                paths.push(path);
            }
            if paths.len() > FILES_MAX {
                return Err(CdiError::TooManyFiles {
                    directory: (*directory).to_owned(),
                    max: FILES_MAX,
                });
            }
        }
        paths.sort_unstable();
        files.extend(paths.iter().map(|path| CdiFile {
            path: path.display().to_string(),
            priority,
            content: read_file(path),
        }));
    }
    Ok(CdiIndex::new(files))
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension == wanted)
}

fn is_specification(path: &Path) -> bool {
    let is_hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && (has_extension(path, "json") || has_extension(path, "yaml"))
}

fn read_file(path: &Path) -> Result<CdiSpec, String> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no file"));
        }
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("has more than {FILE_BYTES_MAX} bytes"));
    }
    CdiSpec::parse(&text, has_extension(path, "json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_the_order_of_their_directories() {
        let temp = tempfile::tempdir().unwrap();
        let [etc, run, none] = ["etc", "run", "none"].map(|name| temp.path().join(name));
        for dir in [&etc, &run] {
            fs::create_dir(dir).unwrap();
        }
        let spec = |env: &str| {
            format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [{{"name": "a",
                "containerEdits": {{"env": ["X={env}"]}}}}]}}"#
            )
        };
        fs::write(etc.join("a.json"), spec("etc")).unwrap();
        fs::write(run.join("a.yaml"), spec("run")).unwrap();
        fs::write(run.join("large.json"), vec![b' '; 5 << 20]).unwrap();
        fs::write(run.join(".hidden.json"), spec("hidden")).unwrap();
        fs::write(run.join("notes.txt"), "x").unwrap();
        let index = read_directories(&[&etc, &run, &none]).unwrap();
        let edits = index.edits(&["v/c=a".to_owned()]).unwrap();
        assert_eq!(edits.env, ["X=run"]);
        let error = index.edits(&["v/c=b".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("large.json: has more than 4194304 bytes"),
            "{error}"
        );
        assert!(!error.contains("hidden"), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_not_taken_for_empty() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(read_directories(&[&file]).is_err());
    }
}
