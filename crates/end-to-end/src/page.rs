//! The pages of `examples`, whose commands tests run as they stand there.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::beside::Beside;
use crate::{Instance, Output, Shell, example};

/// A page, and which of its commands are still to be run.
#[derive(Debug)]
pub struct Page {
    name: String,
    shell: Shell,
    commands: BTreeSet<String>,
    left: RefCell<BTreeSet<String>>,
}

impl Page {
    /// The page of an example, at the checkout's root, where its commands are to be typed.
    ///
    /// # Panics
    /// When there is no such page.
    #[track_caller]
    pub fn open(instance: &Instance, name: &str) -> Self {
        let file = example(name).join("README.md");
        let text = std::fs::read_to_string(&file).expect("read the page");
        let commands = commands(&text);
        Self {
            name: name.to_owned(),
            shell: Shell::new(instance, example("..")),
            left: RefCell::new(commands.clone()),
            commands,
        }
    }

    /// The rest of the page, after a `cd`.
    ///
    /// # Panics
    /// When the page does not have it.
    #[must_use]
    #[track_caller]
    pub fn in_directory(mut self, cd: &str) -> Self {
        self.otherwise(&[cd]);
        self.shell = self.shell.after(cd);
        self
    }

    /// Runs a command of the page that must succeed, returns standard output.
    ///
    /// # Panics
    /// When the page does not have it, or it fails.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        self.run(command).expect_success(command)
    }

    /// Runs a command of the page and returns whatever came.
    ///
    /// # Panics
    /// When the page does not have it.
    #[track_caller]
    pub fn run(&self, command: &str) -> Output {
        self.otherwise(&[command]);
        self.shell.run(command)
    }

    /// Starts a command of the page in another terminal, so to speak.
    ///
    /// # Panics
    /// When the page does not have it.
    #[track_caller]
    pub fn beside(&self, command: &str) -> Beside {
        self.otherwise(&[command]);
        self.shell.beside(command)
    }

    /// Notes commands of the page that a test does in another way.
    ///
    /// # Panics
    /// When the page does not have one of them.
    #[track_caller]
    pub fn otherwise(&self, commands: &[&str]) {
        for command in commands {
            let name = &self.name;
            assert!(
                self.commands.contains(*command),
                "the page {name} has no {command:?}: {:#?}",
                self.commands
            );
            self.left.borrow_mut().remove(*command);
        }
    }

    /// Checks that nothing on the page was left out.
    ///
    /// # Panics
    /// When a command has not been run.
    #[track_caller]
    pub fn finish(self) {
        let left = self.left.into_inner();
        assert!(left.is_empty(), "not run of {}: {left:#?}", self.name);
    }
}

/// The lines of all code blocks, without comments and prompts, and what is a command in the text.
fn commands(page: &str) -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for (place, part) in page.split("```").enumerate() {
        if place % 2 == 1 {
            let lines = part.lines().skip(1).map(|line| {
                let line = line.strip_prefix("/ # ").unwrap_or(line);
                let code = line.split_once("  #").map_or(line, |(code, _)| code);
                code.trim().to_owned()
            });
            commands.extend(lines.filter(|line| !line.is_empty()));
            continue;
        }
        let quoted = part.split('`').skip(1).step_by(2);
        let in_text = quoted.filter(|text| text.starts_with("kubectl "));
        commands.extend(in_text.map(|text| {
            let words: Vec<&str> = text.split_whitespace().collect();
            words.join(" ")
        }));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_text_have_commands() {
        let page = "Text, `kubectl get\npods` and `web-0`:\n\n```\nkubectl apply -f a   # all\n\
            / # nslookup a\n```\n\n`not kubectl`\n";
        let found: Vec<String> = commands(page).into_iter().collect();
        assert_eq!(
            found,
            ["kubectl apply -f a", "kubectl get pods", "nslookup a"]
        );
    }
}
