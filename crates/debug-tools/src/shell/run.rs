//! Runs parsed commands.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread::JoinHandle;

use super::builtins;
use super::pattern;
use super::state::{Files, ShellState};
use super::syntax::{Chain, Command, Compound, Join, ListItem, Pipeline, Redirect, Script, Word};
use crate::ending::Interrupts;

/// A running shell.
#[derive(Debug)]
pub struct Shell {
    pub state: ShellState,
    /// The open files of the current command.
    pub files: Files,
    interrupts: Interrupts,
    /// The nesting depth of functions and subshells.
    depth: u32,
    /// Whether the shell is a copy, whose `exec` must not replace the process.
    is_subshell: bool,
    /// Whether the status is tested (`if`, `&&`, `!`), so that a failure does not end the shell.
    is_tested: bool,
    background: Vec<JoinHandle<u8>>,
}

/// The reason why the following commands do not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// `break`: the number of loops to leave.
    Break(u32),
    /// `continue`
    Continue(u32),
    /// `return`
    Return,
    /// `exit`
    Exit,
    /// A reported error, or a Ctrl-C: an interactive shell continues.
    Line,
}

/// Maximum nesting of functions and subshells: each uses stack.
const DEPTH_MAX: u32 = 100;

/// The stack of threads, which is usually that of the first thread, too.
const STACK: usize = 8 << 20;

/// Exit statuses.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
const FAILED: u8 = 2;
const INTERRUPTED: u8 = 130;

/// The result of commands; the status is in the shell's state.
pub type Run = Result<(), Leave>;

impl Shell {
    /// A shell with the process's files.
    pub fn new(state: ShellState, interrupts: Interrupts) -> io::Result<Self> {
        Ok(Self {
            state,
            files: Files::of_process()?,
            interrupts,
            depth: 0,
            is_subshell: false,
            is_tested: false,
            background: Vec::new(),
        })
    }

    /// A copy of the shell for a subshell.
    pub fn copy(&self) -> Self {
        Self {
            state: self.state.clone(),
            files: self.files.clone(),
            interrupts: self.interrupts.clone(),
            depth: self.depth + 1,
            is_subshell: true,
            is_tested: self.is_tested,
            background: Vec::new(),
        }
    }

    /// Runs a subshell. Returns its status.
    pub fn run_apart(&mut self, run: impl FnOnce(&mut Self) -> Run) -> u8 {
        if self.depth > DEPTH_MAX {
            self.complain("subshells are nested too deep");
            return FAILED;
        }
        // The status reports the result.
        run(self).ok();
        self.state.status
    }

    /// Prints an error message.
    pub fn complain(&self, text: &str) {
        let line = format!("{}: {text}\n", self.state.name);
        self.files.write(2, line.as_bytes()).ok();
    }

    /// Prints an error message; the result stops the following commands.
    pub fn failure(&mut self, text: &str) -> Leave {
        self.complain(text);
        self.state.status = FAILED;
        Leave::Line
    }

    /// Runs commands.
    pub fn script(&mut self, script: &Script) -> Run {
        script.0.iter().try_for_each(|item| self.item(item))
    }

    fn item(&mut self, item: &ListItem) -> Run {
        match item.in_background {
            true => self.in_background(&item.chain),
            false => self.chain(&item.chain),
        }
    }

    fn in_background(&mut self, chain: &Chain) -> Run {
        let mut shell = self.copy();
        shell.files.close(0);
        // Only a single program has a process ID and can be killed.
        let child = match (&chain.first.commands[..], &chain.rest[..]) {
            (
                [
                    Command::Simple {
                        assignments,
                        words,
                        redirects,
                    },
                ],
                [],
            ) if assignments.is_empty() => {
                shell.redirect(redirects)?;
                let arguments = shell.arguments_of(words)?;
                match arguments.first() {
                    Some(name) if !shell.runs_itself(name) => match shell.start(&arguments, &[]) {
                        Ok(child) => Some(child),
                        Err(status) => {
                            self.state.status = status;
                            return Ok(());
                        }
                    },
                    _ => None,
                }
            }
            _ => None,
        };
        self.state.background = child.as_ref().map(Child::id);
        let chain = chain.clone();
        let work = move || match child {
            Some(mut child) => child.wait().map_or(FAILED, status_of),
            None => shell.run_apart(|shell| shell.chain(&chain)),
        };
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(work);
        match thread {
            Ok(thread) => self.background.push(thread),
            Err(error) => return Err(self.failure(&error.to_string())),
        }
        self.state.status = 0;
        Ok(())
    }

