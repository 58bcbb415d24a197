//! The shell: `sh`, interactive or with a script.

mod arithmetic;
mod builtins;
pub mod condition;
mod expand;
mod input;
mod parser;
pub mod pattern;
mod redirect;
mod run;
mod state;
mod syntax;
mod words;

use std::io::IsTerminal;
use std::os::fd::OwnedFd;

use crate::ending::{self, Interrupts};
use crate::options::{Options, ToolOptions};
use crate::report::complain;

use input::{Input, Line};
use parser::ParseError;
use run::{Leave, Shell};
use state::ShellState;

/// The names of the shell.
pub const NAMES: [&str; 3] = ["ash", "bash", "sh"];

const USAGE: &str = "usage: sh [-eiux] [-c COMMANDS [NAME]] [FILE] [ARGUMENT…]";

const FAILED: u8 = 2;
const NOT_FOUND: u8 = 127;

/// The source of commands.
enum Source {
    Text(String),
    Lines(Input),
}

/// Runs the shell. Returns its exit status.
pub fn main(arguments: &[String]) -> u8 {
    let tool_options = ToolOptions {
        flags: "eiusxlf",
        valued: "c",
        long: &[("login", 'l'), ("noprofile", 'l'), ("norc", 'l')],
        ends_at_operand: true,
    };
    let options = match Options::read(arguments, tool_options) {
        Ok(options) => options,
        Err(error) => {
            complain(&format!("sh: {error}\n{USAGE}"));
            return FAILED;
        }
    };
    let mut operands = options.operands.clone().into_iter();
    let commands = options.value('c').map(str::to_owned);
    let file = match &commands {
        None if !options.has('s') => operands.next(),
        _ => None,
    };
    let name = match (&commands, &file) {
        (Some(_), _) => operands.next(),
        (None, file) => file.clone(),
    };
    let name = name.unwrap_or_else(|| "sh".to_owned());
    let reads_input = commands.is_none() && file.is_none();
    let is_interactive = options.has('i')
        || (reads_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal());

    let (interrupts, interrupts_pipe) = match follow_signals(is_interactive) {
        Ok(follow_result) => follow_result,
        Err(error) => {
            complain(&format!("sh: watch for signals: {error}"));
            return FAILED;
        }
    };
    let source = match (commands, file) {
        (Some(text), _) => Source::Text(text),
        (None, Some(file)) => match std::fs::read(&file) {
            Ok(bytes) => Source::Text(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => {
                complain(&format!("sh: {file}: {error}"));
                return NOT_FOUND;
            }
        },
        (None, None) => Source::Lines(Input::new(is_interactive, interrupts_pipe)),
    };
    let arguments: Vec<String> = operands.collect();
    let state = ShellState::of_process(&name, &arguments);
    let mut shell = match Shell::new(state, interrupts.clone()) {
        Ok(shell) => shell,
        Err(error) => {
            complain(&format!("sh: {error}"));
            return FAILED;
        }
    };
    for letter in ['e', 'u', 'x', 'f'] {
        if options.has(letter) {
            shell.set_option(letter, true);
        }
    }
    match source {
        Source::Text(text) => {
            // The status reports the result.
            shell.text(&text).ok();
        }
        Source::Lines(input) => follow_lines(&mut shell, &input, &interrupts),
    }
    shell.state.status
}

fn follow_signals(is_interactive: bool) -> std::io::Result<(Interrupts, Option<OwnedFd>)> {
    if is_interactive {
        let (interrupts, interrupts_pipe) = Interrupts::catch()?;
        return Ok((interrupts, Some(interrupts_pipe)));
    }
    ending::follow_signals_if_first();
    Ok((Interrupts::none(), None))
}

/// Reads and runs command after command.
fn follow_lines(shell: &mut Shell, input: &Input, interrupts: &Interrupts) {
    let mut text = String::new();
    loop {
        let line = input.line(shell, !text.is_empty());
        let is_end = match line {
            Line::Text(line) => {
                text.push_str(&line);
                false
            }
            Line::Interrupted => {
                interrupts.take_pending();
                text.clear();
                continue;
            }
            Line::End => true,
        };
        let script = match parser::parse(&text) {
            Ok(script) => script,
            Err(ParseError::Incomplete) if !is_end => continue,
            Err(error) => {
                let error = match error {
                    ParseError::Incomplete => "syntax error: the text ends within a command".into(),
                    ParseError::Wrong(error) => error,
                };
                shell.complain(&error);
                shell.state.status = FAILED;
                text.clear();
                match is_end || !input.is_interactive() {
                    true => return,
                    false => continue,
                }
            }
        };
        text.clear();
        let result = shell.script(&script);
        if interrupts.take_pending() {
            shell.files.write(2, b"\n").ok();
        }
        match result {
            Err(Leave::Exit) => return,
            Err(Leave::Line) if !input.is_interactive() => return,
            _ if is_end => {
                if input.is_interactive() {
                    shell.files.write(2, b"\n").ok();
                }
                return;
            }
            _ => {}
        }
    }
}
