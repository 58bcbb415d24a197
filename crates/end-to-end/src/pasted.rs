//! Pages of `docs` as a new user follows them: all commands of a page are pasted into one shell, in the order of the
//! page, and no command may fail, warn or wait for input.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kubectl::finish;
use crate::{Instance, Machine, Output, example, shell};

/// A shell into which a page is pasted: a directory with the files of a checkout, and programs on the path.
#[derive(Debug)]
pub struct Pasted<'m> {
    directory: PathBuf,
    replaced: Vec<(String, String)>,
    location: Location<'m>,
    scripts: AtomicUsize,
    /// Texts of warnings that the page explains.
    warnings: Vec<&'static str>,
}

/// The machine on which the shell runs.
#[derive(Debug)]
enum Location<'m> {
    /// The machine of the test, with a server that has this data directory.
    Host(PathBuf),
    /// A separate machine.
    Machine(&'m Machine),
}

/// The warning of a class without enforced sizes, which depends on the file system of the machine.
const NO_QUOTAS: &str = "does not enforce the size of volumes";

/// Maximum time of a whole page, in seconds.
const PATIENCE: &str = "400";

impl<'m> Pasted<'m> {
    /// A new directory for pages about a running server.
    ///
    /// # Panics
    ///
    /// The directory cannot be created.
    #[track_caller]
    pub fn for_instance(instance: &Instance) -> Self {
        let directory = checkout(&instance.data().with_file_name("newcomer"));
        let data = instance.data();
        let program = format!("{}/target/release/mainstay", directory.display());
        let data_dir = data.display().to_string();
        // The server of a test has another data directory than the default.
        let commands = [
            "kubeconfig",
            "image",
            "why",
            "plan",
            "status",
            "logs",
            "token",
        ]
        .map(|command| {
            let here = format!("{program} {command} --data-dir {data_dir}");
            (format!("mainstay {command}"), here)
        });
        let mut replaced = vec![
            ("/var/lib/mainstay".to_owned(), data_dir.clone()),
            ("target/release/mainstay".to_owned(), "mainstay".to_owned()),
        ];
        replaced.extend(commands);
        Self {
            replaced,
            directory,
            location: Location::Host(data),
            scripts: AtomicUsize::new(0),
            warnings: Vec::new(),
        }
    }

    /// A new directory on a separate machine, where no command of the page is replaced.
    ///
    /// # Panics
    ///
    /// The directory cannot be created.
    #[track_caller]
    pub fn on(machine: &'m Machine) -> Self {
        Self {
            directory: checkout(&machine.directory().join("newcomer")),
            replaced: Vec::new(),
            location: Location::Machine(machine),
            scripts: AtomicUsize::new(0),
            warnings: Vec::new(),
        }
    }

    /// The directory in which the page is pasted, with the files that it wrote.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Replaces a text of the page by another text.
    #[must_use]
    pub fn with(mut self, on_the_page: &str, here: &str) -> Self {
        self.replaced
            .push((on_the_page.to_owned(), here.to_owned()));
        self
    }

    /// Accepts warnings with this text, which the page explains.
    #[must_use]
    pub fn with_warning(mut self, text: &'static str) -> Self {
        self.warnings.push(text);
        self
    }

    /// Pastes the part of a page between two headings, or from one heading to the end; returns the output.
    ///
    /// # Panics
    ///
    /// A command fails or warns, or the shell makes no progress.
    #[track_caller]
    pub fn part(&self, page: &str, from: &str, to: Option<&str>) -> Output {
        let script = self.script(page, from, to);
        self.run(page, &script)
    }

    /// Pastes a part whose last command continues to run, into a separate shell.
    ///
    /// # Panics
    ///
    /// The page has no such part.
    #[track_caller]
    pub fn keep_running(&self, page: &str, from: &str, to: Option<&str>) -> Running {
        let file = self.script(page, from, to);
        let shell = self.shell(&file, &["bash", "-e", "-v"]).spawn();
        Running(shell.expect("start a shell"))
    }

    /// Writes the commands of a part into a file.
    #[track_caller]
    fn script(&self, page: &str, from: &str, to: Option<&str>) -> PathBuf {
        let text = read(page);
        let script = commands(between(&text, from, to));
        assert!(!script.is_empty(), "{page} has no commands there");
        self.file(script)
    }

