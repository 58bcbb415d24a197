//! The commands that a shell runs itself.

use std::path::{Component, Path, PathBuf};

use super::run::{Leave, Run, Shell};
use super::words::is_name;
use super::{condition, parser};
use crate::tools::printing;

/// The names of builtins, without tools that the shell runs in its own process.
const NAMES: [&str; 21] = [
    ".", ":", "break", "cd", "command", "continue", "eval", "exec", "exit", "export", "help",
    "local", "read", "return", "set", "shift", "source", "type", "umask", "unset", "wait",
];

/// Tools that the shell runs in its own process.
const TOOLS: [&str; 7] = ["[", "echo", "false", "printf", "pwd", "test", "true"];

pub fn is_builtin(name: &str) -> bool {
    NAMES.contains(&name) || TOOLS.contains(&name)
}

/// Runs a builtin.
pub fn run(shell: &mut Shell, arguments: &[String]) -> Run {
    let (name, rest) = match arguments {
        [name, rest @ ..] => (name.as_str(), rest),
        [] => return Ok(()),
    };
    let before = shell.state.status;
    shell.state.status = 0;
    match name {
        ":" | "true" => {}
        "false" => shell.state.status = 1,
        "echo" => shell.print(name, &printing::echo(rest))?,
        "printf" => match printing::printf(rest) {
            Ok(bytes) => shell.print(name, &bytes)?,
            Err(error) => shell.fails(name, &error.to_string()),
        },
        "pwd" => {
            let line = format!("{}\n", shell.state.directory.display());
            shell.print(name, line.as_bytes())?;
        }
        "[" | "test" => match condition::command(name, rest, &shell.state.directory) {
            Ok(holds) => shell.state.status = u8::from(!holds),
            Err(error) => {
                shell.complain(&format!("{name}: {error}"));
                shell.state.status = 2;
            }
        },
        "cd" => shell.change_directory(rest),
        "help" => {
            let lines: Vec<String> = crate::tools::TOOLS
                .iter()
                .map(|tool| format!("{} {}\n", tool.name, tool.usage))
                .collect();
            shell.print(name, lines.concat().as_bytes())?;
        }
        "break" => return Err(Leave::Break(number(rest).unwrap_or(1))),
        "continue" => return Err(Leave::Continue(number(rest).unwrap_or(1))),
        "return" | "exit" => {
            let status = number(rest).map(|status| u8::try_from(status & 0xff).unwrap_or(2));
            shell.state.status = status.unwrap_or(before);
            return Err(match name {
                "exit" => Leave::Exit,
                _ => Leave::Return,
            });
        }
        "eval" => return shell.text(&rest.join(" ")),
        "." | "source" => return shell.source(name, rest),
        "exec" => return shell.replace(rest),
        "command" | "type" => return shell.look_up(name, rest),
        "export" | "local" => shell.export(name, rest)?,
        "unset" => {
            for name in rest.iter().filter(|name| !name.starts_with('-')) {
                shell.state.unset(name);
                shell.state.functions.remove(name);
            }
        }
        "set" => shell.set_options(rest)?,
        "shift" => {
            let count = number(rest).unwrap_or(1) as usize;
            match shell.state.arguments.get(count..) {
                Some(left) => shell.state.arguments = left.to_vec(),
                None => shell.state.status = 1,
            }
        }
        "read" => shell.read(rest),
        "umask" => match rest.first() {
            None => shell.fails(name, "it sets the mask: umask 022"),
            Some(mode) => match u32::from_str_radix(mode, 8) {
                Ok(mode) => {
                    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mode & 0o777));
                }
                Err(_) => shell.fails(name, &format!("{mode:?} is no octal mode")),
            },
        },
        "wait" => shell.state.status = shell.wait_for_background(),
        _ => shell.fails(name, "not found"),
    }
    Ok(())
}

fn number(arguments: &[String]) -> Option<u32> {
    arguments.first()?.parse().ok()
}

