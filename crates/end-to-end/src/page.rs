//! The pages of `examples`: a test pastes their blocks as a new user would, runs the commands in their text, and checks
//! more than a new user would.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::pasted::{self, Pasted};
use crate::{Instance, Output, Shell, example};

/// A page or a part of it, and its commands that still have to run.
#[derive(Debug)]
pub struct Page {
    file: String,
    text: String,
    pasted: Pasted<'static>,
    shell: Shell,
    commands: BTreeSet<String>,
    left: RefCell<BTreeSet<String>>,
}

impl Page {
    /// The page of an example.
    ///
    /// # Panics
    /// There is no such page.
    #[track_caller]
    pub fn open(instance: &Instance, file: &str) -> Self {
        Self::part(instance, file, "", None)
    }

    /// The part of a page between two texts, or from one text to the end.
    ///
    /// # Panics
    ///
    /// The page has no such part.
    #[track_caller]
    pub fn part(instance: &Instance, file: &str, from: &str, to: Option<&str>) -> Self {
        let page = pasted::read(file);
        let text = pasted::between(&page, from, to).to_owned();
        let blocks = pasted::commands(&text);
        let in_blocks = blocks.lines().map(str::to_owned);
        let commands: BTreeSet<_> = in_blocks.chain(commands_in_text(&text)).collect();
        Self {
            file: file.to_owned(),
            text,
            pasted: Pasted::for_instance(instance),
            shell: Shell::new(instance, example("..")),
            left: RefCell::new(commands.clone()),
            commands,
        }
    }

    /// Pastes all blocks between two texts of the part, or from one text to its end; returns the output.
    ///
    /// # Panics
    ///
    /// A command fails or warns, or the shell makes no progress.
    #[track_caller]
    pub fn paste(&self, from: &str, to: Option<&str>) -> Output {
        let blocks = pasted::commands(pasted::between(&self.text, from, to));
        for command in blocks.lines() {
            self.left.borrow_mut().remove(command);
        }
        self.pasted.commands(&self.file, &blocks)
    }

    /// Runs a command of the page, which must succeed; returns standard output.
    ///
    /// # Panics
    ///
    /// The page does not contain the command, or the command fails.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        self.otherwise(command);
        self.shell.ok(command)
    }

    /// Records that a test runs a command of the page in another form.
    ///
    /// # Panics
    ///
    /// The page does not contain the command.
    #[track_caller]
    pub fn otherwise(&self, command: &str) {
        let is_on_page = self.commands.contains(command);
        assert!(
            is_on_page,
            "{} has no {command:?}: {:#?}",
            self.file, self.commands
        );
        self.left.borrow_mut().remove(command);
    }

    /// Checks that all commands of the page have run.
    ///
    /// # Panics
    ///
    /// A command has not run.
    #[track_caller]
    pub fn finish(self) {
        let left = self.left.into_inner();
        assert!(left.is_empty(), "not run of {}: {left:#?}", self.file);
    }
}

/// The commands of `kubectl` outside of the blocks.
fn commands_in_text(page: &str) -> BTreeSet<String> {
    let text = page.split("```").step_by(2);
    let quoted = text.flat_map(|part| part.split('`').skip(1).step_by(2));
    let commands = quoted.filter(|quoted| quoted.starts_with("kubectl "));
    commands
        .map(|command| command.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_commands() {
        let page = "Text, `kubectl get\npods` and `web-0`:\n\n```\nkubectl apply -f a\n```\n\n\
            `not kubectl`, `kubectl delete pod a`\n";
        let names: Vec<String> = commands_in_text(page).into_iter().collect();
        assert_eq!(names, ["kubectl delete pod a", "kubectl get pods"]);
    }
}