    /// Writes commands into a file of this directory.
    #[track_caller]
    fn file(&self, mut script: String) -> PathBuf {
        for (on_the_page, here) in &self.replaced {
            script = script.replace(on_the_page, here);
        }
        let name = format!("pasted-{}.sh", self.scripts.fetch_add(1, Ordering::Relaxed));
        let file = self.directory.join(name);
        fs::write(&file, script).expect("write the commands");
        file
    }

    /// Pastes commands of a page.
    ///
    /// # Panics
    ///
    /// As [`part`](Self::part).
    #[track_caller]
    pub fn commands(&self, page: &str, commands: &str) -> Output {
        self.run(page, &self.file(commands.to_owned()))
    }

    /// Pastes a whole page.
    ///
    /// # Panics
    /// As [`part`](Self::part).
    #[track_caller]
    pub fn page(&self, page: &str) -> Output {
        self.part(page, "", None)
    }

    #[track_caller]
    fn run(&self, page: &str, script: &Path) -> Output {
        // Each command is printed before it runs, so the last printed command is the failed one.
        let shell = ["bash", "-e", "-o", "pipefail", "-v"];
        let timeout = ["timeout", "--kill-after=5", PATIENCE];
        let mut command = self.shell(script, &[&timeout[..], &shell].concat());
        let output = finish(command.spawn(), None);
        let printed = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(
            output.code, 0,
            "{page}: a command failed or hung: {output:#?}"
        );
        let mut warnings = printed
            .lines()
            .filter(|line| line.to_lowercase().starts_with("warning:"));
        let is_expected = |line: &str| {
            let mut expected = self.warnings.iter();
            line.contains(NO_QUOTAS) || expected.any(|text| line.contains(text))
        };
        let warned = warnings.find(|line| !is_expected(line));
        assert_eq!(warned, None, "{page} warns: {output:#?}");
        output
    }

    fn shell(&self, script: &Path, words: &[&str]) -> Command {
        let (program, arguments) = words.split_first().expect("a program");
        let mut command = match &self.location {
            Location::Host(data) => shell::command(program, &self.directory, data),
            Location::Machine(machine) => machine.command(&self.directory, program),
        };
        command
            .args(arguments)
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A shell whose last command continues to run.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Stops the server in the shell as Ctrl-C does; returns the output.
    ///
    /// # Panics
    ///
    /// No server runs.
    #[track_caller]
    pub fn interrupt(self, machine: &Machine) -> Output {
        machine.ok("kill -INT $(cut -d ' ' -f 1 /var/lib/mainstay/process)");
        finish(Ok(self.0), None)
    }
}

/// The checkout of a new user, with the built program. It is built once.
#[track_caller]
fn checkout(directory: &Path) -> PathBuf {
    if directory.exists() {
        return directory.to_owned();
    }
    fs::create_dir_all(directory.join("target/release")).expect("make a directory");
    let checkout = example("..").canonicalize().expect("the checkout");
    symlink(checkout.join("examples"), directory.join("examples")).expect("link the examples");
    fs::copy(checkout.join("README.md"), directory.join("README.md")).expect("copy a page");
    symlink(crate::binary(), directory.join("target/release/mainstay")).expect("link");
    directory.to_owned()
}

/// The text of a page of the checkout.
#[track_caller]
pub(crate) fn read(page: &str) -> String {
    fs::read_to_string(example("..").join(page)).expect("read the page")
}

/// The part of a text between two texts, or from one text to the end.
#[track_caller]
pub(crate) fn between<'t>(text: &'t str, from: &str, to: Option<&str>) -> &'t str {
    let start = text.find(from);
    let start = start.unwrap_or_else(|| panic!("the page has no {from:?}"));
    let rest = text.get(start..).unwrap_or_default();
    let end = to.map_or(rest.len(), |to| {
        let offset = rest.find(to);
        offset.unwrap_or_else(|| panic!("the page has no {to:?}"))
    });
    rest.get(..end).unwrap_or_default()
}

/// The blocks of commands of a page: blocks without a language name.
pub(crate) fn commands(page: &str) -> String {
    let blocks = page.split("```").skip(1).step_by(2);
    let commands = blocks.filter_map(|block| {
        let (language, commands) = block.split_once('\n')?;
        language.trim().is_empty().then_some(commands)
    });
    commands.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_commands_are_found() {
        let page =
            "a\n```\nkubectl get pods\n```\nb\n```yaml\nkind: Pod\n```\n```\ncat <<E\n1\nE\n```\n";
        assert_eq!(commands(page), "kubectl get pods\ncat <<E\n1\nE\n");
    }
}
