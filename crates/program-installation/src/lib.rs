//! The program on its machine: its file, man pages, completions of shells and a service of systemd, in the
//! standard paths.
//!
//! The digest of each written file is recorded: files of other programs and changed files are neither
//! replaced nor removed. Data is never changed.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod plan;
mod record;
mod systemd;
mod unit;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use command_output::output::{print_line, warn};
use data_directory::Role;
pub use error::InstallError;
use error::Result;
use host_kernel::durable_file::{self, Durability};
use plan::FileAction;
use record::InstallRecord;
use systemd::Systemd;
pub use unit::DEFAULT_DATA;

/// The destination, and whether it is a dry run.
#[derive(Clone, Debug)]
pub struct InstallTarget {
    /// The changes are printed, but not executed.
    pub dry_run: bool,
    /// The directory in place of `/`, for packages; no service is enabled there.
    pub root: PathBuf,
}

impl InstallTarget {
    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Refuses a change of this system by other users than root.
    ///
    /// # Errors
    /// The user is not root, and `command` would change the system.
    pub fn require_root(&self, command: &str) -> Result<()> {
        let is_system = self.root == Path::new("/") && !self.dry_run;
        if is_system && !nix::unistd::geteuid().is_root() {
            let command = command.to_owned();
            return Err(InstallError::NotRoot { command });
        }
        Ok(())
    }

    fn systemd(&self) -> Systemd {
        match self.root == Path::new("/") {
            true => Systemd::detect(),
            false => Systemd::OfAnotherRoot,
        }
    }
}

/// The program with its texts, and the service that runs it.
#[derive(Clone, Debug)]
pub struct Installation {
    pub target: InstallTarget,
    /// The command that the service runs.
    pub role: Role,
    /// The absolute path of the service's data directory.
    pub data: PathBuf,
    /// The absolute path of the configuration file, if there is one.
    pub configuration: Option<PathBuf>,
    /// Man pages and completions, by their absolute paths.
    pub texts: Vec<(PathBuf, String)>,
}

/// The content of a file to install.
struct InstallFile {
    path: PathBuf,
    content: Content,
}

enum Content {
    /// The file of the running program.
    Program,
    Text(String),
}

/// The file of the running program, even if its path has a new file.
const RUNNING_PROGRAM: &str = "/proc/self/exe";
const PROGRAM: &str = "/usr/local/bin/mainstay";
impl Content {
    fn digest(&self) -> Result<String> {
        match self {
            Self::Program => {
                let digest = record::digest_of_file(Path::new(RUNNING_PROGRAM))?;
                digest.ok_or(InstallError::ProgramGone)
            }
            Self::Text(text) => Ok(record::digest(text)),
        }
    }

    /// Writes a new file and renames it: the file of a running program cannot be opened for writing.
    fn write(&self, path: &Path) -> Result<()> {
        let mode = match self {
            Self::Program => 0o755,
            Self::Text(_) => 0o644,
        };
        let write = |file: &mut File| match self {
            Self::Program => io::copy(&mut File::open(RUNNING_PROGRAM)?, file).map(drop),
            Self::Text(text) => file.write_all(text.as_bytes()),
        };
        durable_file::replace_with(path, mode, Durability::Name, write)
            .map_err(InstallError::file("write", path))
    }
}

