//! The visit counter: one number in one file, replaced atomically and synced at each visit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use host_kernel::durable_file::{self, Durability};

/// Counts visits in a file on a volume; without a volume, in memory.
pub struct Visits {
    directory: Option<PathBuf>,
    number: Mutex<u64>,
}

/// The count after a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The number of visits, including this visit.
    pub number: u64,
    /// Whether the number is on disk.
    pub is_stored: bool,
}

impl Visits {
    /// Continues the count in `directory`; without such a directory counts in memory.
    pub fn open(directory: &Path) -> Self {
        let number = fs::read_to_string(directory.join("visits"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let directory = directory.is_dir().then(|| directory.to_owned());
        Self {
            directory,
            number: Mutex::new(number),
        }
    }

    /// Adds one to the number of visits, and stores it if there is a directory.
    pub fn count(&self) -> Visit {
        let mut number = self
            .number
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *number += 1;
        let is_stored = match &self.directory {
            Some(directory) => match write(directory, *number) {
                Ok(()) => true,
                Err(error) => {
                    command_output::output::warn(&format!("store the visit counter: {error}"));
                    false
                }
            },
            None => false,
        };
        Visit {
            number: *number,
            is_stored,
        }
    }
}

fn write(directory: &Path, number: u64) -> io::Result<()> {
    let text = format!("{number}\n");
    let path = directory.join("visits");
    durable_file::replace(&path, text.as_bytes(), 0o644, Durability::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_goes_on_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            Visits::open(directory.path()).count(),
            Visit {
                number: 1,
                is_stored: true
            }
        );
        assert_eq!(
            Visits::open(directory.path()).count(),
            Visit {
                number: 2,
                is_stored: true
            }
        );
    }

    #[test]
    fn without_a_volume_it_counts_in_memory() {
        let visits = Visits::open(Path::new("/nonexistent/volume"));
        visits.count();
        assert_eq!(
            visits.count(),
            Visit {
                number: 2,
                is_stored: false
            }
        );
    }
}
