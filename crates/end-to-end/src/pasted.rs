//! Pages of `docs` as a newcomer follows them: all commands of a page are pasted into one shell, in the
//! order of the page, and none may fail, warn or wait for somebody.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kubectl::finish;
use crate::{Instance, Output, example};

/// Where a page is pasted: a directory with what a checkout has, and programs on the path.
#[derive(Debug)]
pub struct Pasted {
    directory: PathBuf,
    data: PathBuf,
    replaced: Vec<(String, String)>,
}

/// How long a whole page may take, in seconds, before it counts as one that hangs.
const PATIENCE: &str = "400";

impl Pasted {
    /// A fresh directory beside the data of a server.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn beside(instance: &Instance) -> Self {
        let directory = instance.data().with_file_name("newcomer");
        fs::create_dir_all(directory.join("target/release")).expect("make a directory");
        let checkout = example("..").canonicalize().expect("the checkout");
        symlink(checkout.join("examples"), directory.join("examples")).expect("link the examples");
        fs::copy(checkout.join("README.md"), directory.join("README.md")).expect("copy a page");
        symlink(crate::binary(), directory.join("target/release/mainstay")).expect("link");
        let data = instance.data();
        let program = format!("{}/target/release/mainstay", directory.display());
        let shown = data.display().to_string();
        // The server of a test is not where the program looks by itself.
        let there = ["kubeconfig", "image", "why", "status", "logs"].map(|command| {
            let here = format!("{program} {command} --data-dir {shown}");
            (format!("mainstay {command}"), here)
        });
        let mut replaced = vec![
            ("/var/lib/mainstay".to_owned(), shown.clone()),
            ("target/release/mainstay".to_owned(), "mainstay".to_owned()),
        ];
        replaced.extend(there);
        Self {
            replaced,
            directory,
            data,
        }
    }

    /// Where the page is pasted, and what it wrote there.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has the page name something that is there in its place.
    #[must_use]
    pub fn with(mut self, on_the_page: &str, here: &str) -> Self {
        self.replaced
            .push((on_the_page.to_owned(), here.to_owned()));
        self
    }

    /// Pastes the part of a page between two headings, or from one to the end; returns what was shown.
    ///
    /// # Panics
    /// When a command fails or warns, or nothing goes on any more.
    #[track_caller]
    pub fn part(&self, page: &str, from: &str, to: Option<&str>) -> Output {
        let file = example("..").join(page);
        let text = fs::read_to_string(file).expect("read the page");
        let start = text.find(from);
        let start = start.unwrap_or_else(|| panic!("{page} has no {from:?}"));
        let rest = text.get(start..).unwrap_or_default();
        let end = to.map_or(rest.len(), |to| {
            let found = rest.find(to);
            found.unwrap_or_else(|| panic!("{page} has no {to:?}"))
        });
        self.run(page, &commands(rest.get(..end).unwrap_or_default()))
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
    fn run(&self, page: &str, commands: &str) -> Output {
        assert!(!commands.is_empty(), "{page} has no commands there");
        let mut script = commands.to_owned();
        for (on_the_page, here) in &self.replaced {
            script = script.replace(on_the_page, here);
        }
        let file = self.directory.join("pasted.sh");
        fs::write(&file, script).expect("write the commands");
        let output = self.shell(&file);
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(
            output.code, 0,
            "{page}: a command failed or hung: {output:#?}"
        );
        let warned = shown
            .lines()
            .find(|line| line.to_lowercase().starts_with("warning:"));
        assert_eq!(warned, None, "{page} warns: {output:#?}");
        output
    }

    #[track_caller]
    fn shell(&self, file: &Path) -> Output {
        let mut path = crate::tools().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        // Each command is shown before it runs, so that the last one shown is the one that failed.
        let mut command = Command::new("timeout");
        command
            .args([
                "--kill-after=5",
                PATIENCE,
                "bash",
                "-e",
                "-o",
                "pipefail",
                "-v",
            ])
            .arg(file)
            .current_dir(&self.directory)
            .env("PATH", path)
            .env("KUBECONFIG", self.data.join("kubeconfig"))
            .env("KUBECACHEDIR", self.data.join("kubectl-cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(command.spawn(), None)
    }
}

/// The blocks of commands of a page: those that name no other language.
fn commands(page: &str) -> String {
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
