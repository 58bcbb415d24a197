//! `mainstay completion` and `mainstay man`: completions for shells, and manual pages, generated
//! from the command line's definition.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
pub use clap_complete::Shell;
use command_output::output::{print_line, print_text};

/// Arguments of `mainstay completion`.
#[derive(clap::Args, Debug)]
#[command(after_help = COMPLETION_HELP)]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

const COMPLETION_HELP: &str = "\
`mainstay install` installs them for all users. For the current shell only:
  bash:  source <(mainstay completion bash)
  zsh:   source <(mainstay completion zsh)
  fish:  mainstay completion fish | source";

/// Arguments of `mainstay man`.
#[derive(clap::Args, Debug)]
#[command(after_help = MAN_HELP)]
pub struct ManArguments {
    /// Directory for the man pages of all commands
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

const MAN_HELP: &str = "\
After `mainstay install`, `man mainstay-up` shows a page. Without an installation:
  mainstay man | man -l -";

/// Prints the completion script of a shell.
pub fn complete(arguments: &CompletionArguments, command: Command) {
    print_text(&completion(arguments.shell, command));
}

/// Prints the main page, or writes all pages.
pub fn man(arguments: &ManArguments, command: Command) -> Result<()> {
    let pages = pages(command);
    let Some(directory) = &arguments.directory else {
        if let Some((_, page)) = pages.first() {
            print_text(page);
        }
        return Ok(());
    };
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    for (name, page) in &pages {
        let path = directory.join(name);
        fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    }
    print_line(&format!("{} pages in {}", pages.len(), directory.display()));
    Ok(())
}

/// The completions of a shell: for the words of the command line, and for names on the server.
pub fn completion(shell: Shell, command: Command) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut without_internal(command), "mainstay", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        Shell::Bash => text + include_str!("complete/names.bash"),
        Shell::Zsh => {
            // The last part of the file starts the completion.
            let names = include_str!("complete/names.zsh");
            let start = text.rfind(ZSH_START).unwrap_or(text.len());
            let (functions, start) = text.split_at(start);
            format!("{functions}{names}{start}")
        }
        Shell::Fish => text + include_str!("complete/names.fish"),
        _ => text,
    }
}

/// The first line of the last part of zsh completions.
const ZSH_START: &str = "if [ \"$funcstack[1]\" = \"_mainstay\" ]";

/// The program without its internal commands.
fn without_internal(command: Command) -> Command {
    let commands = command.get_subcommands();
    let visible: Vec<Command> = commands.filter(|one| !one.is_hide_set()).cloned().collect();
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new("mainstay")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .subcommands(visible)
}

/// All pages with their files' names; the program's page comes first.
pub fn pages(command: Command) -> Vec<(String, String)> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages);
    pages
}

fn add_pages(command: &Command, pages: &mut Vec<(String, String)>) {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    // Writing to memory does not fail.
    if page.render(&mut text).is_ok() {
        let text = String::from_utf8_lossy(&text).into_owned();
        pages.push((page.get_filename(), text));
    }
    let commands = command.get_subcommands();
    for command in commands.filter(|command| !command.is_hide_set()) {
        add_pages(command, pages);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Findings U11: shells complete every command.
    #[test]
    fn every_shell_knows_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completion(shell, crate::CommandLine::command());
            for word in ["status", "why", "uninstall", "data-dir", "on-stop"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
            assert!(!text.contains("hello"), "{shell}");
        }
    }

    /// Findings U11: names are known before zsh completes its first word.
    #[test]
    fn zsh_knows_names_from_the_start() {
        let text = completion(Shell::Zsh, crate::CommandLine::command());
        let names = text.find("_mainstay_words]=").unwrap();
        assert!(names < text.find(ZSH_START).unwrap());
    }

    /// clap breaks lines at 100 columns; a text that is broken at more has short lines in between.
    #[test]
    fn texts_below_the_options_fit_into_a_terminal() {
        fn check(command: &clap::Command) {
            let text = command.get_after_help().map(ToString::to_string);
            for line in text.unwrap_or_default().lines() {
                let length = line.chars().count();
                assert!(length <= 100, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&crate::CommandLine::command());
    }

    /// Findings U11: each command has a page.
    #[test]
    fn every_command_has_a_page() {
        let pages = pages(crate::CommandLine::command());
        let (first, text) = &pages[0];
        assert_eq!(first, "mainstay.1");
        assert!(text.contains("mainstay\\-up(1)"), "{text}");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "mainstay-up.1",
            "mainstay-image-import.1",
            "mainstay-status.1",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"mainstay-hello.1"), "{names:?}");
        let (_, up) = pages
            .iter()
            .find(|(name, _)| name == "mainstay-up.1")
            .unwrap();
        assert!(up.contains("\\-\\-data\\-dir"), "{up}");
    }
}
