//! The names of the resources that plugins have registered: a file of the node. After a restart of the agent, the
//! amounts of these resources in the node's status are those of a plugin and not of an administrator.

use std::fs;
use std::io;
use std::path::PathBuf;

use host_kernel::durable_file::{Durability, replace};

/// Maximum number of resources of a node.
pub const RESOURCES_MAX: usize = 256;

pub struct ResourceNames {
    file: PathBuf,
}

impl ResourceNames {
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> io::Result<Vec<String>> {
        let bytes = match fs::read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes?,
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let path = self.file.display();
            io::Error::other(format!(
                "the names of resources in {path} are malformed: {error}"
            ))
        })
    }

    /// Writes all names durably.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn write(&self, names: &[String]) -> io::Result<()> {
        if let Some(directory) = self.file.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = serde_json::to_vec(names)?;
        replace(&self.file, &text, 0o600, Durability::Name)
    }
}
