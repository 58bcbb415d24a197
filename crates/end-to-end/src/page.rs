//! The pages of `examples`: a test pastes their blocks as a newcomer does, runs the commands in their text, and checks
//! what a newcomer would not.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::pasted::{self, Pasted};
use crate::{Instance, Output, Shell, example};

/// A page or a part of it, and which of its commands are still to be run.
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
    /// When there is no such page.
    #[track_caller]
    pub fn open(instance: &Instance, file: &str) -> Self {
        Self::part(instance, file, "", None)
    }

    /// The part of a page between two texts, or from one to the end.
    ///
    /// # Panics
    /// When the page has no such part.
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
            pasted: Pasted::beside(instance),
            shell: Shell::new(instance, example("..")),
            left: RefCell::new(commands.clone()),
            commands,
        }
    }

    /// Pastes all blocks between two texts of the part, or from one to its end; returns what was shown.
    ///
    /// # Panics
    /// When a command fails or warns, or nothing goes on any more.
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
    /// When the page does not have it, or it fails.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        self.otherwise(command);
        self.shell.ok(command)
    }

    /// Notes a command of the page that a test runs in another way.
    ///
    /// # Panics
    /// When the page does not have it.
    #[track_caller]
    pub fn otherwise(&self, command: &str) {
        let is_known = self.commands.contains(command);
        assert!(
            is_known,
            "{} has no {command:?}: {:#?}",
            self.file, self.commands
        );
        self.left.borrow_mut().remove(command);
    }

    /// Checks that nothing on the page was left out.
    ///
    /// # Panics
    /// When a command has not been run.
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
        let found: Vec<String> = commands_in_text(page).into_iter().collect();
        assert_eq!(found, ["kubectl delete pod a", "kubectl get pods"]);
    }
}