    /// Waits for all background commands. Returns the status of the last one.
    pub fn wait_for_background(&mut self) -> u8 {
        let mut status = 0;
        for thread in self.background.drain(..) {
            status = thread.join().unwrap_or(FAILED);
        }
        status
    }

    fn chain(&mut self, chain: &Chain) -> Run {
        let last = chain.rest.len();
        let all = chain
            .rest
            .iter()
            .map(|(join, pipeline)| (Some(*join), pipeline));
        let all = std::iter::once((None, &chain.first)).chain(all);
        for (number, (join, pipeline)) in all.enumerate() {
            let succeeded = self.state.status == 0;
            match join {
                Some(Join::AfterSuccess) if !succeeded => continue,
                Some(Join::AfterFailure) if succeeded => continue,
                _ => {}
            }
            let before = self.is_tested;
            self.is_tested |= number < last || pipeline.is_negated;
            let result = self.pipeline(pipeline);
            let is_tested = std::mem::replace(&mut self.is_tested, before);
            result?;
            if self.state.options.exits_on_error && !is_tested && self.state.status != 0 {
                return Err(Leave::Exit);
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline) -> Run {
        if self.interrupts.is_pending() {
            self.state.status = INTERRUPTED;
            return Err(Leave::Line);
        }
        match &pipeline.commands[..] {
            [command] => self.command(command)?,
            commands => self.piped(commands)?,
        }
        if pipeline.is_negated {
            self.state.status = u8::from(self.state.status == 0);
        }
        Ok(())
    }

    fn piped(&mut self, commands: &[Command]) -> Run {
        let mut threads = Vec::new();
        let mut input = None;
        for (number, command) in commands.iter().enumerate() {
            let mut shell = self.copy();
            if let Some(input) = input.take() {
                shell.files.put(0, input);
            }
            if number + 1 == commands.len() {
                self.state.status = shell.run_apart(|shell| shell.command(command));
                break;
            }
            let (reader, writer) = io::pipe().map_err(|error| self.failure(&error.to_string()))?;
            input = Some(reader.into());
            shell.files.put(1, writer.into());
            let command = command.clone();
            let work = move || shell.run_apart(|shell| shell.command(&command));
            let thread = std::thread::Builder::new().stack_size(STACK).spawn(work);
            threads.push(thread.map_err(|error| self.failure(&error.to_string()))?);
        }
        for thread in threads {
            // The status of a pipeline is that of its last command only.
            thread.join().ok();
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) -> Run {
        match command {
            Command::Simple {
                assignments,
                words,
                redirects,
            } => {
                let before = self.files.clone();
                let mut keeps_files = false;
                let result = self.simple(assignments, words, redirects, &mut keeps_files);
                if !keeps_files {
                    self.files = before;
                }
                result
            }
            Command::Compound { body, redirects } => {
                let before = self.files.clone();
                let result = match self.redirect(redirects) {
                    Ok(()) => self.compound(body),
                    Err(leave) => Err(leave),
                };
                self.files = before;
                result
            }
            Command::Function { name, body } => {
                self.state.functions.insert(name.clone(), body.clone());
                self.state.status = 0;
                Ok(())
            }
        }
    }

    fn simple(
        &mut self,
        assignments: &[(String, Word)],
        words: &[Word],
        redirects: &[Redirect],
        keeps_files: &mut bool,
    ) -> Run {
        let before = self.state.status;
        let arguments = self.arguments_of(words)?;
        if arguments.is_empty() {
            // The status of an assignment is that of its last command substitution.
            self.state.status = 0;
        }
        let mut values = Vec::new();
        for (name, word) in assignments {
            let value = self.text_of(word)?;
            if arguments.is_empty() {
                self.state.set(name, &value);
            }
            values.push((name.clone(), value));
        }
        self.trace(&values, &arguments);
        if let Err(error) = self.try_redirect(redirects)? {
            self.complain(&error.to_string());
            self.state.status = 1;
            return Ok(());
        }
        let Some(name) = arguments.first() else {
            return Ok(());
        };
        if name == "exec" {
            *keeps_files = arguments.len() == 1;
        }
        if !self.runs_itself(name) {
            self.state.status = match self.start(&arguments, &values) {
                Ok(mut child) => child.wait().map_or(FAILED, status_of),
                Err(status) => status,
            };
            return Ok(());
        }
        let restored: Vec<(String, Option<String>)> = values
            .iter()
            .map(|(name, _)| (name.clone(), self.state.value(name)))
            .collect();
        for (name, value) in &values {
            self.state.set(name, value);
        }
        self.state.status = before;
        let result = self.run_function_or_builtin(&arguments);
        for (name, value) in restored {
            self.state.restore(&name, value);
        }
        result
    }

    fn trace(&self, values: &[(String, String)], arguments: &[String]) {
        if self.state.options.traces {
            let values = values.iter().map(|(name, value)| format!("{name}={value}"));
            let words: Vec<String> = values.chain(arguments.iter().cloned()).collect();
            let line = format!("+ {}\n", words.join(" "));
            self.files.write(2, line.as_bytes()).ok();
        }
    }

    /// Whether the shell runs the command without a program.
    pub fn runs_itself(&self, name: &str) -> bool {
        self.state.functions.contains_key(name) || builtins::is_builtin(name)
    }

    fn run_function_or_builtin(&mut self, arguments: &[String]) -> Run {
        let name = arguments.first().map_or("", String::as_str);
        let Some(function) = self.state.functions.get(name).cloned() else {
            return builtins::run(self, arguments);
        };
        if self.depth >= DEPTH_MAX {
            return Err(self.failure("functions are nested too deep"));
        }
        let positional = arguments.get(1..).unwrap_or_default().to_vec();
        let before = std::mem::replace(&mut self.state.arguments, positional);
        self.depth += 1;
        let result = self.command(&function);
        self.depth -= 1;
        self.state.arguments = before;
        match result {
            Err(Leave::Return) => Ok(()),
            result => result,
        }
    }

    /// The path of a program.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            return Some(self.state.directory.join(name));
        }
        let path = self.state.value("PATH").unwrap_or_default();
        let mut candidates = path
            .split(':')
            .map(|directory| self.state.directory.join(directory).join(name));
        candidates.find(|candidate| {
            use std::os::unix::fs::PermissionsExt;
            let facts = candidate.metadata();
            facts.is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
        })
    }

    /// The process builder for a program.
    pub fn program(
        &self,
        arguments: &[String],
        values: &[(String, String)],
    ) -> io::Result<std::process::Command> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, "not found");
        let name = arguments.first().ok_or_else(not_found)?;
        let path = self.find(name).ok_or_else(not_found)?;
        let mut program = std::process::Command::new(path);
        program
            .arg0(name)
            .args(arguments.get(1..).unwrap_or_default())
            .env_clear()
            .envs(self.state.environment())
            .envs(values.iter().cloned())
            .current_dir(&self.state.directory)
            .stdin(self.files.for_program(0)?)
            .stdout(self.files.for_program(1)?)
            .stderr(self.files.for_program(2)?);
        Ok(program)
    }

    /// `exec`: replaces the shell by the program; a subshell has no process, so it waits for the program.
    /// Without a program, the redirections stay in effect.
    pub fn replace(&mut self, arguments: &[String]) -> Run {
        if arguments.is_empty() {
            return Ok(());
        }
        self.state.status = match self.is_subshell {
            true => match self.start(arguments, &[]) {
                Ok(mut child) => child.wait().map_or(FAILED, status_of),
                Err(status) => status,
            },
            false => {
                let error = match self.program(arguments, &[]) {
                    Ok(mut program) => program.exec(),
                    Err(error) => error,
                };
                self.not_started(arguments, &error)
            }
        };
        Err(Leave::Exit)
    }

    /// Starts a program; on failure, prints the error and returns the status.
    fn start(&self, arguments: &[String], values: &[(String, String)]) -> Result<Child, u8> {
        let started = self
            .program(arguments, values)
            .and_then(|mut program| program.spawn());
        started.or_else(|error| {
            if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
                && let Some(path) = arguments.first().and_then(|name| self.find(name))
            {
                return self.start_script(&path, arguments, values);
            }
            Err(self.not_started(arguments, &error))
        })
    }

    /// Runs a file without `#!` as a script of this shell.
    fn start_script(
        &self,
        path: &Path,
        arguments: &[String],
        values: &[(String, String)],
    ) -> Result<Child, u8> {
        let mut words = vec!["/proc/self/exe".to_owned(), path.display().to_string()];
        words.extend_from_slice(arguments.get(1..).unwrap_or_default());
        let started = self.program(&words, values).and_then(|mut program| {
            program.arg0("sh");
            program.spawn()
        });
        started.map_err(|error| self.not_started(arguments, &error))
    }

    /// Prints why a program was not started; returns the status for that error.
    pub fn not_started(&self, arguments: &[String], error: &io::Error) -> u8 {
        let name = arguments.first().map_or("", String::as_str);
        match error.kind() {
            io::ErrorKind::NotFound => {
                self.complain(&format!("{name}: not found"));
                NOT_FOUND
            }
            _ => {
                self.complain(&format!("{name}: {error}"));
                NOT_STARTED
            }
        }
    }

    fn compound(&mut self, body: &Compound) -> Run {
        match body {
            Compound::Group(script) => self.script(script),
            Compound::Subshell(script) => {
                self.state.status = self.copy().run_apart(|shell| shell.script(script));
                Ok(())
            }
            Compound::If {
                branches,
                otherwise,
            } => {
                for (condition, script) in branches {
                    if self.holds(condition)? {
                        return self.script(script);
                    }
                }
                self.state.status = 0;
                self.script(otherwise)
            }
            Compound::Loop {
                until,
                condition,
                body,
            } => {
                let mut status = 0;
                while self.holds(condition)? != *until {
                    if !self.run_iteration(body)? {
                        break;
                    }
                    status = self.state.status;
                }
                self.state.status = status;
                Ok(())
            }
            Compound::For { name, values, body } => {
                let values = match values {
                    Some(words) => self.arguments_of(words)?,
                    None => self.state.arguments.clone(),
                };
                self.state.status = 0;
                for value in values {
                    self.state.set(name, &value);
                    if !self.run_iteration(body)? {
                        break;
                    }
                }
                Ok(())
            }
            Compound::Case { word, branches } => {
                let text: Vec<char> = self.text_of(word)?.chars().collect();
                self.state.status = 0;
                for (patterns, script) in branches {
                    for word in patterns {
                        let signs = self.signs_of(word)?;
                        if pattern::matches(&signs, &text) {
                            return self.script(script);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn holds(&mut self, condition: &Script) -> Result<bool, Leave> {
        let before = std::mem::replace(&mut self.is_tested, true);
        let result = self.script(condition);
        self.is_tested = before;
        result?;
        Ok(self.state.status == 0)
    }

    /// Runs the body of a loop once. Returns whether the loop continues.
    fn run_iteration(&mut self, body: &Script) -> Result<bool, Leave> {
        if self.interrupts.is_pending() {
            self.state.status = INTERRUPTED;
            return Err(Leave::Line);
        }
        match self.script(body) {
            Ok(()) | Err(Leave::Continue(0 | 1)) => Ok(true),
            Err(Leave::Break(0 | 1)) => Ok(false),
            Err(Leave::Break(loops)) => Err(Leave::Break(loops - 1)),
            Err(Leave::Continue(loops)) => Err(Leave::Continue(loops - 1)),
            Err(leave) => Err(leave),
        }
    }
}

/// The shell's status for the exit status of a program.
pub fn status_of(status: ExitStatus) -> u8 {
    let signalled = || status.signal().map(|signal| 128 + signal);
    let code = status.code().or_else(signalled).unwrap_or_default();
    u8::try_from(code & 0xff).unwrap_or(FAILED)
}