/// Installs the program, its unit, its shell completion and its manual pages, and records them.
///
/// # Errors
/// A path has a file of another program, a path cannot be written in a unit, or the error of the disk or of
/// systemd.
pub fn install(installation: Installation) -> Result<()> {
    let Installation {
        target,
        role,
        data,
        configuration,
        texts,
    } = installation;
    let target = &target;
    let systemd = target.systemd();
    let program = (PathBuf::from(PROGRAM), Content::Program);
    let texts = texts
        .into_iter()
        .map(|(path, text)| (path, Content::Text(text)));
    let mut files_to_install: Vec<InstallFile> = std::iter::once(program)
        .chain(texts)
        .map(|(path, content)| InstallFile { path, content })
        .collect();
    if systemd.has_units() {
        files_to_install.push(InstallFile {
            path: systemd::UNIT.into(),
            content: Content::Text(unit::text(role, &data, configuration.as_deref())?),
        });
    }
    let record_path = target.at(Path::new(record::PATH));
    let before = InstallRecord::read(&record_path)?.unwrap_or_default();
    let mut record = InstallRecord {
        data_directory: data.clone(),
        ..before.clone()
    };
    let mut steps = Vec::new();
    let mut refusals = Vec::new();
    for file in &files_to_install {
        let digest = file.content.digest()?;
        let present = record::digest_of_file(&target.at(&file.path))?;
        match plan::step(&file.path, &digest, present.as_deref(), &before) {
            Ok(step) => steps.push((file, step)),
            Err(refusal) => refusals.push(refusal),
        }
        record.files.insert(file.path.clone(), digest);
    }
    if !refusals.is_empty() {
        let advice = systemd.advice();
        return Err(InstallError::Refused { refusals, advice });
    }
    for (file, step) in steps {
        let path = target.at(&file.path);
        let line = match (step, target.dry_run) {
            (FileAction::Keep, _) => "unchanged",
            (FileAction::Write, true) => "would be written",
            (FileAction::Write, false) => {
                make_directories(target, &file.path, &mut record)?;
                file.content.write(&path)?;
                "written"
            }
        };
        print_line(&format!("{} {line}", path.display()));
    }
    if !target.dry_run {
        make_directories(target, Path::new(record::PATH), &mut record)?;
        let text = record.text()?;
        Content::Text(text).write(&record_path)?;
        systemd.enable()?;
    }
    print_line(&systemd.next_step(role, &data));
    Ok(())
}

/// Creates the parent directories of a file, and records the new directories.
fn make_directories(target: &InstallTarget, path: &Path, record: &mut InstallRecord) -> Result<()> {
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for directory in above.into_iter().rev() {
        let real = target.at(directory);
        match fs::create_dir(&real) {
            Ok(()) => drop(record.directories.insert(directory.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(InstallError::file("make", &real)(error)),
        }
    }
    Ok(())
}

/// Removes the files that `install` recorded, except for those that were changed.
///
/// # Errors
/// Nothing is installed, the service runs, or the error of the disk or of systemd.
pub fn uninstall(target: &InstallTarget) -> Result<()> {
    let record_path = target.at(Path::new(record::PATH));
    let Some(record) = InstallRecord::read(&record_path)? else {
        return Err(InstallError::NotInstalled {
            record: record_path,
        });
    };
    let systemd = target.systemd();
    if !target.dry_run {
        systemd.disable(&record.data_directory)?;
    }
    // A file that cannot be read counts as changed.
    let present = |path: &Path| match record::digest_of_file(&target.at(path)) {
        Ok(digest) => digest,
        Err(_) => Some(String::new()),
    };
    let removal = plan::removal(&record, present);
    for path in &removal.files {
        let path = target.at(path);
        match target.dry_run {
            true => print_line(&format!("{} would be removed", path.display())),
            false => {
                fs::remove_file(&path).map_err(InstallError::file("remove", &path))?;
                print_line(&format!("{} removed", path.display()));
            }
        }
    }
    for path in &removal.changed {
        let path = target.at(path);
        let path = path.display();
        warn(&format!(
            "{path} was changed after the installation and is kept"
        ));
    }
    if !target.dry_run {
        fs::remove_file(&record_path).map_err(InstallError::file("remove", &record_path))?;
        // The deepest directory is first. A directory with other entries stays.
        for directory in record.directories.iter().rev() {
            fs::remove_dir(target.at(directory)).ok();
        }
        systemd.reload()?;
    }
    let data = record.data_directory.display();
    print_line(&format!(
        "Data is kept in {data}. `mainstay down --all --data-dir {data}` of any copy of the program deletes \
         it."
    ));
    Ok(())
}