impl Shell {
    fn print(&mut self, name: &str, bytes: &[u8]) -> Run {
        let Err(error) = self.files.write(1, bytes) else {
            return Ok(());
        };
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // The output pipe is closed: the shell ends as a program would.
            self.state.status = crate::report::BROKEN_PIPE;
            return Err(Leave::Exit);
        }
        self.complain(&format!("{name}: {error}"));
        self.state.status = 1;
        Ok(())
    }

    fn fails(&mut self, name: &str, text: &str) {
        self.complain(&format!("{name}: {text}"));
        self.state.status = 1;
    }

    /// Parses and runs a text.
    pub fn text(&mut self, text: &str) -> Run {
        match parser::parse(text) {
            Ok(script) => self.script(&script),
            Err(parser::ParseError::Incomplete) => {
                Err(self.failure("syntax error: the text ends within a command"))
            }
            Err(parser::ParseError::Wrong(error)) => Err(self.failure(&error)),
        }
    }

    fn source(&mut self, name: &str, arguments: &[String]) -> Run {
        let Some(file) = arguments.first() else {
            return Err(self.failure(&format!("{name}: the name of a file is missing")));
        };
        match std::fs::read(self.state.directory.join(file)) {
            Ok(bytes) => match self.text(&String::from_utf8_lossy(&bytes)) {
                Err(Leave::Return) => Ok(()),
                result => result,
            },
            Err(error) => Err(self.failure(&format!("{file}: {error}"))),
        }
    }

    fn change_directory(&mut self, arguments: &[String]) {
        let home = || self.state.value("HOME").unwrap_or_else(|| "/".to_owned());
        let target = match arguments.first().map(String::as_str) {
            None => home(),
            Some("-") => self.state.value("OLDPWD").unwrap_or_else(home),
            Some(target) => target.to_owned(),
        };
        let directory = without_dots(&self.state.directory.join(&target));
        match std::fs::read_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
                self.fails("cd", &format!("{target}: {error}"));
            }
            _ => {
                let before = std::mem::replace(&mut self.state.directory, directory);
                self.state.set("OLDPWD", &before.display().to_string());
            }
        }
    }

    fn look_up(&mut self, name: &str, arguments: &[String]) -> Run {
        let (only_prints, names) = match (name, arguments) {
            ("command", [option, names @ ..]) if option == "-v" || option == "-V" => (true, names),
            ("command", words) => (false, words),
            (_, names) => (true, names),
        };
        if !only_prints {
            return match names.first() {
                Some(name) if is_builtin(name) => run(self, names),
                Some(_) => {
                    let started = self
                        .program(names, &[])
                        .and_then(|mut program| program.status());
                    self.state.status = match started {
                        Ok(status) => super::run::status_of(status),
                        Err(error) => self.not_started(names, &error),
                    };
                    Ok(())
                }
                None => Ok(()),
            };
        }
        for name in names {
            let description = match self.find(name) {
                _ if self.runs_itself(name) => Some(name.clone()),
                Some(path) => Some(path.display().to_string()),
                None => None,
            };
            match description {
                Some(description) => self.print("type", format!("{description}\n").as_bytes())?,
                None => self.state.status = 127,
            }
        }
        Ok(())
    }

    fn export(&mut self, builtin: &str, arguments: &[String]) -> Run {
        if arguments.is_empty() {
            let environment = self.state.environment();
            let lines: Vec<String> = environment
                .iter()
                .map(|(name, value)| format!("export {name}={}\n", in_quotes(value)))
                .collect();
            self.print(builtin, lines.concat().as_bytes())?;
        }
        for argument in arguments {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            if !is_name(name) {
                self.fails(builtin, &format!("{name:?} is no name of a variable"));
                continue;
            }
            if let Some(value) = value {
                self.state.set(name, value);
            }
            if builtin == "export" {
                self.state.export(name);
            }
        }
        Ok(())
    }

    fn set_options(&mut self, arguments: &[String]) -> Run {
        if arguments.is_empty() {
            let lines: Vec<String> = self
                .state
                .variables()
                .map(|(name, value)| format!("{name}={}\n", in_quotes(value)))
                .collect();
            self.print("set", lines.concat().as_bytes())?;
        }
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (letters, is_on) = match (argument.strip_prefix('-'), argument.strip_prefix('+')) {
                (Some("-"), _) => {
                    self.state.arguments = rest.cloned().collect();
                    return Ok(());
                }
                (Some(letters), _) => (letters, true),
                (_, Some(letters)) => (letters, false),
                (None, None) => {
                    let first = std::iter::once(argument.clone());
                    self.state.arguments = first.chain(rest.cloned()).collect();
                    return Ok(());
                }
            };
            for letter in letters.chars() {
                if letter == 'o' {
                    // Of the long option names, only those with a supported letter have an effect.
                    let long_names = [("errexit", 'e'), ("nounset", 'u'), ("xtrace", 'x')];
                    let name = rest.next().map(String::as_str).unwrap_or_default();
                    match long_names.iter().find(|(long, _)| *long == name) {
                        Some((_, letter)) => self.set_option(*letter, is_on),
                        None => self.fails("set", &format!("there is no option {name:?}")),
                    }
                    continue;
                }
                self.set_option(letter, is_on);
            }
        }
        Ok(())
    }

    /// Sets an option by its letter.
    pub fn set_option(&mut self, letter: char, is_on: bool) {
        let options = &mut self.state.options;
        match letter {
            'e' => options.exits_on_error = is_on,
            'u' => options.unset_is_error = is_on,
            'x' => options.traces = is_on,
            'f' => options.without_patterns = is_on,
            _ => self.fails("set", &format!("there is no option -{letter}")),
        }
    }

    /// Reads a line of standard input into variables.
    fn read(&mut self, arguments: &[String]) {
        let is_raw = arguments.iter().any(|argument| argument == "-r");
        let names: Vec<&String> = arguments
            .iter()
            .filter(|argument| !argument.starts_with('-'))
            .collect();
        let mut line = Vec::new();
        let is_whole = loop {
            match self.files.read_byte() {
                Ok(Some(b'\n')) => break true,
                Ok(Some(b'\\')) if !is_raw => match self.files.read_byte() {
                    Ok(Some(b'\n')) => {}
                    Ok(Some(byte)) => line.push(byte),
                    _ => break false,
                },
                Ok(Some(byte)) => line.push(byte),
                Ok(None) => break false,
                Err(error) => {
                    self.fails("read", &error.to_string());
                    return;
                }
            }
        };
        self.state.status = u8::from(!is_whole);
        let line = String::from_utf8_lossy(&line).into_owned();
        let separators = self.state.separators();
        let is_blank = |sign: char| sign.is_whitespace() && separators.contains(sign);
        let mut rest = line.trim_matches(is_blank);
        let last = names.len().saturating_sub(1);
        for (number, name) in names.iter().enumerate() {
            let end = rest.find(|sign| separators.contains(sign));
            let (value, after) = match end.filter(|_| number < last) {
                Some(end) => rest.split_at(end),
                None => (rest, ""),
            };
            self.state.set(name, value);
            let after = after.trim_start_matches(is_blank);
            // Between two values there is one separator that is not a blank.
            let skipped = after.strip_prefix(|sign| separators.contains(sign));
            rest = skipped.unwrap_or(after).trim_start_matches(is_blank);
        }
        if names.is_empty() {
            self.state.set("REPLY", &line);
        }
    }
}

/// A value in quotes, so that the shell reads it back.
fn in_quotes(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// Resolves `.` and `..` in the path as typed, without resolving symbolic links.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}
